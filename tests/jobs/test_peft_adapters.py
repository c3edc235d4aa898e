"""Adapters that PEFT and TRL have saved are scored as PEFT itself computes them, or refused before the weights are loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, PeftModel, PromptTuningConfig, get_peft_model
from peft import LoraConfig as PeftLoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import paft
from paft.config.adapter import find_adapter
from paft.data.checks import LeftOut
from paft.data.encode import Encoded
from paft.evaluation.store import read_cells
from paft.jobs.encoder import make_encoder
from paft.jobs.evaluate import prepare, run_evaluation
from paft.model.base import weights_fingerprint
from paft.prompts.seen import Seen
from paft.reporting.collect import without_places
from paft.reporting.results import Results, read_results
from paft.runtime.errors import InputError
from tests.conftest import compose_evaluation
from tests.local_hub import LocalHub
from tests.model.test_architectures import answer_log_probs
from tests.reliability.bad_inputs.files import lines, question
from tests.tiny_gguf import save_tiny_gguf

PROMPTS = [{"text": "{question} Is it {A} (A) or {B} (B)?"}, {"text": "(A) {A}, (B) {B}: which letter for {question}"}]


def save_base(tokenizer: Path, folder: Path, **changes: Any) -> Path:
    """Save a tiny random Llama with biases, and the tokenizer of the tiny Llama."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "attention_bias": True, "eos_token_id": 0, "initializer_range": 0.2}
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes | more | changes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tiny_llama, tmp_path_factory.mktemp("models") / "base")


def save_peft(base: Path, folder: Path, config: Any = None, **settings: Any) -> Path:
    """Let PEFT make an adapter of the base, give it weights that change scores much, and let PEFT save it."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config or PeftLoraConfig(**settings))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return save_peft(base, tmp_path / "lora")


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """Overrides that name rows and prompts of one's own, as a newcomer would, and make an evaluation of a second."""
    (tmp_path / "rows.jsonl").write_text(lines(*map(question, range(6))))
    (tmp_path / "mine.jsonl").write_text(lines(*PROMPTS))
    rows = [f"dataset.path={tmp_path / 'rows.jsonl'}", "dataset.choices=[A,B]", "dataset.gold=answer"]
    machine = ["trainer.accelerator=cpu", "trainer.progress=false", "model.dtype=fp32"]
    return [*rows, f"prompts.test={tmp_path / 'mine.jsonl'}", f"output_root={tmp_path / 'runs'}", *machine]


def evaluated(*overrides: str) -> Results:
    return run_evaluation(compose_evaluation(*overrides))


def cells_of(*overrides: str) -> list[Encoded]:
    evaluation = prepare(compose_evaluation(*overrides))
    encoder, inputs = evaluation.encoder, evaluation.inputs
    return [encoder.scoring(template, example) for template in inputs.pool.templates for example in inputs.examples]


@torch.no_grad()
def scored_by(model: Any, cells: list[Encoded]) -> torch.Tensor:
    """Return the log-probability of each choice of each cell (prompts * examples, choices), one plain pass for each."""
    scores = [[answer_log_probs(model, cell.context, choice).sum() for choice in cell.continuations] for cell in cells]
    return torch.tensor(scores)


def of_another_base(results: Results) -> list[str]:
    return [warning for warning in results.warnings if warning.startswith("The adapter names ")]


def log_probs(results: Results) -> torch.Tensor:
    return torch.tensor(read_cells(results.folder / "matrix.parquet")["log_probs"].to_pylist())


KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True, "r": 8},
    "DoRA and rsLoRA on all layers": {"use_dora": True, "use_rslora": True, "target_modules": "all-linear"},
    "ranks and scales of their own": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 32}},
    "some layers": {"layers_to_transform": [1], "exclude_modules": ["v_proj"]},
    "biases": {"bias": "all"},
    "biases of its layers": {"bias": "lora_only"},
    "a bias of its own": {"lora_bias": True},
    "a bias of its own where there is none": {"lora_bias": True, "target_modules": ["gate_proj"]},
    "a whole head": {"modules_to_save": ["lm_head"]},
    "whole embeddings": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "LoRA on embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "some tokens": {"trainable_token_indices": {"embed_tokens": [3, 40, 41, 42]}},
    "Gaussian beginning": {"init_lora_weights": "gaussian"},
    "without a task": {"task_type": None},
}
NOT_MERGED = {"a bias of its own where there is none", "some tokens"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_has_saved_scores_as_peft_computes_it(kind, base, asked, tmp_path):
    folder = save_peft(base, tmp_path / "adapter", **KINDS[kind])
    typed = [f"adapter={folder}", *asked]
    results, cells = evaluated(*typed), cells_of(*typed)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert results.fingerprints.base_model.sample == weights_fingerprint(plain)["sample"]  # whatever the adapter has replaced
    of_base = scored_by(plain, cells[:2])
    wanted = scored_by(PeftModel.from_pretrained(plain, folder).eval(), cells)
    assert (wanted[:2] - of_base).abs().max() > 0.01
    torch.testing.assert_close(log_probs(results), wanted, rtol=1e-4, atol=1e-4)
    assert results.scoring.merged == (kind not in NOT_MERGED)


def test_the_results_say_what_is_known_and_what_is_not(adapter, base, asked, capsys):
    results = evaluated(f"adapter={adapter}", *asked)
    assert results.run.startswith("eval-jsonl-base-adapter-likelihood-") and not results.is_base
    assert (results.adapter, results.trained_by, of_another_base(results)) == (str(adapter), None, [])
    assert results.config["model"]["path"] == str(base)
    lora = results.config["model"]["lora"]
    assert (lora["r"], lora["alpha"], {*lora["target_modules"]}) == (4, 8, {"q_proj", "v_proj"})
    assert results.test_prompts_seen == Seen(copies=None, near_copies=None) and not results.unseen
    assert results.test_rows_left_out == LeftOut(equal_choices=0, training_rows=None)
    said = capsys.readouterr().out
    assert said.count("Whether the test prompts were trained on is not known") == 2
    assert said.count("Whether test rows are training rows is not known") == 2 and "tokenizer" not in said
    kept = without_places(results)  # in the page of a sweep
    assert kept.adapter == kept.config["adapter"] == "lora" and not kept.is_base
    assert "unseen" not in (results.folder / "report.html").read_text().partition("<pre>")[0].replace("unseen.jsonl", "")


def test_prompts_of_a_neighbour_are_not_those_of_its_run(base, asked, tmp_path):
    """Beside the folder of a stock adapter may lie prompts that have nothing to do with it."""
    save_peft(base, tmp_path / "lora")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "train.yaml").write_text("prompts:\n  - text: '{question} Is it {A} (A) or {B} (B)?'\n")
    assert evaluated(f"adapter={tmp_path / 'lora'}", *asked).test_prompts_seen == Seen(None, None)


def test_from_python(adapter, base, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = {"choices": ["A", "B"], "gold": "answer", "prompts": [prompt["text"] for prompt in PROMPTS]}
    machine = {"trainer": {"accelerator": "cpu", "progress": False}}
    rows = [question(n) for n in range(6)]
    results = paft.evaluate(adapter, rows, model={"dtype": "fp32"}, **task, **machine)
    assert results.robustness == evaluated(f"adapter={adapter}", *asked).robustness
    of_base = paft.evaluate(rows=rows, model={"path": base, "dtype": "fp32"}, **task, **machine)
    assert of_base.is_base and paft.compare(results, of_base).verdict


def test_a_tokenizer_beside_an_adapter_is_used_and_said_where_it_differs(adapter, base, asked, capsys):
    typed = [f"adapter={adapter}", *asked]
    before = prepare(compose_evaluation(*typed))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.padding_side = "left"  # as TRL may leave it; nothing is padded here
    tokenizer.save_pretrained(adapter)
    same = prepare(compose_evaluation(*typed))
    assert same.inputs.notes == before.inputs.notes and same.encoder.fingerprint == before.encoder.fingerprint
    tokenizer.add_special_tokens({"eos_token": "~"})  # a token that the model has
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(adapter)
    results = evaluated(*typed)
    line = "tokenizer: the adapter's own, which differs from its base model's in its end-of-text token and its chat template"
    assert line in capsys.readouterr().out
    config = compose_evaluation(*typed)
    assert make_encoder(config, before.inputs.task).end_id == tokenizer.eos_token_id != before.encoder.end_id
    assert results.run not in (before.name, same.name)
    (adapter / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"the tokenizer beside it cannot be loaded \("):
        prepare(config)


def test_another_base_model_than_the_adapter_names_is_said(adapter, base, asked, tmp_path, capsys):
    moved = Path(shutil.copytree(base, tmp_path / "elsewhere" / "base"))
    assert not of_another_base(evaluated(f"adapter={adapter}", f"model.path={moved}", *asked))
    other = Path(shutil.copytree(base, tmp_path / "other"))
    results = evaluated(f"adapter={adapter}", f"model.path={other}", *asked)
    (warning,) = of_another_base(results)
    assert warning.startswith(f"The adapter names {base} as its base model and is put on {other}: their shapes agree")
    assert capsys.readouterr().out.count("BEWARE: The adapter names") == 2
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone/base"}))
    assert not of_another_base(evaluated(f"adapter={adapter}", f"model.path={moved}", *asked))
    with pytest.raises(
        InputError, match=r"its base model, /gone/base, is not on this machine; give it with model\.path=\.\.\.$"
    ):
        compose_evaluation(f"adapter={adapter}", *asked)


def change_config(**changes: Any) -> Callable[[Path, Path], None]:
    def change(_: Path, folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def without_a_weight(_: Path, folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[1:]), folder / "adapter_model.safetensors")


def with_one_more(_: Path, folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}, file)


def torn(_: Path, folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def with_more_words(base: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(520)
    get_peft_model(model, PeftLoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(folder)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (change_config(r=8), "lora_A.weight is 4 x 32, where {base} has 8 x 32; give the base model that it was trained on"),
        (change_config(target_modules=["c_attn"]), "it is damaged, or not one of {base} ("),
        (change_config(target_modules=["q_proj"]), "its weights are not those of an adapter of {base} (it holds base_model."),
        (without_a_weight, "its weights are not those of an adapter of {base} (it lacks base_model."),
        (with_one_more, "its weights are not those of an adapter of {base} (it holds base_model.model.model.layers.7"),
        (torn, "it is damaged, or not one of {base} (SafetensorError)."),
        (with_more_words, "or, if its vocabulary was enlarged for the adapter, the two merged into one."),
    ],
    ids=["rank", "no such layer", "fewer layers", "lacks", "more", "torn", "vocabulary"],
)
def test_weights_that_do_not_fit_are_refused_before_the_base_is_loaded(
    harm, sentence, base, adapter, asked, tmp_path, monkeypatch
):
    monkeypatch.setattr("paft.jobs.evaluate.load_base", lambda *_: pytest.fail("the model was loaded"))
    harm(base, adapter)
    with pytest.raises(InputError) as error:
        evaluated(f"adapter={adapter}", *asked)
    assert str(error.value).startswith(f"adapter={adapter}: ") and sentence.format(base=base) in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_base_of_other_sizes_is_refused(adapter, tiny_llama, asked, tmp_path):
    wide = save_base(tiny_llama, tmp_path / "wide" / "base", hidden_size=64)
    with pytest.raises(InputError, match=r"q_proj\.lora_A\.weight is 4 x 32, where .*base has 4 x 64"):
        evaluated(f"adapter={adapter}", f"model.path={wide}", *asked)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "PROMPT_TUNING"),
        (IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"), "IA3"),
    ],
    ids=["prompt tuning", "IA3"],
)
def test_other_kinds_of_adapters_are_refused_by_name(config, kind, base, asked, tmp_path):
    folder = save_peft(base, tmp_path / "other", config)
    with pytest.raises(InputError, match=rf"other: it is of the kind {kind}, and only LoRA \(DoRA, rsLoRA\) is put on a model"):
        compose_evaluation(f"adapter={folder}", *asked)


def test_a_hubs_adapter_is_evaluated_on_the_hubs_base_and_pinned_by_its_commit(local_hub: LocalHub, base, asked):
    shutil.copytree(base, local_hub.root / "org" / "base")
    save_peft(base, local_hub.root / "org" / "lora")
    change_config(base_model_name_or_path="org/base")(base, local_hub.root / "org" / "lora")
    (local_hub.root / "org" / "lora" / "optimizer.pt").write_bytes(b"not asked for")
    commit = local_hub.commit("org/lora")
    results = evaluated("adapter=org/lora", *asked)
    assert results.adapter == f"org/lora@{commit}" and results.fingerprints.base_model.hub_commit == local_hub.commit(
        "org/base"
    )
    assert results.run.startswith("eval-jsonl-base-adapter-") and not of_another_base(results)
    assert not any("optimizer.pt" in path for path in local_hub.asked)
    here = evaluated(f"adapter={local_hub.root / 'org' / 'lora'}", *asked)  # the same files in a folder
    assert here.run == results.run and read_results(results.folder) == results
    kept = without_places(results)
    assert kept.adapter == f"org/lora@{commit}"
    # Another commit is another adapter; the first one goes by its name still, and needs no hub.
    save_peft(base, local_hub.root / "org" / "lora", r=2)
    change_config(base_model_name_or_path="org/base")(base, local_hub.root / "org" / "lora")
    local_hub.asked.clear()
    assert find_adapter(results.adapter).folder.name == commit and not local_hub.asked
    with pytest.raises(
        InputError, match=r"^adapter=org/lora: there is no such folder, and the hub gives this machine no adapter"
    ):
        find_adapter("org/lora@v2")
    with pytest.raises(
        InputError, match=r"^adapter=org/none: .*\(RepositoryNotFoundError\); .*give a folder with the adapter\.$"
    ):
        find_adapter("org/none")


def test_a_hub_out_of_reach_leaves_the_adapter_that_was_downloaded(local_hub: LocalHub, base, asked, monkeypatch):
    from huggingface_hub import constants

    from paft.config.adapter import _downloaded

    save_peft(base, local_hub.root / "org" / "lora")
    before = find_adapter("org/lora")
    _downloaded.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_adapter("org/lora") == before
    with pytest.raises(
        InputError, match=r"^adapter=org/other: .*where the hub is out of reach, give a folder with the adapter"
    ):
        find_adapter("org/other")


def test_a_gguf_file_is_evaluated_with_nothing_else_given(tiny_llama, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("PAFT_CACHE", str(tmp_path / "cache"))
    save_tiny_gguf(tiny_llama, tmp_path / "tiny.gguf")
    results = evaluated(f"model.path={tmp_path / 'tiny.gguf'}", *asked)
    assert results.run.startswith("eval-jsonl-tiny.gguf-base-likelihood-") and results.is_base
    adapter = save_peft(tiny_llama, tmp_path / "lora")
    adapted = evaluated(f"adapter={adapter}", f"model.path={tmp_path / 'tiny.gguf'}", *asked)
    assert of_another_base(adapted)  # it names the folder

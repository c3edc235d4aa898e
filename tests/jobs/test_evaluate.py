"""evaluate.py from config to files, on a tiny model with a tiny adapter."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from paft.config.schema import CHAT_TEMPLATE_DATE
from paft.data.checks import LeftOut
from paft.data.tasks.story_facts import generate_rows
from paft.evaluation.matrix import read_matrix
from paft.evaluation.store import read_cells
from paft.jobs.evaluate import run_evaluation
from paft.jobs.train import run_training
from paft.prompts.seen import Seen
from paft.reporting.results import Results, read_results
from paft.runtime.errors import InputError
from tests.commands import run_command
from tests.conftest import compose_config, compose_evaluation
from tests.reliability.bad_inputs.files import lines, question

OWN_PROMPTS = [{"text": "{question} A: {A} B: {B}\nAnswer:"}, {"text": "Choose A ({A}) or B ({B}). {question}"}]
UNSEEN = [{"text": "{question} Is it {A} (A) or {B} (B)?"}, {"text": "(A) {A}, (B) {B}: which letter for {question}"}]
SMALL = [
    "model.dtype=fp32", "trainer.accelerator=cpu", "trainer.progress=false", "train_examples=16", "T=1", "eval_examples=12",
    "eval_prompts=4", "validation.prompts=2", "validation.examples=4", "score_base=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_llama, tmp_path_factory) -> Path:
    """The folder of a finished run on story_facts."""
    root = tmp_path_factory.mktemp("runs")
    return run_training(compose_config(*SMALL, f"model.path={tiny_llama}", f"output_root={root}")).folder


@pytest.fixture(scope="module")
def own(tiny_llama, tmp_path_factory) -> Path:
    """The folder of a finished run on somebody's own rows, with letters."""
    root = tmp_path_factory.mktemp("own")
    for name, first in (("train", 0), ("test", 100)):
        (root / f"{name}.jsonl").write_text(lines(*map(question, range(first, first + 30))))
    (root / "prompts.jsonl").write_text(lines(*OWN_PROMPTS))
    (root / "unseen.jsonl").write_text(lines(*UNSEEN))
    files = [f"dataset.path={root}", f"prompts.train={root}/prompts.jsonl", f"prompts.test={root}/unseen.jsonl"]
    own = ["dataset=jsonl", "dataset.gold=answer", "dataset.choices=[A,B]", *files]
    return run_training(compose_config(*SMALL, *own, f"model.path={tiny_llama}", f"output_root={root / 'runs'}")).folder


@pytest.fixture
def common(tmp_path) -> list[str]:
    return ["trainer.accelerator=cpu", "trainer.progress=false", f"output_root={tmp_path / 'runs'}"]


def evaluated(*overrides: str) -> Results:
    return run_evaluation(compose_evaluation(*overrides))


def test_an_adapter_scores_as_at_the_end_of_its_training(trained, common):
    same = ["trainer.micro_batch_tokens=2048", "eval_examples=12", "eval_prompts=4"]
    results, before = evaluated(f"adapter={trained / 'adapter'}", *same, *common), read_results(trained)
    folder = results.folder
    assert results.robustness == before.robustness and results.scoring == before.scoring
    assert read_cells(folder / "matrix.parquet").equals(read_cells(trained / "matrix.parquet"))
    assert results.scoring.merged
    assert results.trained_by == before.run and folder.name.startswith("eval-story_facts-tiny_llama0-paft-likelihood-")
    assert results.fingerprints.base_model == before.fingerprints.base_model
    assert read_results(folder) == results
    assert {"per_prompt.csv", "distribution.png", "report.html", "prompts", "run.json"} <= {p.name for p in folder.iterdir()}


def test_a_finished_evaluation_is_not_repeated(trained, common, monkeypatch, capsys):
    overrides = [f"adapter={trained / 'adapter'}", "eval_examples=6", "eval_prompts=2", *common]
    evaluated(*overrides)
    monkeypatch.setattr("paft.jobs.evaluate.load_base", lambda *_: pytest.fail("the model was loaded"))
    evaluated(*overrides)
    assert "Finished already" in capsys.readouterr().out


def test_the_base_model(tiny_llama, common):
    shape = ["model=smollm2_135m", f"model.path={tiny_llama}", "model.dtype=fp32", "eval_examples=6", "eval_prompts=2"]
    results = evaluated("dataset=story_facts", *shape, *common)
    assert results.fingerprints.adapter is None and "-base-" in results.folder.name
    assert read_matrix(results.folder / "matrix.parquet").correct.shape == (2, 6)


def test_what_the_model_reads_is_part_of_the_evaluation(tiny_llama, common, tmp_path):
    """An edited chat template or tokenizer makes another evaluation, not one that has finished already."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    asked = ["dataset=story_facts", "adapter=null", "model=smollm2_135m", f"model.path={folder}", "model.dtype=fp32"]
    asked += ["model.chat_template=true", "eval_examples=6", "eval_prompts=2", *common]
    scores = []
    for template in ("{{ messages[0]['content'] }} ", "Think. {{ messages[0]['content'] }} So: "):
        (folder / "chat_template.jinja").write_text(template)
        results = evaluated(*asked)
        scores.append(read_cells(results.folder / "matrix.parquet", ["log_probs"]))
    assert not scores[0].equals(scores[1])
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }} ")
    again = evaluated(*asked)
    assert read_cells(again.folder / "matrix.parquet", ["log_probs"]).equals(scores[0])
    assert len(list(again.folder.parent.iterdir())) == 2


def test_an_adapter_under_another_tokenizer_is_refused(trained, tiny_llama, common, tmp_path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "moved"))
    asked = [f"adapter={trained / 'adapter'}", f"model.path={folder}", "eval_examples=6", "eval_prompts=2", *common]
    evaluated(*asked)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": "<begin>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=r"trained with another tokenizer or chat template than .*moved has now"):
        evaluated(*asked)


def test_an_adapter_whose_scaling_was_edited_is_another_one(trained, common, tmp_path):
    adapter = Path(shutil.copytree(trained / "adapter", tmp_path / "adapter"))
    asked = [f"adapter={adapter}", "eval_examples=6", "eval_prompts=2", *common]
    before = evaluated(*asked)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 10 * config["lora_alpha"]}))
    after = evaluated(*asked)
    cells = [read_cells(results.folder / "matrix.parquet", ["log_probs"]) for results in (before, after)]
    assert before.folder != after.folder and not cells[0].equals(cells[1])


def test_what_was_trained_on_says_whether_a_line_break_ends_an_answer(tiny_llama, common, tmp_path):
    """Rows without labels are answered as labelled ones are."""
    rows = [{"q": f"Count to {n}.", "a": "\n".join(map(str, range(n)))} for n in range(2, 32)]
    for name, some in (("train", rows[:20]), ("test", rows[20:])):
        (tmp_path / f"{name}.jsonl").write_text(lines(*some))
    for name, text in (("train", "{q} Answer:"), ("test", "Please. {q} Now:")):
        (tmp_path / f"{name}_prompts.jsonl").write_text(lines({"text": text}))
    own = ["dataset=jsonl", f"dataset.path={tmp_path}", "dataset.gold=a", "dataset.answer=text", "dataset.metric=exact"]
    own += [f"prompts.{name}={tmp_path}/{name}_prompts.jsonl" for name in ("train", "test")]
    run = run_training(compose_config(*SMALL, *own, f"model.path={tiny_llama}", f"output_root={tmp_path / 'runs'}"))
    assert run.scoring.stop_at_line_break is False
    (tmp_path / "rows.jsonl").write_text(lines({"q": "Count to 3."}))
    asked = [f"adapter={run.folder / 'adapter'}", f"dataset.path={tmp_path / 'rows.jsonl'}", "max_new_tokens=4"]
    unlabelled = evaluated(*asked, f"output={tmp_path / 'out.jsonl'}", *common)
    assert unlabelled.scoring.stop_at_line_break is False


def test_generation_records_texts_tokens_and_times(trained, common):
    short = ["scoring=generate", "max_new_tokens=6", "eval_examples=6", "eval_prompts=2"]
    results = evaluated(f"adapter={trained / 'adapter'}", *short, *common)
    cells = read_cells(results.folder / "matrix.parquet").to_pylist()
    assert all(1 <= cell["output_tokens"] <= 6 and isinstance(cell["output"], str) for cell in cells)
    assert results.scoring.scoring == "generate" and results.scoring.stop_at_line_break
    assert results.unanswered == sum(cell["predicted"] == -1 for cell in cells)
    with (results.folder / "per_prompt.csv").open(encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["seconds"]) > 0 and float(first["output_tokens"]) >= 1 and "{story}" in first["text"]


def test_predictions_for_unlabelled_rows(own, common, tmp_path):
    rows = [{key: value for key, value in question(n).items() if key != "answer"} | {"mine": n} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text(lines(*rows))
    output = tmp_path / "predictions.jsonl"
    overrides = [f"adapter={own / 'adapter'}", f"dataset.path={tmp_path / 'rows.jsonl'}", f"output={output}", *common]
    results = evaluated(*overrides)
    found = [json.loads(line) for line in output.read_text().splitlines()]
    predicted = read_matrix(results.folder / "matrix.parquet").predicted
    assert [{**row, **extra} for row, extra in zip(rows, found, strict=True)] == found
    for i, row in enumerate(found):
        votes = [int((predicted[:, i] == choice).sum()) for choice in range(2)]
        assert row["prediction"] == "AB"[votes.index(max(votes))] and row["prediction_text"] == rows[i][row["prediction"]]
        assert row["prediction_agreement"] == max(votes) / 2
    assert results.robustness is None and results.consensus is not None and results.consensus.majority is None
    assert (results.folder / "predictions.jsonl").read_bytes() == output.read_bytes()  # kept, whatever else goes to `output`
    page = (results.folder / "report.html").read_text(encoding="utf-8")
    assert "predictions for rows.jsonl" in page and "as the majority" in page and 'data-name="accuracy"' not in page
    with (results.folder / "per_prompt.csv").open(encoding="utf-8", newline="") as file:
        shares = [float(row["as_majority"]) for row in csv.DictReader(file)]
    majority = [int((predicted[:, i] == 1).sum() == 2) for i in range(5)]  # of two votes that differ the first counts
    assert shares == [float((row == majority).mean()) for row in predicted]
    output.unlink()
    evaluated(*overrides)  # finished already: written again
    assert len(output.read_text().splitlines()) == 5


def test_labelled_rows_of_a_file_are_a_test_set(own, common, tmp_path):
    (tmp_path / "rows.jsonl").write_text(lines(*map(question, range(200, 207))))
    results = evaluated(f"adapter={own / 'adapter'}", f"dataset.path={tmp_path / 'rows.jsonl'}", *common)
    assert (results.robustness.n_examples, results.robustness.n_prompts) == (7, 2)


def test_prompts_that_were_trained_on_are_counted_where_they_are_wanted(own, common, tmp_path, capsys):
    both = tmp_path / "both.jsonl"
    both.write_text(lines(*UNSEEN, OWN_PROMPTS[0], {"text": f"{OWN_PROMPTS[1]['text']}!"}))
    typed = [f"adapter={own / 'adapter'}", f"prompts.test={both}", *common]
    with pytest.raises(InputError, match=rf"2 of 4 test prompts were trained on \({own}/prompts/train\.yaml\)"):
        evaluated(*typed)
    results = evaluated(*typed, "prompts.allow_seen=true")
    assert results.test_prompts_seen == Seen(copies=1, near_copies=1) and not results.unseen
    said, line = (
        capsys.readouterr().out,
        "Of the 4 test prompts 1 were trained on word for word, and 1 nearly (at least 90% alike).",
    )
    assert said.count("Of the 4 test prompts 1 were") == 2  # in the plan and below the table
    page = (results.folder / "report.html").read_text()
    assert line in page and "unseen" not in re.sub(r"base64,[^\"]*", "", page).replace("unseen.jsonl", "").replace(
        str(tmp_path), ""
    )
    assert evaluated(*typed, "prompts.allow_seen=true", "eval_prompts=2").test_prompts_seen == Seen(copies=0, near_copies=0)


def test_an_adapter_without_its_training_prompts_or_rows_is_said_not_to_be_checked(own, common, tmp_path, capsys):
    shutil.copytree(own / "adapter", tmp_path / "elsewhere" / "adapter")
    about = tmp_path / "elsewhere" / "adapter" / "paft.json"
    about.write_text(about.read_text().replace(json.loads(about.read_text())["dataset"]["path"], "nowhere"))
    (tmp_path / "rows.jsonl").write_text(lines(*map(question, range(200, 207))))
    (tmp_path / "unseen.jsonl").write_text(lines(*UNSEEN))
    files = [f"dataset.path={tmp_path / 'rows.jsonl'}", f"prompts.test={tmp_path / 'unseen.jsonl'}"]
    results = evaluated(f"adapter={tmp_path / 'elsewhere' / 'adapter'}", *files, *common)
    assert results.test_prompts_seen == Seen(copies=None, near_copies=None) and not results.unseen
    assert results.test_rows_left_out == LeftOut(equal_choices=0, training_rows=None)
    said = capsys.readouterr().out
    assert said.count("Whether the test prompts were trained on is not known") == 2
    assert said.count("Whether test rows are training rows is not known") == 2


def test_letters_that_the_tokenizer_splits_are_scored_whole_and_counted(own, common, tmp_path):
    """The tiny tokenizer makes two tokens of a letter, its white space being one."""
    (tmp_path / "test.jsonl").write_text(lines({"text": "{question} {A} {B}:\n"}, {"text": "{A} {B} {question}"}))
    results = evaluated(f"adapter={own / 'adapter'}", f"prompts.test={tmp_path / 'test.jsonl'}", *common)
    assert results.scoring.prompts_with_split_letters == 2
    assert results.robustness.n_prompts == 2


def test_adversarial_prompts_give_con(own, common, tmp_path):
    (tmp_path / "adversarial.jsonl").write_text(lines({"text": "{question} {A} {B} anser:"}, {"text": "{A}{B}{question}"}))
    results = evaluated(f"adapter={own / 'adapter'}", f"prompts.adversarial={tmp_path / 'adversarial.jsonl'}", *common)
    accuracy = read_matrix(results.folder / "adversarial.parquet").correct.mean(axis=1)
    con = results.extra_measures.adversarial
    assert con is not None and (con.mean, con.worst) == pytest.approx((accuracy.mean(), accuracy.min()))


def test_shipped_pools_go_by_their_names(trained, common):
    overrides = [f"adapter={trained / 'adapter'}", "eval_examples=4", "eval_prompts=2", *common]
    results = evaluated(*overrides, "prompts.adversarial=adversarial")
    ids = read_matrix(results.folder / "adversarial.parquet").prompt_ids
    assert len(ids) == 10 and all("adversarial" in id_ for id_ in ids) and results.extra_measures.adversarial is not None


def test_wandb_gets_the_evaluation(trained, common, tmp_path):
    overrides = [f"adapter={trained / 'adapter'}", "logger=wandb", "eval_examples=6", "eval_prompts=2", *common]
    folder = evaluated(*overrides).folder
    (offline,) = (folder / "wandb").glob("offline-run-*")
    media = {path.suffix for path in offline.rglob("media/**/*") if path.is_file()}
    assert {".html", ".png", ".json"} <= media


def test_another_adapter_or_setting_is_another_evaluation(trained, common):
    names = set()
    for change in ([], ["normalise=token"], ["cutoff=500"], ["eval_prompts=2"], ["eval_examples=5"], ["model.dtype=bf16"]):
        usual = ["eval_examples=6", "eval_prompts=3"]
        from paft.jobs.evaluate import prepare

        names.add(prepare(compose_evaluation(f"adapter={trained / 'adapter'}", *usual, *change, *common)).name)
    assert len(names) == 6


def test_another_base_model_of_the_same_name_is_another_evaluation(tiny_llama, common, tmp_path):
    import shutil

    from transformers import AutoModelForCausalLM

    for name in ("a", "b"):
        shutil.copytree(tiny_llama, tmp_path / name / "model")
    other = AutoModelForCausalLM.from_pretrained(tiny_llama)
    other.model.layers[0].mlp.down_proj.weight.data += 1
    other.save_pretrained(tmp_path / "b" / "model")
    few = ["dataset=story_facts", "model=smollm2_135m", "model.dtype=fp32", "eval_examples=3", "eval_prompts=2", *common]
    one, other, again = (evaluated(*few, f"model.path={tmp_path / name / 'model'}") for name in ("a", "b", "a"))
    assert one == again and one.run != other.run
    assert one.fingerprints.base_model != other.fingerprints.base_model


def test_an_adapter_keeps_the_prompt_format_it_was_trained_in(trained, tmp_path):
    """Also where model= is typed beside it, as in a sweep that has the base model too."""
    import shutil

    shutil.copytree(trained / "adapter", tmp_path / "adapter")
    about = json.loads((tmp_path / "adapter" / "paft.json").read_text())
    about["model"] |= {"path": None, "chat_template": True, "system_prompt": "Be brief."}
    (tmp_path / "adapter" / "paft.json").write_text(json.dumps(about))
    config = compose_evaluation(f"adapter={tmp_path / 'adapter'}", "model=smollm2_135m")
    assert config.model.chat_template and config.model.system_prompt == "Be brief."
    config = compose_evaluation(f"adapter={tmp_path / 'adapter'}", "model=smollm2_135m", "model.system_prompt=null")
    assert config.model.chat_template and config.model.system_prompt is None
    config = compose_evaluation(f"adapter={tmp_path / 'adapter'}", "+model.chat_template_args.enable_thinking=false")
    assert config.model.chat_template_args == {"enable_thinking": False}  # a key of a setting is the setting, too


def test_an_adapter_of_an_earlier_version_is_scored_as_it_was_trained(trained, tmp_path):
    """Before the space was a setting, it stood before every answer."""
    shutil.copytree(trained / "adapter", tmp_path / "adapter")
    about = json.loads((tmp_path / "adapter" / "paft.json").read_text())
    assert compose_evaluation(f"adapter={tmp_path / 'adapter'}").dataset.answer_space is None
    del about["dataset"]["answer_space"], about["model"]["chat_template_date"], about["model"]["chat_template_args"]
    (tmp_path / "adapter" / "paft.json").write_text(json.dumps(about))
    config = compose_evaluation(f"adapter={tmp_path / 'adapter'}")
    assert config.dataset.answer_space is True
    assert (config.model.chat_template_date, config.model.chat_template_args) == (CHAT_TEMPLATE_DATE, None)


def test_prompts_that_chose_the_checkpoint_or_are_called_adversarial_are_checked_too(own, common, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(own / "adapter", run / "adapter")
    shutil.copytree(own / "prompts", run / "prompts")
    (run / "prompts" / "validation.yaml").write_text("answer: letter\nprompts:\n  - text: 'Decide! {question} {A} {B}'\n")
    (tmp_path / "chose.jsonl").write_text(lines({"text": "Decide! {question} {A} {B}"}))
    (tmp_path / "unseen.jsonl").write_text(lines(*UNSEEN))
    (tmp_path / "mine.jsonl").write_text(lines(*OWN_PROMPTS))
    asked = [f"adapter={run / 'adapter'}", *common]
    with pytest.raises(InputError, match=r"prompts\.test: 1 of 1 test prompts were used to choose the checkpoint"):
        evaluated(*asked, f"prompts.test={tmp_path / 'chose.jsonl'}")
    adversarial = f"prompts.adversarial={tmp_path / 'mine.jsonl'}"
    with pytest.raises(InputError, match=r"prompts\.adversarial: 2 of 2 test prompts were trained on"):
        evaluated(*asked, f"prompts.test={tmp_path / 'unseen.jsonl'}", adversarial)


def test_the_prompts_beside_an_adapter_are_found_from_its_own_folder(own, common, tmp_path, monkeypatch):
    monkeypatch.chdir(own / "adapter")
    with pytest.raises(InputError, match=r"2 of 2 test prompts were trained on"):
        evaluated("adapter=.", "prompts.test=../prompts/train.yaml", *common)


def test_rows_of_another_folder_are_compared_with_what_was_trained_on(own, common, tmp_path):
    trained = json.loads((own / "adapter" / "paft.json").read_text())["dataset"]["path"]
    shutil.copy(Path(trained) / "train.jsonl", tmp_path / "test.jsonl")
    (tmp_path / "train.jsonl").write_text(lines(*map(question, range(300, 330))))
    (tmp_path / "unseen.jsonl").write_text(lines(*UNSEEN))
    with pytest.raises(InputError, match="the row was trained or validated on"):
        evaluated(
            f"adapter={own / 'adapter'}", f"dataset.path={tmp_path}", f"prompts.test={tmp_path / 'unseen.jsonl'}", *common
        )


def test_a_moved_base_model_is_found_by_its_weights(trained, tiny_llama, common, tmp_path):
    import shutil

    shutil.copytree(tiny_llama, tmp_path / "moved")
    few = ["eval_examples=3", "eval_prompts=1"]
    evaluated(f"adapter={trained / 'adapter'}", f"model.path={tmp_path / 'moved'}", *few, *common)


def test_a_torn_or_incomplete_adapter_is_refused(trained, tmp_path, common, capsys):
    import shutil

    from safetensors.torch import load_file, save_file

    for name, sentence in (("torn", "it is damaged, or not one of"), ("half", "its weights are not those of an adapter")):
        shutil.copytree(trained / "adapter", tmp_path / name)
        weights = tmp_path / name / "adapter_model.safetensors"
        if name == "torn":
            weights.write_bytes(weights.read_bytes()[:100])
        else:
            tensors = load_file(weights)
            save_file(dict(list(tensors.items())[1:]), weights)
        with pytest.raises(InputError, match=sentence):
            evaluated(f"adapter={tmp_path / name}", *common)
        assert not (tmp_path / "runs").exists()


def test_another_base_model_in_the_same_place_is_refused(trained, tiny_llama, common, tmp_path):
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(tiny_llama)
    other.get_input_embeddings().weight.data[:] += 1
    other.save_pretrained(tmp_path / "other")
    for file in tiny_llama.glob("tokenizer*"):
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="it was trained on another base model than"):
        evaluated(f"adapter={trained / 'adapter'}", f"model.path={tmp_path / 'other'}", *common)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_over_adapters_from_the_command_line(trained, tmp_path):
    """The second job's mistake does not keep the third from running."""
    adapters = f"adapter={trained / 'adapter'},{tmp_path},null"
    few = [
        "eval_examples=3",
        "eval_prompts=2",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        f"output_root={tmp_path / 'runs'}",
    ]
    done = run_command("evaluate.py", "-m", adapters, *few)
    assert (
        done.returncode == 2
        and "this is no adapter (it holds no adapter_config.json)" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert "dataset has no value" in done.stderr
    assert len(list((tmp_path / "runs").glob("eval-*/results.json"))) == 1


def test_a_single_prompt_has_no_spread_and_no_interval(trained, common):
    results = evaluated(f"adapter={trained / 'adapter'}", "eval_prompts=1", "eval_examples=12", *common)
    assert results.robustness.std == 0 and results.uncertainty is None and results.consensus is None


def test_a_template_longer_than_the_window_loses_its_beginning_and_is_counted(trained, common):
    results = evaluated(f"adapter={trained / 'adapter'}", "cutoff=24", "eval_prompts=2", "eval_examples=4", *common)
    assert results.test_prompts_truncated == 8


def test_the_stories_are_those_of_the_test_split(trained, common):
    results = evaluated(f"adapter={trained / 'adapter'}", "eval_examples=null", "eval_prompts=1", *common)
    assert len(read_matrix(results.folder / "matrix.parquet").example_ids) == len(generate_rows("test", 1000))
    assert torch.is_grad_enabled()


def test_another_threshold_is_another_top_of_the_same_scores(trained, tmp_path, monkeypatch):
    asked = [f"adapter={trained / 'adapter'}", f"output_root={tmp_path}", "trainer.accelerator=cpu", "eval_prompts=4"]
    first = run_evaluation(compose_evaluation(*asked, "eval_examples=12", "dataset.threshold=1.0"))
    monkeypatch.setattr("paft.evaluation.scoring.batches", lambda *_, **__: pytest.fail("scored again"))
    second = run_evaluation(compose_evaluation(*asked, "eval_examples=12", "dataset.threshold=0.0"))
    assert (first.folder, first.threshold, second.threshold) == (second.folder, 1.0, 0.0)
    assert first.robustness.top == 0 and second.robustness.top == 1 and read_results(second.folder) == second

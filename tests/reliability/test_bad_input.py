"""Bad input: one sentence that says where and what, exit code 2, no traceback, and nothing left behind.

The tables of all commands' bad inputs are those of tests/reliability/bad_inputs/.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from paft.cli.hydra_app import run_plain
from paft.cli.train import job
from paft.jobs.preflight import check_run
from paft.jobs.rerun import repeated
from paft.reporting.results import Results
from paft.runtime.errors import InputError
from tests.conftest import NO_COMMIT, compose_config, compose_evaluation
from tests.reliability.bad_input import ROOT, apart, files_below, here, is_one_sentence, write_without_heavy
from tests.reliability.bad_inputs import ROWS
from tests.reliability.bad_inputs.case import Case

LIGHT = [row for row in ROWS if row.needs == "nothing"]
HEAVY = [row for row in ROWS if row.needs != "nothing"]

# What is wrong with the answer to each row, in one process that can import nothing heavy.
ALL_LIGHT = """
import json, sys, tempfile
from pathlib import Path
from tests.reliability.bad_input import here
from tests.reliability.bad_inputs import ROWS
from hydra._internal.hydra import Hydra
from paft.data.tasks import story_facts
Hydra.get_mode = lambda *_, **__: None  # it composes all once more, to look for hydra.mode alone
story_facts.N_ROWS = {"train": 100, "test": 20}
found = []
for row in ROWS:
    if row.needs == "nothing":
        with tempfile.TemporaryDirectory() as folder:
            found.append(here(row, Path(folder), Path("no-model")))
print(json.dumps(found))
"""


def name_of(row: Case) -> str:
    return f"{row.command}: {row.name}"


@pytest.fixture(scope="module")
def light(tmp_path_factory) -> dict[str, str]:
    without_heavy = write_without_heavy(tmp_path_factory.mktemp("without_heavy"))
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{without_heavy}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", ALL_LIGHT], env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    return dict(zip(map(name_of, LIGHT), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("row", LIGHT, ids=name_of)
def test_what_can_be_seen_without_the_model_is_seen_without_heavy_imports(row, light):
    assert light[name_of(row)] == ""


@pytest.mark.parametrize("row", HEAVY, ids=name_of)
def test_what_needs_torch_is_seen_before_the_weights_are_loaded(row, tiny_llama, tmp_path, monkeypatch):
    if row.needs != "weights":
        for module in ("paft.jobs.train", "paft.jobs.evaluate"):
            monkeypatch.setattr(f"{module}.load_base", lambda *_: pytest.fail("the model was loaded"))
    assert here(row, tmp_path, tiny_llama) == ""


@pytest.mark.parametrize(
    ("name", "command"),
    [("no such answer", "train.py"), ("a damaged adapter", "evaluate.py"), ("no folder", "-m experiments.paper"),
     ("audit of no file", "-m paft pools"), ("no chat template", "train.py")],
)  # fmt: skip
def test_a_process_of_its_own_says_the_same(name, command, tiny_llama, without_torch):
    row = next(row for row in ROWS if name in row.name and row.command == command)
    assert apart(row, tiny_llama, without_torch)[0] == ""


def test_the_table_tells_a_bad_answer(tmp_path):
    """A row that says something else than is said, and one that leaves a file."""
    asked = {"command": "-m paft pools", "files": {"p.jsonl": '{"text": "{goal} {sol1} {sol2} Answer:"}\n'}}
    told = Case("", arguments="import ; p.jsonl ; --dataset ; piqa", sentence="p.jsonl, line 9", **asked)
    assert here(told, tmp_path, tmp_path).startswith("exit code 0") and (tmp_path / "p.yaml").is_file()
    told = told._replace(arguments="audit ; --train ; none.yaml")
    assert here(told, tmp_path, tmp_path).startswith("something else is said: error: none.yaml")


def assert_one_sentence(message: str) -> None:
    assert is_one_sentence(message), message


def check(
    overrides: str, sentence: str, folder: Path, tiny: list[str], capsys: pytest.CaptureFixture[str],
    files: Mapping[str, str] = {},
) -> None:  # fmt: skip
    """Do in this process what train.py does with overrides, separated by " ; ", behind the tiny ones; @ is the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    config = compose_config(*tiny, *overrides.replace("@", str(folder)).split(" ; "))
    before = files_below(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run_plain(lambda: job(config))
    message = capsys.readouterr().err
    assert left.value.code == 2 and sentence.replace("@", str(folder)) in message
    assert_one_sentence(message)
    assert files_below(folder) == before


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in the test's own folder, where a file written by mistake is seen, with less of the built-in task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("paft.data.tasks.story_facts.N_ROWS", {"train": 100, "test": 20})


@pytest.fixture
def no_model(monkeypatch):
    """Fail the test where weights are loaded before the mistake is found."""
    monkeypatch.setattr("paft.jobs.train.load_base", lambda *_: pytest.fail("the model was loaded"))


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(remove("config.json"), id="no config"),
        pytest.param(write("config.json", "{"), id="damaged config"),
        pytest.param(write("config.json", '{"model_type": "t5"}'), id="encoder-decoder"),
        pytest.param(remove("tokenizer.json"), id="no tokenizer"),
        pytest.param(write("tokenizer.json", "{"), id="damaged tokenizer"),
        pytest.param(remove("model.safetensors"), id="no weights"),
        pytest.param(write("model.safetensors", "x"), id="damaged weights"),
    ],
)
def test_a_damaged_model_folder(harm, tiny_llama, tmp_path, tiny_overrides, capsys):
    shutil.copytree(tiny_llama, tmp_path / "model")
    harm(tmp_path / "model")
    check("model.path=@/model", "model.path=@/model: this model cannot be loaded", tmp_path, tiny_overrides, capsys)


def test_an_architecture_that_cannot_be_packed(tmp_path, tiny_overrides, capsys, monkeypatch):
    """Only the loaded model can tell; even then nothing has been written."""
    monkeypatch.setattr("paft.model.packed_check.packed_logits", lambda model, row, places: torch.zeros(len(places), 512))
    check("T=1", "LlamaForCausalLM scores a text otherwise in a packed batch", tmp_path, tiny_overrides, capsys)


def test_an_architecture_that_is_known_to_lose_something_is_refused_before_its_weights_are_read(
    tiny_llama, tmp_path, tiny_overrides, capsys
):
    shutil.copytree(tiny_llama, tmp_path / "model")
    config = json.loads((tiny_llama / "config.json").read_text()) | {"model_type": "gemma2", "head_dim": 8}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "model.safetensors").write_text("none")
    sentence = "model.path=@/model: Gemma2ForCausalLM soft-caps its attention scores, which packed batches would lose"
    check("model.path=@/model", sentence, tmp_path, tiny_overrides, capsys)


def test_no_cuda(tmp_path, tiny_overrides, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check(
        "trainer.accelerator=cuda", "accelerator=cuda: this machine has no usable CUDA device", tmp_path, tiny_overrides, capsys
    )


def test_an_output_root_that_cannot_be_written_to(tmp_path, tiny_overrides, capsys, no_model):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write anywhere")
    check(
        "output_root=@/closed/runs",
        "output_root=@/closed/runs: @/closed cannot be written to",
        tmp_path,
        tiny_overrides,
        capsys,
    )


def test_a_full_disk(tmp_path, tiny_overrides, capsys, no_model, monkeypatch):
    monkeypatch.setattr("paft.runtime.run_folder.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    check("K=1", "runs: only 0 MiB are free on that disk", tmp_path, tiny_overrides, capsys)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"notes.txt": "mine"}, "this folder is not one of ours (it has no run.json)"),
        ({"run.json": "{"}, "run.json: this file is damaged"),
        ({"run.json": "{}"}, "this run was made from other settings, data or prompts"),
        ({"run.json": "[]"}, "this run was made from other settings, data or prompts"),
    ],
    ids=["foreign", "damaged", "of another run", "no run at all"],
)
def test_a_folder_that_is_there_already_stays_as_it_is(files, sentence, tmp_path, tiny_overrides, capsys, no_model):
    name = compose_config(*tiny_overrides, "K=2").run_name
    there = {f"runs/{name}/{path}": content for path, content in files.items()}
    check("K=2", sentence, tmp_path, tiny_overrides, capsys, there)


def test_a_run_that_was_begun_with_another_sampler_and_loss_is_not_resumed(tmp_path, tiny_overrides, capsys, no_model):
    begun = check_run(compose_config(*tiny_overrides, "sampler=balanced", "loss=perturbed")).folder.identity
    name = compose_config(*tiny_overrides, "K=1", "sampler=worst_of").run_name
    said = (
        "this run was made with other settings (K, loss.name, loss.size, loss.warmup, sampler.adversarial, sampler.balanced, "
    )
    there = {f"runs/{name}/run.json": json.dumps(begun), f"runs/{name}/checkpoints/best.ckpt": ""}
    check("K=1 ; sampler=worst_of", said, tmp_path, tiny_overrides, capsys, there)


@pytest.fixture
def stranger(tiny_llama, tmp_path) -> Path:
    """A model that comes with code, which leaves a file `ran` where it is run."""
    folder = tmp_path / "stranger"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "strange.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'strange'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    return folder


def test_code_that_comes_with_a_model_is_run_for_those_who_ask_for_it_by_name(stranger, tmp_path, tiny_overrides):
    from paft.jobs.one_run import prepare

    with pytest.raises(InputError, match=r"if you trust who wrote it, give model\.remote_code=true"):
        prepare(compose_config(*tiny_overrides, f"model.path={stranger}"))
    assert not (tmp_path / "ran").exists()
    assert prepare(compose_config(*tiny_overrides, f"model.path={stranger}", "model.remote_code=true")).plan.updates
    assert (tmp_path / "ran").exists()


def test_a_merge_runs_code_that_comes_with_a_model_for_those_who_ask_for_it(stranger, tiny_llama, tmp_path, monkeypatch):
    """The adapter does not ask for them, whatever it was trained with."""
    from paft.cli.merge import main
    from tests.model.test_adapter import save_adapter_of

    save_adapter_of(tiny_llama, adapter := tmp_path / "adapter", ["q_proj"])
    about = json.loads((adapter / "paft.json").read_text())
    about["model"] |= {"path": str(stranger), "remote_code": True}  # the same weights
    (adapter / "paft.json").write_text(json.dumps(about))
    typed = ["paft merge", str(adapter), "--out", str(tmp_path / "merged")]
    monkeypatch.setattr(sys, "argv", typed)
    with pytest.raises(InputError, match=r"^model\.path=.*: this model needs code .* \(to merge, --remote-code\)\.$"):
        main()
    assert not (tmp_path / "ran").exists() and not (tmp_path / "merged").exists()
    monkeypatch.setattr(sys, "argv", [*typed, "--remote-code"])
    main()
    assert (tmp_path / "ran").exists() and (tmp_path / "merged" / "model.safetensors").is_file()


def test_neither_an_adapter_nor_a_results_file_says_whose_code_is_run(tmp_path):
    about = compose_config("model.remote_code=true")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    (adapter / "adapter_config.json").write_bytes(b"{}")
    (adapter / "paft.json").write_text(
        json.dumps({"model": about.model.model_dump(), "dataset": about.dataset.model_dump(), "method": "paft", "base": "a"})
    )
    assert not compose_evaluation(f"adapter={adapter}").model.remote_code
    assert compose_evaluation(f"adapter={adapter}", "model.remote_code=true").model.remote_code
    original = Results.model_construct(config=about.model_dump(), fingerprints=NO_COMMIT)
    assert not repeated(compose_config(f"rerun={tmp_path}"), original, []).model.remote_code

"""Bad input: one sentence that says where and what, exit code 2, no traceback, and nothing left behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import train as entry
from paft.cli import run_plain
from paft.errors import InputError
from tests.conftest import compose_config, compose_evaluation

TRAIN_PY = Path(entry.__file__)


class Row(NamedTuple):
    """@ in overrides, files and sentence stands for the test's own folder."""

    name: str
    overrides: str  # separated by " ; "
    files: Mapping[str, str | bytes]
    sentence: str  # a piece of it


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def question(n: int, **changes: object) -> dict[str, object]:
    return {"question": f"What is {n} + 1?", "A": f"{n + 1}", "B": f"{n + 2}", "answer": "A"} | changes


def piqa(n: int, **changes: object) -> dict[str, object]:
    return {"goal": f"Count to {n}.", "sol1": "One by one.", "sol2": "Backwards.", "label": 0} | changes


OWN = "dataset=jsonl ; dataset.path=@/own ; dataset.gold=answer ; dataset.choices=[A,B]"
OWN_PROMPTS = "prompts.train=@/mine.jsonl ; prompts.test=@/mine.jsonl"
TRAIN, TEST = lines(*map(question, range(20))), lines(*map(question, range(20, 26)))
OWN_FILES = {
    "own/train.jsonl": TRAIN,
    "own/test.jsonl": TEST,
    "mine.jsonl": lines({"text": "{question} A: {A} B: {B}\nAnswer:"}),
}
FREE = "dataset=jsonl ; dataset.path=@/own ; dataset.gold=answer ; prompts.train=@/free.jsonl ; prompts.test=@/free.jsonl"
FREE_FILES = OWN_FILES | {"free.jsonl": lines({"text": "{question}"})}
PIQA = "dataset=piqa ; data_root=@"
PIQA_FILES = {
    "piqa/train.jsonl": lines(*map(piqa, range(20))),
    "piqa/validation.jsonl": lines(*map(piqa, range(20, 26))),
}
GSM8K_FILES = {"gsm8k/train.jsonl": TRAIN, "gsm8k/test.jsonl": TEST}
SHORT_OF_STORY = "{question} {A} {B} {C} {D}"
WHOLE = "{story} {question} {A} {B} {C} {D}"

CONFIG = [
    Row("misspelt dataset", "dataset=piqqa", {}, "dataset/piqqa"),
    Row("misspelt model", "model=smollm", {}, "model/smollm"),
    Row("misspelt experiment", "experiment=dmeo", {}, "experiment/dmeo"),
    Row("misspelt key", "k=3", {}, "'k'"),
    Row("misspelt nested key", "optim.learning_rate=1e-4", {}, "optim.learning_rate"),
    Row("forced unknown key", "+optim.momentum=0.9", {}, "optim.momentum=0.9"),
    Row("unknown interpolation", "K=${optim.k}", {}, "optim.k"),
    Row("K no number", "K=abc", {}, "K=abc: input should be a valid integer"),
    Row("K a list", "K=[1,2]", {}, "K=[1, 2]: input should be a valid integer"),
    Row("K null", "K=null", {}, "K=None: input should be a valid integer"),
    Row("K a bool", "K=true", {}, "K=True: value error, should be a number"),
    Row("lr infinite", "optim.lr=inf", {}, "optim.lr=inf: input should be a finite number"),
    Row("K zero", "K=0", {}, "K=0: input should be greater than 0"),
    Row("T zero", "T=0", {}, "T=0: input should be greater than 0"),
    Row("seed negative", "seed=-1", {}, "seed=-1: input should be greater than or equal to 0"),
    Row("seed beyond 31 bits", "seed=2147483648", {}, "seed=2147483648: input should be less than 2147483648"),
    Row("lr zero", "optim.lr=0", {}, "optim.lr=0: input should be greater than 0"),
    Row("warm-up over one", "optim.warmup=2", {}, "optim.warmup=2: input should be less than or equal to 1"),
    Row("dropout over one", "model.lora.dropout=1.5", {}, "model.lora.dropout=1.5: input should be less than 1"),
    Row("no target modules", "model.lora.target_modules=[]", {}, "model.lora.target_modules=[]"),
    Row("unknown device", "trainer.accelerator=tpu", {}, "trainer.accelerator=tpu: input should be 'auto', 'cpu' or 'cuda'"),
    Row("choices no list", "dataset=jsonl ; dataset.path=@ ; dataset.choices=A", {}, "dataset.choices=A: "),
    Row("own data without path", "dataset=jsonl", {}, "dataset.path has no value"),
    Row("own data without gold", "dataset=jsonl ; dataset.path=@", {}, "dataset.gold has no value"),
    Row("hidden letters", f"{PIQA} ; dataset.options=hidden", PIQA_FILES, "dataset.options=hidden needs dataset.answer=text"),
    Row("a data set by its name", "dataset.name=piqa", {}, "dataset.name=piqa: choose a data set with dataset="),
    Row("another name", f"{PIQA} ; dataset.name=xx", PIQA_FILES, "dataset.name=xx: input should be 'story_facts', "),
    Row("unknown part", "dataset=race ; dataset.parts=[race_low]", {}, "dataset.parts: race has no part race_low"),
    Row("system prompt alone", "model.system_prompt=Hi", {}, "model.system_prompt needs model.chat_template=true"),
    Row("empty output_root", "output_root=", {}, "output_root=: "),
]

DATA = [
    Row("no data file", PIQA, {}, "@/piqa/train.jsonl: there is no such data file"),
    Row("no test file", OWN, {"own/train.jsonl": TRAIN}, "@/own/test.jsonl: there is no such data file"),
    Row("empty file", PIQA, {"piqa/train.jsonl": ""}, "@/piqa/train.jsonl: the data file is empty"),
    Row("blank file", OWN, {"own/train.jsonl": TRAIN, "own/test.jsonl": "\n \n"}, "@/own/test.jsonl: the data file is empty"),
    Row(
        "no JSON", PIQA, {"piqa/train.jsonl": lines(piqa(0)) + "{goal}\n"}, "@/piqa/train.jsonl, line 2: this is not valid JSON"
    ),
    Row("no object", PIQA, {"piqa/train.jsonl": lines(piqa(0), [1])}, "@/piqa/train.jsonl, line 2: a row is a JSON object"),
    Row("no UTF-8", PIQA, {"piqa/train.jsonl": b"\xff\xfe{}\n"}, "@/piqa/train.jsonl: the file is not UTF-8"),
    Row(
        "a field lacks",
        PIQA,
        {"piqa/train.jsonl": lines(piqa(0), piqa(1), {"goal": "x", "sol1": "y", "label": 0})},
        "@/piqa/train.jsonl, line 3: the row lacks the field 'sol2'",
    ),
    Row(
        "a field is null",
        OWN,
        OWN_FILES | {"own/test.jsonl": lines(question(0), question(1, B=None))},
        "@/own/test.jsonl, line 2: the row lacks the field 'B'",
    ),
    Row(
        "a field that templates show lacks",
        f"{OWN} ; {OWN_PROMPTS}",
        OWN_FILES | {"own/test.jsonl": TEST + lines({"A": "1", "B": "2", "answer": "B"})},
        "@/own/test.jsonl, line 7: the row lacks the field 'question', which the test prompts show",
    ),
    Row(
        "no such answer",
        OWN,
        OWN_FILES | {"own/train.jsonl": "\n" + lines(question(0), question(1, answer="C"))},
        "@/own/train.jsonl, line 3: 'answer' is 'C'; it must be the letter",
    ),
    Row(
        "no answer",
        FREE,
        FREE_FILES | {"own/train.jsonl": lines(question(0, answer=None))},
        "@/own/train.jsonl, line 1: the row lacks the field 'answer'",
    ),
    Row("no such choices", OWN.replace("[A,B]", "[A,E]"), OWN_FILES, "@/own/train.jsonl, line 1: the row lacks the field 'E'"),
    Row("one row", OWN, OWN_FILES | {"own/train.jsonl": lines(question(0))}, "dataset=jsonl: no row of train.jsonl is left"),
    Row("choice without choices", FREE, FREE_FILES, "dataset.metric=choice needs choices"),
    Row(
        "generated letters",
        f"{OWN} ; {OWN_PROMPTS} ; dataset.metric=exact",
        OWN_FILES,
        "dataset.metric=exact compares texts, and dataset.answer=letter asks for letters",
    ),
    Row(
        "letters of free-form rows", "dataset=gsm8k ; data_root=@ ; dataset.answer=letter", GSM8K_FILES, "dataset.answer=letter"
    ),
    Row("no hub", "dataset=piqa", {}, "dataset=piqa: baber/piqa could not be loaded from the hub"),
]

PROMPTS = [
    Row("no group", "model=null", {}, "dataset, model, method, trainer and logger cannot be null; name one of the files"),
    Row("no shipped pool of that name", "prompts.train=best", {}, "No best pool for dataset=story_facts"),
    Row("no such file", "prompts.train=@/no.yaml", {}, "@/no.yaml: there is no such prompt file"),
    Row("no pool file", "prompts.train=@/p.txt", {"p.txt": WHOLE}, "@/p.txt: a prompt pool is a .yaml, .jsonl, .csv or .xlsx"),
    Row("empty pool", "prompts.test=@/p.yaml", {"p.yaml": "prompts: []\n"}, "@/p.yaml: the pool is empty"),
    Row("empty file", "prompts.test=@/p.jsonl", {"p.jsonl": ""}, "@/p.jsonl: the pool is empty"),
    Row("no YAML", "prompts.test=@/p.yaml", {"p.yaml": "prompts: [{\n"}, "@/p.yaml: this is not valid YAML"),
    Row(
        "a template lacks a field",
        "prompts.train=@/p.jsonl",
        {"p.jsonl": lines({"text": WHOLE}, {"text": SHORT_OF_STORY})},
        "@/p.jsonl, line 2: the template lacks {story}",
    ),
    Row(
        "a template looks into a field",
        "prompts.train=@/p.yaml",
        {"p.yaml": f"prompts:\n  - text: '{WHOLE}'\n  - text: '{WHOLE} {{story.__class__}}'\n"},
        "@/p.yaml, line 3: '{story.__class__}' is no placeholder",
    ),
    Row(
        "a pool of another answer",
        "prompts.validation=@/p.yaml",
        {"p.yaml": f"answer: letter\nprompts:\n  - text: '{WHOLE}'\n"},
        "@/p.yaml: this pool says answer: letter, the run asks for dataset.answer=text",
    ),
    Row("no hidden pool", "+dataset.options=hidden", {}, "No train pool for dataset=story_facts"),
    Row("no pool for own letters", OWN, OWN_FILES, "No train pool for dataset=jsonl with dataset.answer=letter"),
    Row(
        "no prompt for own data", f"{OWN} ; {OWN_PROMPTS} ; method=user", OWN_FILES, "give your own with method.prompt=TEMPLATE"
    ),
    Row(
        "prompt short of a field",
        f"method=user ; method.prompt='{SHORT_OF_STORY}'",
        {},
        "method.prompt: the template lacks {story}",
    ),
    Row("prompt of another task", f"method=user ; method.prompt='{WHOLE} {{ctx}}'", {}, "method.prompt: {ctx} is no field"),
    Row("prompt looks into a field", f"method=user ; method.prompt='{WHOLE[:-1]}[0]}}'", {}, "method.prompt: '{D[0]}' is no"),
]

MODEL = [
    Row("model out of reach", "model.path=no/such-model", {}, "model.path=no/such-model: this model cannot be loaded"),
    Row("folder without a model", "model.path=@/own", OWN_FILES, "model.path=@/own: this model cannot be loaded"),
    Row(
        "no such module",
        "model.lora.target_modules=[query]",
        {},
        "model.lora.target_modules: LlamaForCausalLM has no module 'query'",
    ),
    Row(
        "one module too many",
        "model.lora.target_modules=[q_proj,query]",
        {},
        "no module 'query'; its linear layers are down_proj",
    ),
    Row("no linear layer", "model.lora.target_modules=[norm]", {}, "model.lora.target_modules=['norm']"),
    Row("cutoff below an answer", "cutoff=2", {}, "which cutoff=2 has no room for"),
    Row("cutoff below an answer, base", "cutoff=2 ; method=base", {}, "which cutoff=2 has no room for"),
    Row("no chat template", "model.chat_template=true", {}, "model.chat_template=true: this tokenizer has no chat template"),
    Row("validation never", "validation.every=100", {}, "validation.every=100: the run has 6 updates"),
    Row("output_root is a file", "output_root=@/file", {"file": "x"}, "output_root=@/file: @/file is a file"),
    Row("output_root below a file", "output_root=@/file/runs", {"file": "x"}, "output_root=@/file/runs: @/file is a file"),
]

RERUN = [
    Row("missing", "rerun=@/no.json", {}, "rerun=@/no.json: this is no results.json of a finished run (FileNotFoundError)"),
    Row("folder", "rerun=@", {}, "rerun=@: this is no results.json of a finished run"),
    Row("no JSON", "rerun=@/r.json", {"r.json": "K: 4"}, "rerun=@/r.json: this is no results.json"),
    Row("no UTF-8", "rerun=@/r.json", {"r.json": b"\xff\xfe"}, "rerun=@/r.json: this is no results.json"),
    Row("other JSON", "rerun=@/r.json", {"r.json": "[1]"}, "rerun=@/r.json: this is no results.json"),
    Row(
        "odd config",
        "rerun=@/r.json",
        {"r.json": '{"config": [], "robustness": {}}'},
        "rerun=@/r.json: this is no results.json",
    ),
    Row(
        "no config",
        "rerun=@/r.json",
        {"r.json": '{"config": {}, "robustness": {}, "fingerprints": {"data": {}, "pools": {}}}'},
        "rerun=@/r.json: this is no results.json",
    ),
    Row(
        "half a config",
        "rerun=@/r.json",
        {
            "r.json": json.dumps(
                {
                    "config": {k: {} for k in ("trainer", "dataset", "prompts")},
                    "robustness": {},
                    "fingerprints": {"data": {}, "pools": {}},
                }
            )
        },
        "rerun=@/r.json: its config does not fit: dataset",
    ),
]


def files_below(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def prepared(row: Row, folder: Path, tiny_overrides: list[str]) -> tuple[list[str], str]:
    """Write the row's files; return its overrides behind the tiny ones, and its sentence."""
    for name, content in row.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    overrides = [override.replace("@", str(folder)) for override in row.overrides.split(" ; ")]
    return [*tiny_overrides, *overrides], row.sentence.replace("@", str(folder))


def refused(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Do what `python train.py` does, in this process; return what it says on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run_plain(lambda: entry.job(compose_config(*overrides)))
    assert left.value.code == 2
    return capsys.readouterr().err


def assert_one_sentence(message: str) -> None:
    assert message.startswith("error: ") and message.endswith((".\n", "...\n")), message
    assert message.count("\n") == 1 and not re.search(r"\. [A-Z]", message), message


def check(row: Row, folder: Path, tiny_overrides: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    overrides, sentence = prepared(row, folder, tiny_overrides)
    before = files_below(folder)
    message = refused(overrides, capsys)
    assert sentence in message
    assert files_below(folder) == before
    return message


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in the test's own folder, where a file written by mistake is seen, with less of the built-in task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("paft.data.rows._STORY_FACTS_ROWS", {"train": 100, "test": 20})


@pytest.fixture
def no_model(monkeypatch):
    """Fail the test where weights are loaded before the mistake is found."""
    monkeypatch.setattr("paft.training.load_base", lambda *_: pytest.fail("the model was loaded"))


@pytest.mark.parametrize("row", CONFIG, ids=lambda row: row.name)
def test_config(row, tmp_path, tiny_overrides, capsys, monkeypatch):
    monkeypatch.setattr("paft.training.run_training", lambda *_: pytest.fail("the config was taken"))
    message = check(row, tmp_path, tiny_overrides, capsys)
    if "misspelt" in row.name or "interpolation" in row.name:  # Hydra's own, with the names that there are
        assert message.startswith("error: ") and "Traceback" not in message
    else:
        assert_one_sentence(message)


@pytest.mark.parametrize("row", [*DATA, *PROMPTS, *MODEL, *RERUN], ids=lambda row: row.name)
def test_before_the_model_loads(row, tmp_path, tiny_overrides, capsys, no_model):
    assert_one_sentence(check(row, tmp_path, tiny_overrides, capsys))


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
    row = Row("", "model.path=@/model", {}, "model.path=@/model: this model cannot be loaded")
    assert_one_sentence(check(row, tmp_path, tiny_overrides, capsys))


def test_an_architecture_that_cannot_be_packed(tmp_path, tiny_overrides, capsys, monkeypatch):
    """Only the loaded model can tell; even then nothing has been written."""
    monkeypatch.setattr("paft.model.base.packed_logits", lambda *_: torch.zeros(2, 8))
    row = Row("", "T=1", {}, "the attention of LlamaForCausalLM cannot run packed batches")
    assert_one_sentence(check(row, tmp_path, tiny_overrides, capsys))


def test_no_cuda(tmp_path, tiny_overrides, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    row = Row("", "trainer.accelerator=cuda", {}, "accelerator=cuda: this machine has no usable CUDA device")
    assert_one_sentence(check(row, tmp_path, tiny_overrides, capsys))


def test_an_output_root_that_cannot_be_written_to(tmp_path, tiny_overrides, capsys, no_model):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write anywhere")
    row = Row("", "output_root=@/closed/runs", {}, "output_root=@/closed/runs: @/closed cannot be written to")
    assert_one_sentence(check(row, tmp_path, tiny_overrides, capsys))


def test_a_full_disk(tmp_path, tiny_overrides, capsys, no_model, monkeypatch):
    monkeypatch.setattr("paft.runs.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    row = Row("", "K=1", {}, "runs: only 0 MiB are free on that disk")
    assert_one_sentence(check(row, tmp_path, tiny_overrides, capsys))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"notes.txt": "mine"}, "this folder is not one of ours (it has no run.json)"),
        ({"run.json": "{"}, "run.json: this file is damaged"),
        ({"run.json": "{}"}, "this run was made from other data or prompts"),
        ({"run.json": "[]"}, "this run was made from other data or prompts"),
    ],
    ids=["foreign", "damaged", "of another run", "no run at all"],
)
def test_a_folder_that_is_there_already_stays_as_it_is(files, sentence, tmp_path, tiny_overrides, capsys, no_model):
    name = compose_config(*tiny_overrides, "K=2").run_name
    there = {f"runs/{name}/{path}": content for path, content in files.items()}
    assert_one_sentence(check(Row("", "K=2", there, sentence), tmp_path, tiny_overrides, capsys))


def named(name: str, rows: list[Row]) -> Row:
    return next(row for row in rows if row.name == name)


COMMANDS = [
    (named("misspelt dataset", CONFIG), False),
    (named("K no number", CONFIG), False),
    (named("missing", RERUN), False),
    (Row("a sweep into a file", "hydra.mode=MULTIRUN ; K=1,2 ; output_root=@/file/runs", {"file": "x"}, "@/file/runs"), False),
    (named("no such answer", DATA), True),
    (named("model out of reach", MODEL), True),
]


@pytest.mark.parametrize(("row", "heavy"), COMMANDS, ids=lambda value: value.name if isinstance(value, Row) else "")
def test_the_command(row, heavy, tmp_path, tiny_overrides, without_torch):
    """The same from outside; a config that is wrong is refused without so much as an import of torch."""
    overrides, sentence = prepared(row, tmp_path, tiny_overrides)
    before = files_below(tmp_path)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if not heavy:
        environment["PYTHONPATH"] = str(without_torch)
    command = [sys.executable, TRAIN_PY, *overrides]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert sentence in done.stderr and "Traceback" not in done.stderr
    if "misspelt" in row.name:
        assert done.stderr.startswith("error: ")
    else:
        assert_one_sentence(done.stderr)
    assert files_below(tmp_path) == before


def test_code_that_comes_with_a_model_is_run_for_those_who_ask_for_it_by_name(tiny_llama, tmp_path, tiny_overrides):
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
    from paft.training import prepare

    with pytest.raises(InputError, match=r"if you trust who wrote it, give model\.remote_code=true"):
        prepare(compose_config(*tiny_overrides, f"model.path={folder}"))
    assert not (tmp_path / "ran").exists()
    assert prepare(compose_config(*tiny_overrides, f"model.path={folder}", "model.remote_code=true")).plan.updates
    assert (tmp_path / "ran").exists()


def test_neither_an_adapter_nor_a_results_file_says_whose_code_is_run(tmp_path):
    about = compose_config("model.remote_code=true")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    (adapter / "paft.json").write_text(
        json.dumps({"model": about.model.model_dump(), "dataset": about.dataset.model_dump(), "method": "paft"})
    )
    assert not compose_evaluation(f"adapter={adapter}").model.remote_code
    assert compose_evaluation(f"adapter={adapter}", "model.remote_code=true").model.remote_code
    mine = compose_config(f"rerun={tmp_path}")
    assert not entry.repeated(mine, about.model_dump(), []).model.remote_code

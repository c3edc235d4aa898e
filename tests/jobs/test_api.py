"""The Python API: the runs of the commands, rows and prompts that live in Python, and sentences for what is wrong."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import paft
from paft.config.command import literal
from paft.config.compose import compose_training
from paft.config.schema import EvaluateConfig, TrainConfig
from paft.jobs.api import _EVALUATE_PARAMETERS, _TRAIN_PARAMETERS
from paft.jobs.evaluate import run_evaluation
from paft.jobs.own_data import prompts_file, rows_as_jsonl
from paft.jobs.settings import overrides_of
from paft.prompts import load_pool
from paft.prompts.pool import Form
from paft.reporting.results import Results, read_results
from tests.conftest import compose_evaluation

ROWS = [{"q": f"Is {n} even or odd?", "A": "even", "B": "odd", "answer": "B" if n % 2 else "A", "n": n} for n in range(40)]
PROMPTS = ["{q} {A} or {B}?", "{q}\nA. {A}\nB. {B}\nAnswer:", "Choose {A} or {B}: {q}"]
UNSEEN = ["Q: {q} ({A}, {B})", "One of {A} and {B}. {q} =>"]
OWN: dict[str, Any] = {"choices": ["A", "B"], "gold": "answer", "answer": "text", "prompts": PROMPTS, "test_prompts": UNSEEN}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, where runs go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("place"))
        yield Path.cwd()


@pytest.fixture(scope="module")
def settings(tiny_llama: Path, place: Path) -> dict[str, Any]:
    return {
        "model": {"path": tiny_llama, "dtype": "fp32", "lora": {"r": 2}},
        "optim": {"lr": 1e-2},
        "trainer": {"accelerator": "cpu", "progress": False},
        "T": 1,
        "validation": {"examples": 2},
        "score_base": False,
    }


@pytest.fixture(scope="module")
def trained(settings: dict[str, Any]) -> Results:
    return paft.train(ROWS[:24], test_rows=ROWS[24:30], **OWN, **settings)


def test_rows_as_a_list_a_frame_and_a_path_are_the_same_run(trained, settings, capsys):
    first = trained
    assert first.folder.parent == Path("outputs") and first.kind == "training"
    before = (first.folder / "results.json").stat().st_mtime_ns
    frame = pd.DataFrame(ROWS)
    again = paft.train(frame[:24], test_rows=frame[24:30], **OWN, **settings)
    path = paft.train(first.config["dataset"]["path"], **OWN, **settings)
    assert first == again == path and {again.folder, path.folder} == {first.folder}
    assert (first.folder / "results.json").stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("Finished already") == 2


def test_a_call_is_the_run_that_the_command_would_name(trained, tiny_llama):
    config = trained.config
    typed = ["dataset=jsonl", f"dataset.path={config['dataset']['path']}", "dataset.choices=[A,B]", "dataset.gold=answer"]
    typed += ["dataset.answer=text", f"prompts.train={config['prompts']['train']}", f"prompts.test={config['prompts']['test']}"]
    typed += [f"model.path={tiny_llama}", "model.dtype=fp32", "model.lora.r=2", "optim.lr=1e-2", "T=1", "validation.examples=2"]
    assert compose_training(typed).run_name == trained.run


def test_evaluating_a_trained_run_is_the_commands_evaluation(trained, settings):
    machine = {"trainer": settings["trainer"]}
    by_api = paft.evaluate(trained, ROWS[30:36], **machine)
    rows = by_api.config["dataset"]["path"]
    typed = [f"adapter={trained.folder / 'adapter'}", f"dataset.path={rows}", "trainer.accelerator=cpu"]
    by_command = run_evaluation(compose_evaluation(*typed))
    assert by_command.run == by_api.run and by_command.robustness == by_api.robustness
    assert by_api.robustness is not None and (by_api.robustness.n_prompts, by_api.robustness.n_examples) == (2, 6)
    same = paft.evaluate(trained.folder, **machine)  # on the rows and the prompts of its own run
    assert same.robustness == trained.robustness
    other = paft.evaluate(str(trained.folder / "adapter"), prompts=PROMPTS[:1], eval_examples=3, allow_seen=True, **machine)
    assert other.robustness is not None and (other.robustness.n_prompts, other.robustness.n_examples) == (1, 3)


def test_a_base_model_is_evaluated_and_compared(trained, settings):
    own = {key: OWN[key] for key in ("choices", "gold", "answer")}
    base = paft.evaluate(None, ROWS[24:30], prompts=UNSEEN, **own, model=settings["model"], trainer=settings["trainer"])
    assert base.trained_by is None
    found = paft.compare(trained, base.folder)
    assert found.verdict.startswith("No interval can be given (fewer than 10 prompts")
    assert repr(found).split("\n")[1].startswith("mean") and repr(found).endswith(found.verdict)
    assert "<td>std over prompts, less the examples&#x27; noise</td>" in found._repr_html_()
    assert paft.compare([trained], [str(trained.folder)]).comparison.mean.value == 0
    with pytest.raises(paft.InputError, match="1 runs against 2"):
        paft.compare(trained, [base, base])
    assert paft.compare(trained, iter([trained.folder])).comparison.mean.value == 0
    for nothing, said in ((None, "not NoneType"), ([], "not an empty list"), ([trained, 3], "not int")):
        with pytest.raises(paft.InputError, match=said):
            paft.compare(trained, nothing)
    with pytest.raises(paft.InputError, match="holds no adapter"):
        paft.evaluate(base)


def test_results_show_themselves_as_frames_and_in_a_notebook(trained):
    results = trained
    assert results.robustness is not None
    scores = results.scores()
    assert len(scores) == 2 * 6 and scores.correct.mean() == pytest.approx(results.robustness.mean)
    assert {"prompt_id", "example_id", "correct", "predicted", "gold", "log_probs", "output"} <= {*scores.columns}
    prompts = results.per_prompt()
    assert list(prompts.columns) == ["prompt_id", "text", "wording", "layout", "accuracy"]
    assert sorted(prompts.text) == sorted(UNSEEN) and prompts.accuracy.is_monotonic_increasing
    assert prompts.accuracy.iloc[0] == pytest.approx(results.robustness.min)
    assert repr(results).startswith(f"Results({results.run}: mean ") and len(repr(results)) < 250
    assert "<th>worst</th>" in results._repr_html_()


def test_a_kept_run_knows_its_prompts():
    runs = Path(__file__).parent.parent.parent / "experiments" / "results" / "paper_cpu" / "runs"
    results = read_results(next(iter(sorted(runs.glob("piqa-*")))))
    assert len(results.per_prompt()) == len(set(results.scores().prompt_id)) > 10


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lr": 1e-3}, "lr: that is optim={'lr': ...} (optim.lr)."),
        ({"learning_rate": 1e-3}, "learning_rate: that is optim={'lr': ...} (optim.lr)."),
        ({"epochs": 3}, "epochs: that is T."),
        ({"num_train_epochs": 3}, "num_train_epochs: that is T."),
        ({"batch_size": 4}, "batch_size: that is examples_per_update."),
        ({"model_name_or_path": "x"}, "model_name_or_path: that is model={'path': ...} (model.path)."),
        ({"k": 4}, "k: that is K."),
        ({"label": "gold"}, "label: that is gold."),
        ({"r": 4}, "r: that is model={'lora': {'r': ...}} (model.lora.r)."),
        ({"optim": {"learning_rate": 1}}, "optim.learning_rate: that is optim={'lr': ...} (optim.lr)."),
        ({"optim": {"weightdecay": 1}}, "did you mean optim={'weight_decay': ...} (optim.weight_decay)?"),
        ({"optim": 1e-3}, "optim: this is a section; give a mapping, e.g. optim={'lr': ...} (optim.lr)."),
        ({"exmples_per_update": 8}, "did you mean examples_per_update?"),
        ({"nonsense": 1}, "nonsense: there is no such setting; conf/train.yaml and conf/evaluate.yaml list them."),
        ({"model": "llama3_8"}, "did you mean 'llama3_8b'? There are any, gemma3_1b_it, "),
        ({"model": "a/b"}, "a hub id or a folder is model={'path': 'a/b'}."),
        ({"dataset": "pika"}, "dataset='pika': did you mean 'piqa'?"),
        ({"K": 0}, "K=0: input should be greater than 0."),
        ({"K": object()}, "K: a setting is a text, a number, a list or a mapping of those, not a object."),
        ({"overrides": ["lr=3"]}, "overrides: "),
        ({"overrides": ["a b c"]}, "overrides: "),
        ({"rerun": "x"}, "rerun: a run is repeated by the command"),
        ({"overrides": ["rerun=x"]}, "rerun: a run is repeated by the command"),
        ({"rows": ROWS}, "test_rows has no value; give rows that are not trained on"),
        ({"test_rows": ROWS}, "rows has no value"),
        ({"rows": ROWS, "test_rows": ROWS, "dataset": "piqa"}, "names a built-in data set, and rows are your own"),
        ({"rows": [{"q": "?"}], "test_rows": ROWS}, "train.jsonl: dataset.gold has no value, and none of answer, "),
        ({"rows": ROWS, "test_rows": ROWS, "labels": "yes"}, "dataset.labels=yes: should be a list of two labels or more"),
        ({"rows": ROWS, "test_rows": ROWS, "shots": -1}, "dataset.shots=-1: input should be greater than or equal to 0"),
        ({"rows": "piqa", "test_rows": "x"}, "rows='piqa': "),
        ({"rows": {"q": 1}, "test_rows": ROWS}, "rows: this is one mapping; give a list of rows"),
        ({"rows": [], "test_rows": ROWS}, "rows: there are no rows"),
        ({"rows": [1], "test_rows": ROWS}, "rows[0]: a row is a dict"),
        ({"rows": [{"q": {1}}], "test_rows": ROWS}, "rows[0]['q']: a set is no value of a row"),
        ({"rows": "rows.csv", "test_rows": ROWS}, "rows='rows.csv': there is no such file of rows, in JSONL, JSON, CSV or"),
        ({"rows": "hub:a/b", "test_rows": ROWS}, "rows='hub:a/b': this holds the test rows, too"),
        ({"prompts": [3]}, "prompts[0]: a prompt is a text with fields in braces, not a int."),
        ({"test_prompts": []}, "test_prompts: the list is empty"),
        ({"prompts": "{story} {question}"}, "prompts: this is one template; give a list of them"),
    ],
)
def test_what_is_wrong_is_one_sentence(wrong, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(paft.InputError) as error:
        paft.train(**wrong)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "outputs").exists() or "rows" in wrong  # nothing has run


def test_every_setting_of_the_config_is_a_keyword():
    """Each by itself is taken, or is part of a section that is; and no alias hides a real name."""
    for config, parameters in ((TrainConfig, _TRAIN_PARAMETERS), (EvaluateConfig, _EVALUATE_PARAMETERS)):
        assert overrides_of({"cutoff": 512}, config, parameters) == ["++cutoff=512"]
        assert overrides_of({"model": {"lora": {"r": 2}}}, config, parameters) == ["++model.lora.r=2"]
        assert overrides_of({"model.lora.r": np.int64(2)}, config, parameters) == ["++model.lora.r=2"]
        assert overrides_of({"logger": {"name": "wandb", "project": "mine"}}, config, parameters) == [
            "logger=wandb",
            "++logger.project='mine'",
        ]
        assert overrides_of({"logger": ["wandb", "mlflow"]}, config, parameters) == ["logger=[wandb,mlflow]"]
    assert overrides_of({"model": {"lora": "all_linear"}}, TrainConfig, ()) == ["lora@model.lora=all_linear"]
    assert overrides_of({"method": {"name": "user", "prompt": "{q}"}, "scale": "smoke"}, TrainConfig, ()) == [
        "method=user",
        "scale=smoke",
        "++method.prompt='{q}'",
    ]


@pytest.mark.parametrize(
    "text",
    ["", " a ", "null", "1e-3", "it's", '"quoted"', "back\\", "\\'", "a\\nb", "two\nlines", "x=1, y", "(one), {q} [x] #c",
     "你是", "$x", "${x}", "$${y}", "a\\${x}", "\\\\'", "%s", "C:\\new\\"],
)  # fmt: skip
def test_any_text_arrives_as_it_is(text):
    assert compose_training([f"++method.prompt={literal(text)}"]).method.prompt == text


def test_prompts_and_rows_are_written_without_loss(tmp_path):
    texts = ["{q}\nSay it's {{ok}}: ", 'a "b" {q} \\ \u2028 你']
    form = Form(frozenset({"q"}), frozenset(), "text")
    pool = load_pool(Path(prompts_file(texts, "prompts", tmp_path)), form)
    assert [t.text for t in pool.templates] == texts
    templates = tuple(paft.PromptTemplate(text, f"mine-{i}", "me", "plain", "lines") for i, text in enumerate(texts))
    mine = paft.PromptPool("mine", templates, "text", "shown")
    assert load_pool(Path(prompts_file(mine, "prompts", tmp_path)), form).templates == templates
    frame = pd.DataFrame({"q": ["a", None], "n": [1, 2], "x": [0.5, np.nan]})
    assert rows_as_jsonl(frame, "rows") == '{"q": "a", "n": 1, "x": 0.5}\n{"q": null, "n": 2, "x": null}\n'
    days = pd.DataFrame({"day": [pd.Timestamp("2026-11-28"), pd.NaT], "x": [np.inf, 1.0]})  # as a file of them is read
    assert rows_as_jsonl(days, "rows") == '{"day": "2026-11-28T00:00:00", "x": null}\n{"day": null, "x": 1.0}\n'


def test_importing_paft_is_light_and_its_names_are_listed():
    script = (
        "import sys, paft\n"
        "assert not {'torch', 'hydra', 'pandas', 'numpy', 'pydantic'} & {*sys.modules}\n"
        "assert {*paft.__all__} <= {*dir(paft)} and paft.__version__\n"
        "for name in paft.__all__: getattr(paft, name)\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
        "try: paft.PAFT\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("module 'paft' has no attribute 'PAFT'; it has InputError, ")

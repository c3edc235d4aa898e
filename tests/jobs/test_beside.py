"""The runs that a run is shown beside: the base model, scored once for all that need it, and one fixed prompt."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from markupsafe import escape
from safetensors.torch import load_file

from paft.evaluation.matrix import read_matrix
from paft.evaluation.statistics import estimate
from paft.jobs.beside import base_run_of, user_run_of
from paft.jobs.preflight import check_run
from paft.jobs.train import run_training
from paft.model.base import load_base
from paft.reporting.results import Results, read_results
from paft.runtime.errors import InputError
from tests.conftest import compose_config
from tests.reliability.bad_inputs.files import lines, question


@pytest.fixture
def typed(tiny_overrides) -> list[str]:
    """A run of seconds whose base model is scored."""
    return [*tiny_overrides, "score_base=true"]


def names(root: Path) -> list[str]:
    """The methods of the finished runs in a folder."""
    return sorted(read_results(path).config["method"]["name"] for path in root.glob("*/results.json"))


def test_the_base_model_is_the_first_row(typed, tmp_path, capsys):
    results = run_training(compose_config(*typed))
    shown = capsys.readouterr().out
    base = run_training(compose_config(*typed, "method=base"))
    assert "Finished already" in capsys.readouterr().out  # it is the run of method=base
    assert base.training is None and base.verdict is not None and base.beside == {}
    beside = results.beside["base"]
    assert (beside.run, beside.robustness, beside.tail) == (base.run, base.robustness, base.tail)
    own, other = (read_matrix(run.folder / "matrix.parquet") for run in (results, base))
    assert (own.prompt_digests, own.example_digests) == (other.prompt_digests, other.example_digests)
    difference = estimate(own.correct.astype(float) - other.correct, np.unique(own.groups, return_inverse=True)[1])
    assert beside.difference == difference and difference.value == pytest.approx(results.robustness.mean - base.robustness.mean)
    assert read_results(results.folder) == results
    plan, table = shown.split("Scoring the base model: ")
    assert "base      is scored on the same renderings before training, once for all runs" in plan
    assert 0 < table.index("\n│ base") < table.index("\n│ paft") < table.index("Verdict: ")
    page = re.sub("</?abbr[^>]*>", "", (results.folder / "report.html").read_text(encoding="utf-8"))  # the terms, explained
    assert f'<p class="verdict">{escape(results.verdict)}</p>' in page and ">the base model</td>" in page


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_learnt_is_the_same_to_the_bit(dtype, typed, tmp_path):
    shape = [*typed, f"model.dtype={dtype}", "model.lora.dropout=0.1"]
    alone = run_training(compose_config(*shape, "score_base=false", f"output_root={tmp_path / 'alone'}"))
    beside = run_training(compose_config(*shape, f"output_root={tmp_path / 'beside'}"))
    assert alone.run == beside.run and alone.robustness == beside.robustness and not alone.beside
    one, other = (load_file(run.folder / "adapter" / "adapter_model.safetensors") for run in (alone, beside))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert (alone.folder / "matrix.parquet").read_bytes() == (beside.folder / "matrix.parquet").read_bytes()


def test_all_runs_of_a_sweep_share_one_base_model(typed, tmp_path, capsys):
    for own in ("seed=0", "method=user"):
        run_training(compose_config(*typed, own))
    assert names(tmp_path / "runs") == ["base", "paft", "user"]
    assert capsys.readouterr().out.count("Scoring the base model") == 1
    run_training(compose_config(*typed, "eval_examples=5"))
    assert names(tmp_path / "runs").count("base") == 2  # other rows


def test_a_finished_run_is_shown_beside_others_later_and_not_trained_again(typed, tmp_path, monkeypatch, capsys):
    alone = run_training(compose_config(*typed, "score_base=false"))
    with monkeypatch.context() as patch:
        patch.setattr("paft.jobs.one_run.fit", lambda *_: pytest.fail("trained again"))
        later = run_training(compose_config(*typed))
    assert [*later.beside] == ["base"] and read_results(later.folder) == later
    assert later.model_copy(update={"beside": {}, "verdict": alone.verdict}) == alone
    assert ">the base model</td>" in (later.folder / "report.html").read_text(encoding="utf-8")
    both = run_training(compose_config(*typed, "compare_with=[user]"))
    assert [*both.beside] == ["base", "user"] and both.robustness == alone.robustness
    again = run_training(compose_config(*typed, "score_base=false", "compare_with=[user]"))
    assert again == both
    before = (both.folder / "results.json").stat().st_mtime_ns
    monkeypatch.setattr("paft.jobs.train.load_base", lambda *_, **__: pytest.fail("the model was loaded"))
    assert run_training(compose_config(*typed)) == both and (both.folder / "results.json").stat().st_mtime_ns == before


def test_one_fixed_prompt_is_trained_first_as_a_run_of_its_own(typed, tmp_path, capsys):
    results = run_training(compose_config(*typed, "compare_with=[user]"))
    said = capsys.readouterr().out
    assert "user      is trained and scored first, under one fixed prompt, as a run of its own" in said
    assert names(tmp_path / "runs") == ["base", "paft", "user"] and [*results.beside] == ["base", "user"]
    user = run_training(compose_config(*typed, "method=user"))
    assert "Finished already" in capsys.readouterr().out and user.run == results.beside["user"].run
    assert user.robustness == results.beside["user"].robustness and [*user.beside] == ["base"]
    run_training(compose_config(*typed, "compare_with=[user]", "seed=1"))
    assert names(tmp_path / "runs") == ["base", "paft", "paft", "user", "user"]  # another seed is another run


def test_the_fixed_prompt_of_own_rows_is_the_first_training_prompt(typed, tmp_path):
    prompts = ["{question} A: {A} B: {B}\nAnswer:", "Choose A ({A}) or B ({B}). {question}"]
    (tmp_path / "mine.jsonl").write_text(lines(*({"text": text} for text in prompts)))
    (tmp_path / "unseen.jsonl").write_text(lines({"text": "{question} Is it {A} (A) or {B} (B)?"}))
    for name, first in (("train", 0), ("test", 100)):
        (tmp_path / f"{name}.jsonl").write_text(lines(*map(question, range(first, first + 30))))
    own = ["dataset=jsonl", f"dataset.path={tmp_path}", "dataset.gold=answer", "dataset.choices=[A,B]"]
    own += [f"prompts.train={tmp_path}/mine.jsonl", f"prompts.test={tmp_path}/unseen.jsonl", "T=1", "eval_prompts=null"]
    results = run_training(compose_config(*typed, *own, "compare_with=[user]"))
    user = read_results(tmp_path / "runs" / results.beside["user"].run)
    assert user.config["method"]["prompt"] == prompts[0]
    assert [*results.beside] == ["base", "user"] and results.verdict is not None and " 1 prompt " in results.verdict


def test_settings_that_are_chosen_by_validation_have_no_base_model(typed, tmp_path, capsys):
    results = run_training(compose_config(*typed, "evaluate=false", "validation.examples=2"))
    assert not results.beside and names(tmp_path / "runs") == ["paft"]
    assert "base      is not scored, because evaluate=false" in capsys.readouterr().out


def test_the_name_is_that_of_the_run_alone():
    plain = compose_config()
    assert base_run_of(plain).run_name == compose_config("method=base").run_name
    for own in (["lora@model.lora=all_linear", "K=8", "seed=3"], ["K=1"], ["model.lora.r=2"], ["optim.lr=1e-3"]):
        assert base_run_of(compose_config(*own)).run_name == base_run_of(plain).run_name
        assert base_run_of(compose_config(*own)).identity() == base_run_of(plain).identity()
    tilted = compose_config("loss=tilted", "sampler.templates_per_update=4")
    assert base_run_of(tilted).run_name == base_run_of(plain).run_name
    assert user_run_of(tilted, check_run(plain).inputs).run_name == compose_config("method=user").run_name
    assert (
        base_run_of(compose_config("rerun=results.json", "logger=wandb")).identity() == compose_config("method=base").identity()
    )


def test_an_interrupted_run_keeps_the_scores_of_its_base_model(typed, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("paft.jobs.one_run.fit", interrupted)
        run_training(compose_config(*typed))
    assert names(tmp_path / "runs") == ["base"]
    monkeypatch.setattr("paft.jobs.train._score_base", lambda *_: pytest.fail("scored again"))
    assert [*run_training(compose_config(*typed)).beside] == ["base"]


def harmed(results: Results, name: str) -> Path:
    """Damage the score matrix of a run that results are shown beside; return its path."""
    path = results.folder.parent / results.beside[name].run / "matrix.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    return path


def test_a_damaged_base_is_scored_again_and_a_damaged_run_is_said(typed, capsys):
    first = run_training(compose_config(*typed, "compare_with=[user]"))
    path = harmed(first, "base")
    capsys.readouterr()
    second = run_training(compose_config(*typed, "K=1"))
    said = capsys.readouterr().out
    assert f"BEWARE: {path}: this score matrix is damaged" in said and "Scoring the base model" in said
    assert second.beside["base"].robustness == first.beside["base"].robustness and read_matrix(path)
    path.with_name("results.json").write_text("{")
    third = run_training(compose_config(*typed, "K=2"))
    assert third.beside["base"].robustness == first.beside["base"].robustness
    path = harmed(first, "user")
    with pytest.raises(InputError, match=r"matrix\.parquet: this score matrix is damaged"):
        run_training(compose_config(*typed, "K=8", "compare_with=[user]"))
    assert path.is_file()


def test_a_base_folder_of_something_else_is_refused_before_the_model_is_loaded(typed, tmp_path, monkeypatch):
    monkeypatch.setattr("paft.jobs.train.load_base", lambda *_: pytest.fail("the model was loaded"))
    folder = tmp_path / "runs" / base_run_of(compose_config(*typed)).run_name
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="this folder is not one of ours"):
        run_training(compose_config(*typed))
    (folder / "notes.txt").unlink()
    (folder / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: this file is damaged"):
        run_training(compose_config(*typed))


def test_a_finished_base_may_lie_in_a_folder_that_cannot_be_written_to(typed, tmp_path):
    run_training(compose_config(*typed, "method=base"))
    folder = tmp_path / "runs" / base_run_of(compose_config(*typed)).run_name
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert [*run_training(compose_config(*typed)).beside] == ["base"]


def test_no_second_copy_of_the_model_is_loaded(typed, monkeypatch):
    loaded = []
    monkeypatch.setattr("paft.jobs.train.load_base", lambda *given, **more: loaded.append(1) or load_base(*given, **more))
    run_training(compose_config(*typed))
    assert len(loaded) == 1


def test_the_run_in_wandb_holds_the_verdict(tmp_path):
    import wandb

    from paft.reporting.wandb import RunLogger, log_results
    from tests.reporting.test_run_page import written

    results, _ = written(tmp_path)
    run = wandb.init(mode="offline", dir=tmp_path, project="paft", settings=wandb.Settings(silent=True))
    log_results(RunLogger(run), results.model_copy(update={"verdict": "Robust."}), tmp_path)
    assert dict(run.summary)["verdict"] == "Robust."
    run.finish()


def test_the_log_tells_whether_the_loss_fell(typed):
    from paft.reporting.verdict import _losses

    results = run_training(compose_config(*typed, "score_base=false", "T=4", "optim.lr=1e-2"))
    found = _losses(results.folder)
    assert found is not None and found[1] < found[0]
    rows = [float(line["loss"]) for line in logged(results.folder) if line.get("loss")]
    assert found == pytest.approx((rows[0], rows[-1]))  # twelve updates: a tenth is one


def logged(folder: Path) -> list[dict[str, str]]:
    import csv

    with (folder / "log" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_results_of_an_earlier_version_are_read(typed):
    results = run_training(compose_config(*typed, "score_base=false"))
    path = results.folder / "results.json"
    content = json.loads(path.read_text())
    for later in ("verdict", "beside"):
        del content[later]
    for later in ("score_base", "compare_with", "fail_under"):
        del content["config"][later]
    path.write_text(json.dumps(content))
    before = read_results(path)
    assert before.verdict is None and before.beside == {}
    assert [*run_training(compose_config(*typed)).beside] == ["base"]

"""What a W&B run holds of the results, logged offline."""

import json

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger

from paft.evaluation.robustness import Consensus
from paft.reporting.wandb import RunLogger, artifact_name, log_results, wandb_run
from paft.runtime.errors import InputError
from tests.conftest import compose_config
from tests.reporting.test_run_page import results_of, scored, written


def test_the_run_holds_summary_table_figure_and_report(tmp_path):
    results, page = written(tmp_path, generated=True)
    run = wandb.init(mode="offline", dir=tmp_path, project="paft", settings=wandb.Settings(silent=True))
    log_results(RunLogger(run), results, tmp_path)
    summary = dict(run.summary)
    run.finish()
    mean = results.uncertainty.mean
    assert summary["robustness/mean"] == results.robustness.mean and summary["extra_measures/adversarial/worst"] == 0.25
    assert (summary["uncertainty/mean/low"], summary["uncertainty/mean/high"]) == (mean.low, mean.high)
    media = next(tmp_path.glob("wandb/offline-run-*/files/media"))
    assert next(media.glob("html/report*.html")).read_text(encoding="utf-8") == page
    assert len(list(media.glob("images/distribution*.png"))) == 1
    table = json.loads(next(media.glob("table/per_prompt*.json")).read_text())
    assert table["columns"] == ["prompt_id", "accuracy", "n", "output_tokens", "seconds", "wording", "layout", "text"]
    assert table["data"][0] == ["p00", 0.0, 12.0, 3.0, 1.5, "", "", "0 {question} {A} {B}"]


def test_a_run_over_rows_without_labels_holds_what_there_is(tmp_path):
    run = wandb.init(mode="offline", dir=tmp_path, project="paft", settings=wandb.Settings(silent=True))
    found, pool, _ = scored(tmp_path)
    unlabelled = {"robustness": None, "uncertainty": None, "consensus": Consensus(0.75, None)}
    results = results_of(found, pool, **unlabelled)
    log_results(RunLogger(run), results, tmp_path)
    assert dict(run.summary)["consensus/agreement"] == 0.75
    run.finish()


def test_a_run_that_dies_is_a_failed_run(tmp_path):
    with (
        pytest.raises(ValueError, match="died"),
        wandb_run(compose_config("logger=wandb"), "n", "paft", tmp_path, None) as logger,
    ):
        assert logger is not None
        finish = logger.experiment.finish
        codes = []
        logger.experiment.finish = lambda exit_code: codes.append(exit_code) or finish(exit_code=exit_code)
        raise ValueError("died")
    assert codes == [1]


def test_a_wandb_that_fails_costs_no_result_and_is_sent_what_it_misses(tiny_overrides, monkeypatch, capsys):
    from paft.jobs.train import run_training

    def quota(*_, **__):
        raise wandb.errors.CommError("quota exceeded")

    config = compose_config(*tiny_overrides, "logger=wandb")
    monkeypatch.setattr(WandbLogger, "log_metrics", quota)
    monkeypatch.setattr(wandb, "Table", quota)
    folder = run_training(config).folder
    shown = capsys.readouterr().out
    assert (folder / "results.json").is_file() and len((folder / "log/version_0/metrics.csv").read_text().splitlines()) == 9
    assert shown.count("W&B misses metrics from update 0 on (CommError: quota exceeded)") == 1
    assert shown.count("W&B misses a part of") == 1
    monkeypatch.undo()
    run_training(config)
    assert len(list(folder.glob("wandb/offline-run-*"))) == 2
    assert list(folder.glob("wandb/offline-run-*/files/media/table/per_prompt*.json"))
    (drawn,) = folder.glob("wandb/offline-run-*/files/media/table/drawn*.json")
    assert json.loads(drawn.read_text())["data"]
    run_training(config)  # nothing is missing now
    assert len(list(folder.glob("wandb/offline-run-*"))) == 2


def test_a_finished_run_is_sent_when_wandb_is_asked_for(tiny_overrides):
    from paft.jobs.train import run_training

    folder = run_training(compose_config(*tiny_overrides)).folder
    assert not (folder / "wandb").exists()
    run_training(compose_config(*tiny_overrides, "logger=wandb"))
    assert len(list(folder.glob("wandb/offline-run-*/files/media/html/report*.html"))) == 1


@pytest.mark.parametrize("run", ["piqa-my model-paft-K4-1f2e3d4c", "piqa-模型-paft-K4-1f2e3d4c", f"piqa-{'x' * 200}-1f2e3d4c"])
def test_a_run_of_any_name_has_artifacts(run):
    """A run is named after its model's folder; W&B's alphabet is small."""
    name = artifact_name(run, "adapter")
    assert wandb.Artifact(name, "adapter").name.endswith("-1f2e3d4c-adapter") and len(name) <= 128
    assert artifact_name("piqa-smollm2-135m-paft-K4-T3-seed0-1f2e3d4c", "prompts").startswith("piqa-smollm2-135m-paft-K4-T3")


def test_variables_that_wandb_refuses_are_told_before_the_run(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(
        InputError, match=r"^the WANDB_ variables of the environment: W&B refuses this \(Input should be 'online'"
    ):
        compose_config("logger=wandb")

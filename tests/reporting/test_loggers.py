"""TensorBoard and MLflow hold what the CSV log and the results hold, each update once, whatever happens to a run or to them."""

import csv
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import MLFlowLogger

from paft.config.schema import TrainConfig
from paft.jobs.evaluate import run_evaluation
from paft.jobs.train import run_training
from paft.reporting.logged import numbers_of
from paft.reporting.results import Results
from paft.runtime.errors import InputError
from tests.conftest import Killed, compose_config, compose_evaluation, die_in
from tests.reporting.fake_wandb import KEY, fake_wandb

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="pip install tensorboard"
)
tracking = pytest.importorskip("mlflow.tracking", reason="pip install mlflow-skinny sqlalchemy alembic")

BOTH = "logger=[tensorboard,mlflow]"
STEPS = [0, 1, 2, 3, 4, 5]

Series = dict[str, list[tuple[int, float]]]  # figure -> (step, value)


@pytest.fixture(autouse=True)
def without_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def tensorboard(folder: Path) -> Series:
    log = event_accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {name: [(event.step, event.value) for event in log.Scalars(name)] for name in log.Tags()["scalars"]}


def mlflow(folder: Path) -> tuple[Series, "tracking.Run"]:
    client = tracking.MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    run = client.get_run((folder / "mlflow_id").read_text())
    names = run.data.metrics
    return {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in names}, run


def csv_log(folder: Path) -> Series:
    series: Series = {}
    for path in sorted(folder.glob("log/version_*/metrics.csv")):
        for row in csv.DictReader(path.open()):
            for name in ("loss", "lr", "validation/mean", "validation/worst"):
                if row.get(name):
                    series.setdefault(name, []).append((int(row["step"]), pytest.approx(float(row[name]), rel=1e-5)))
    return series


def check_logged(results: Results) -> None:
    """Check that each of the logs holds the updates and the results."""
    folder, updates = results.folder, csv_log(results.folder)
    assert [step for step, _ in updates["loss"]] == STEPS
    series, run = mlflow(folder)
    for logged in (tensorboard(folder), series):
        assert {name: logged[name] for name in updates} == updates
        for name, value in (numbers_of(results) | {"objective": results.objective("validation.mean")}).items():
            assert [logged_value for _, logged_value in logged[name]] == [pytest.approx(value, rel=1e-5)], name
    assert (folder / "tensorboard_logged").is_file() and (folder / "mlflow_logged").is_file()
    assert run.info.run_name == folder.name and run.info.status == "FINISHED"


def killed(config: TrainConfig, monkeypatch) -> None:
    """Train until the fifth update is logged, of which the fourth is the last that is saved."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_in(5, patch)
        run_training(config)


def test_each_logger_holds_updates_config_and_results(tiny_overrides, tmp_path, capfd):
    results = run_training(compose_config(*tiny_overrides, BOTH, "logger.project=mine", "logger.tags=[a,b]"), group="a-sweep")
    said = capfd.readouterr()
    assert "mlflow" not in (said.out + said.err).lower() and "alembic" not in said.err
    check_logged(results)
    _, run = mlflow(results.folder)
    tags = {"group": "a-sweep", "job_type": "paft", "dataset": "story_facts", "tags": "a, b"}
    assert tags.items() <= run.data.tags.items()
    assert run.data.params["optim.lr"] == "0.0001" and run.data.params["method.name"] == "paft"
    client = tracking.MlflowClient(f"sqlite:///{results.folder.parent / 'mlflow.db'}")
    assert client.get_experiment(run.info.experiment_id).name == "mine"
    assert yaml.safe_load((results.folder / "tensorboard" / "hparams.yaml").read_text())["optim.lr"] == 0.0001
    assert not list(results.folder.glob("wandb*"))


def test_a_resumed_run_continues_its_logs_and_repeats_no_update(tiny_overrides, monkeypatch):
    config = compose_config(*tiny_overrides, BOTH, "trainer.checkpoint_every=2")
    killed(config, monkeypatch)
    folder = Path(config.output_root) / config.run_name
    before, run = mlflow(folder)
    assert [step for step, _ in before["loss"]] == STEPS[:-1] and run.info.status == "KILLED"
    results = run_training(config)
    assert [path.name for path in results.folder.glob("log/version_*")] and results.folder == folder
    after, same = mlflow(folder)
    assert same.info.run_id == run.info.run_id and same.info.status == "FINISHED"
    for series in (after, tensorboard(folder)):
        for name in ("loss", "lr", "grad_norm", "epoch"):
            assert [step for step, _ in series[name]] == STEPS, name
        assert [step for step, _ in series["validation/mean"]] == [2, 5]


def test_a_resumed_run_repeats_no_update_in_wandb(tiny_overrides, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    config = compose_config(*tiny_overrides, "logger=wandb", "trainer.checkpoint_every=2")
    with fake_wandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        killed(config, monkeypatch)
        run_training(config)
    assert [row["trainer/global_step"] for row in server.history if "loss" in row] == STEPS
    assert [row["trainer/global_step"] for row in server.history if "validation/mean" in row] == [2, 5]


def test_a_finished_run_is_logged_when_a_logger_is_asked_for_and_once(tiny_overrides):
    run_training(compose_config(*tiny_overrides))
    check_logged(run_training(compose_config(*tiny_overrides, BOTH)))
    results = run_training(compose_config(*tiny_overrides, BOTH))
    check_logged(results)
    assert len(list((results.folder / "tensorboard").glob("events.*"))) == 1


def test_an_evaluation_is_logged(tiny_llama, tmp_path):
    shape = ["dataset=story_facts", "model=smollm2_135m", f"model.path={tiny_llama}", "model.dtype=fp32"]
    small = [
        "eval_examples=3",
        "eval_prompts=2",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        f"output_root={tmp_path}",
    ]
    results = run_evaluation(compose_evaluation(*shape, *small, BOTH))
    series, run = mlflow(results.folder)
    assert series["robustness/mean"] == [(0, results.robustness.mean)] and run.data.tags["job_type"] == "evaluation"
    assert [value for _, value in tensorboard(results.folder)["robustness/mean"]] == [pytest.approx(results.robustness.mean)]


def test_a_server_that_is_down_costs_nothing_and_is_sent_the_run_later(tiny_overrides, monkeypatch, capsys, nobody):
    config = compose_config(*tiny_overrides, BOTH)
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", nobody)
        results = run_training(config)
    said = capsys.readouterr().out
    assert said.count("MLflow gets nothing of") == 1 and "the same command sends it later." in said
    assert (results.folder / "tensorboard_logged").is_file() and not (results.folder / "mlflow_logged").exists()
    check_logged(run_training(config))


def test_a_server_that_fails_in_between_costs_nothing_and_is_sent_the_rest(tiny_overrides, monkeypatch, capsys):
    log = MLFlowLogger.log_metrics

    def log_three(self, metrics, step=None):
        if step == 3:
            raise ConnectionError("the server is gone. Or so")
        log(self, metrics, step)

    config = compose_config(*tiny_overrides, BOTH)
    with monkeypatch.context() as patch:
        patch.setattr(MLFlowLogger, "log_metrics", log_three)
        results = run_training(config)
    said = capsys.readouterr().out
    assert said.count("MLflow misses a part of") == 1 and "(ConnectionError: the server is gone)" in said
    assert not (results.folder / "mlflow_logged").exists()
    check_logged(run_training(config))


def test_a_run_that_mlflow_has_lost_is_logged_as_a_new_one(tiny_overrides):
    config = compose_config(*tiny_overrides, BOTH)
    folder = run_training(config).folder
    (folder / "mlflow_id").write_text("0" * 32)
    (folder / "mlflow_logged").unlink()
    check_logged(run_training(config))


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_logger_that_is_not_installed_is_named(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(InputError, match=rf"^logger={name}: {name} is not installed; run `pip install {name}`\.$"):
        compose_config(f"logger={name}")


def test_results_of_earlier_versions_are_read():
    """They name one logger."""
    now = compose_config()
    for logger, names in (({"name": "csv"}, []), ({"name": "wandb", "project": "p", "entity": None, "tags": []}, ["wandb"])):
        config = TrainConfig.model_validate(now.model_dump(mode="json") | {"logger": logger})
        assert config.logger.names == names and config.run_name == now.run_name

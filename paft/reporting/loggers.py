"""The loggers of a run besides its CSV log, as many as are asked for: W&B, TensorBoard, MLflow.

Each of them gets every update and validation, the config, and the numbers of the results, under the same names. What earlier
processes of the run did not log is taken from the CSV log, and nothing is logged twice where a resumed run repeats updates. A
logger that fails never stops a run: it prints what is missing, and the same command sends it again. A file NAME_logged in the
run's folder says that a logger has the whole run.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger

from paft.config.schema import EvaluateConfig, TrainConfig
from paft.reporting import wandb
from paft.reporting.logged import earlier_updates, numbers_of
from paft.reporting.results import Results, read_results
from paft.runtime import ranks
from paft.runtime.errors import first_sentence
from paft.runtime.files import write_atomically
from paft.runtime.mappings import flat
from paft.runtime.run_folder import RunFolder

Config = TrainConfig | EvaluateConfig

_TITLES = {"wandb": "W&B", "tensorboard": "TensorBoard", "mlflow": "MLflow"}
# How long MLflow waits for its server, unless these variables are set: a run is not to be held up.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_MLFLOW_ID = "mlflow_id"  # a file in the run's folder: the MLflow run that a resumed run continues


class RunLog(Logger):
    """A logger of Lightning's over a whole run, scoring included, that logs each figure of an update once.

    Args:
        kind: its name in conf/logger/.
        logger: Lightning's.
        folder: of the run.
        last: of each figure, the last step that earlier processes logged.
    """

    def __init__(self, kind: str, logger: TensorBoardLogger | MLFlowLogger, folder: Path, last: Mapping[str, int]) -> None:
        super().__init__()
        self.kind, self.logger, self.folder, self.last = kind, logger, folder, dict(last)
        self.failed: str | None = None  # the reason why it does not have all of this run
        self.complete = False  # whether it has the results

    @property
    def name(self) -> str | None:
        """What Lightning's logger is called."""
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        """The id of the log."""
        return self.logger.version

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the config is logged when the run begins."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the figures of an update that it lacks; after the first failure do nothing."""
        new = {name: value for name, value in metrics.items() if step is None or step > self.last.get(name, -1)}
        if self.failed is not None or not new:
            return
        try:
            self.logger.log_metrics(new, step)
        except Exception as error:  # e.g. a server that cannot be reached, or a full disk; the CSV log has all updates
            self._fail(error)
        else:
            self.last |= {} if step is None else dict.fromkeys(new, step)

    def save(self) -> None:
        """Write what is logged so far."""
        if self.failed is None:
            try:
                self.logger.save()
            except Exception as error:
                self._fail(error)

    def finalize(self, status: str) -> None:
        """Do nothing when training ends: the run goes on with scoring."""

    def log_results(self, results: Results, config: Config) -> None:
        """Log the numbers of a run's results."""
        numbers = numbers_of(results) | _objective(results, config)
        try:
            if isinstance(self.logger, TensorBoardLogger):
                self.logger.log_hyperparams(flat(config.model_dump()), numbers)
            else:  # what has been there since an earlier time, for a run that gets more measures, is not repeated
                known = self.logger.experiment.get_run(self.logger.run_id).data.metrics
                self.logger.log_metrics({name: value for name, value in numbers.items() if known.get(name) != value})
            self.complete = self.failed is None
        except Exception as error:
            self._fail(error)

    def finish(self, status: str) -> None:
        """End the log; mark the run as logged if it has all of it."""
        try:
            self.logger.finalize(status)
            if self.complete:
                write_atomically(_mark(self.folder, self.kind), "")
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self.failed is None:
            self.failed, self.complete = f"{type(error).__name__}: {first_sentence(error)}", False
            print(
                f"{_TITLES[self.kind]} misses a part of {self.folder.name} ({self.failed}); it is in {self.folder}; the same "
                "command sends it again.",
                flush=True,
            )


def _mark(folder: Path, kind: str) -> Path:
    return folder / f"{kind}_logged"


def _missing(config: Config, folder: Path) -> list[str]:
    """Return the loggers that are asked for and lack a finished run."""
    has = {"wandb": wandb.has_logged(folder)}
    return [kind for kind in config.logger.names if not has.get(kind, _mark(folder, kind).is_file())]


def misses(config: Config, folder: Path) -> bool:
    """Return whether a logger lacks a finished run: it was not asked for, it failed, or the run was killed before the end."""
    return bool(_missing(config, folder))


@contextmanager
def run_loggers(config: Config, name: str, job_type: str, folder: Path, group: str | None) -> Iterator[list[Logger]]:
    """Start the loggers of a run, yield them, and finish them. Of several ranks only the first logs.

    Args:
        name: of the run, in each of them.
        job_type: its kind, as they show it.
        folder: of the run.
        group: the sweep that the run belongs to.
    """
    loggers: list[Logger] = []
    with ExitStack() as stack:
        for kind in config.logger.names if ranks.rank() == 0 else []:
            if kind == "wandb":
                logger: Logger | None = stack.enter_context(wandb.wandb_run(config, name, job_type, folder, group))
            else:
                logger = stack.enter_context(_run_log(kind, config, name, job_type, folder, group))
            loggers += [] if logger is None else [logger]
        yield loggers


def log_results(loggers: Sequence[Logger], results: Results, config: Config, folder: Path) -> None:
    """Log the results of a run with each of its loggers."""
    for logger in loggers:
        if isinstance(logger, RunLog):
            logger.log_results(results, config)
        elif isinstance(logger, wandb.RunLogger):
            wandb.log_results(logger, results, folder, _objective(results, config).get("objective"))


def send_results(config: Config, name: str, job_type: str, run_folder: RunFolder, group: str | None) -> None:
    """Send a finished run to the loggers that lack it."""
    missing = _missing(config, run_folder.path)
    lacking = config.logger.model_copy(update={kind: kind in missing for kind in config.logger.names})
    config = config.model_copy(update={"logger": lacking})
    with run_folder.held(), run_loggers(config, name, job_type, run_folder.path, group) as loggers:
        log_results(loggers, read_results(run_folder.results), config, run_folder.path)


def _objective(results: Results, config: Config) -> dict[str, float]:
    """Return what a search by this config maximises, under its name; nothing for a run that is none to search by."""
    value = results.objective(config.objective) if isinstance(config, TrainConfig) else None
    return {} if value is None else {"objective": value}


@contextmanager
def _run_log(kind: str, config: Config, name: str, job_type: str, folder: Path, group: str | None) -> Iterator[RunLog | None]:
    """Start a log of TensorBoard's or MLflow's, yield it, and end it; yield None if it cannot be started."""
    _mark(folder, kind).unlink(missing_ok=True)
    log = None
    try:
        if kind == "tensorboard":
            log = RunLog(kind, _tensorboard(config, folder), folder, {})
        else:
            tags = {"group": group, "job_type": job_type, "dataset": config.dataset.name, "tags": ", ".join(config.logger.tags)}
            mlflow = _mlflow(config, name, {key: tag for key, tag in tags.items() if tag}, folder)
            log = RunLog(kind, mlflow, folder, _last_steps(mlflow, folder))
    except Exception as error:  # the run matters more
        reason = f"{type(error).__name__}: {first_sentence(error)}"
        print(f"{_TITLES[kind]} gets nothing of {folder.name} now ({reason}); the same command sends it later.", flush=True)
    if log is None:
        yield None
        return
    try:
        for step, metrics in earlier_updates(folder):
            log.log_metrics(metrics, step)
        yield log
    except BaseException as error:
        log.finish("failed" if isinstance(error, Exception) else "KILLED")
        raise
    log.finish("success")


def _tensorboard(config: Config, folder: Path) -> TensorBoardLogger:
    """Return a log in RUN/tensorboard that begins anew: what earlier processes logged is written again from the CSV log.

    Their event files may lack the last updates before a kill, and hold updates that are repeated now.
    """
    for old in (folder / "tensorboard").glob("events.out.tfevents.*"):
        old.unlink()
    logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
    logger.hparams = flat(config.model_dump())  # hparams.yaml is written once, when the first updates are
    return logger


def _mlflow(config: Config, name: str, tags: dict[str, Any], folder: Path) -> MLFlowLogger:
    """Return the log of an MLflow run: the one that earlier processes of this run began, or a new one with its config."""
    for variable, value in _PATIENCE.items():
        os.environ.setdefault(variable, value)
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # not: that it makes its tables, and the experiment
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(config.output_root).resolve() / 'mlflow.db'}"
    file = folder / _MLFLOW_ID
    if file.is_file():
        logger = MLFlowLogger(config.logger.project, tracking_uri=uri, run_id=file.read_text(encoding="utf-8"))
        try:
            logger.experiment.update_run(logger.run_id, status="RUNNING")
            return logger
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted, or of another server
                raise
    logger = MLFlowLogger(config.logger.project, name, uri, tags)
    try:
        run_id = logger.run_id
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # the experiment: another run of the sweep was faster
            raise
        run_id = logger.run_id
    logger.log_hyperparams(flat(config.model_dump()))
    write_atomically(file, str(run_id))
    return logger


def _last_steps(logger: MLFlowLogger, folder: Path) -> dict[str, int]:
    """Return of each figure of the CSV log the last step that MLflow has; nothing for what it lacks."""
    names = {name for _, metrics in earlier_updates(folder) for name in metrics}
    history = {name: logger.experiment.get_metric_history(logger.run_id, name) for name in names}
    return {name: max(figure.step for figure in figures) for name, figures in history.items() if figures}

"""Weights & Biases: online where the machine is logged in, otherwise offline; never a question, never a hang, no result lost.

Whatever W&B does, a run ends with its results in its folder. What may wait for a network is waited for no longer than the
limits below; then W&B's service is ended and the run says what W&B misses. A run is marked as logged once W&B has it.
"""

import csv
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from paft.config.schema import EvaluateConfig, TrainConfig
from paft.reporting.results import Results, read_results
from paft.runtime import ranks
from paft.runtime.files import write_atomically
from paft.runtime.run_folder import RunFolder

# Seconds. A run waits at most for the first of these at its start and, if it began, for the next two at its end.
_INIT_S = 30
_UPLOAD_S = 60  # the adapter and the pools
_FINISH_S = 30  # all the rest
_ANSWER_S = 10  # each: an update is handed over, W&B shows what it was sent, its service ends; usually at once
_LOGGED = "wandb_logged"  # in the folder of a run: it is in W&B or, where that was wanted, in the offline run that lies there


class RunLogger(WandbLogger):
    """A logger whose failures cost no update of a training run; it names the first one.

    Args:
        online: whether W&B is to have the run now.
        wanted: whether this run is what was asked for: not an offline one where W&B could not be reached, nor a disabled one.
    """

    def __init__(self, experiment: Any, online: bool = False, wanted: bool = True) -> None:
        super().__init__(experiment=experiment)
        self.online, self.wanted = online, wanted
        self.failed: str | None = None  # why W&B does not have all of this run
        self.sent: dict[str, float] | None = None  # the numbers of the summary, once there are results

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Hand an update over; nothing more after the first that failed."""
        if self.failed is not None:
            return
        try:
            _within(_ANSWER_S, lambda: WandbLogger.log_metrics(self, metrics, step))
        except Exception as error:  # its service died, a full disk; the CSV has them all
            self.failed = _said(error)
            print(
                f"W&B misses metrics from update {step} on ({self.failed}); they are in log/ of the run's folder.", flush=True
            )


def misses(config: TrainConfig | EvaluateConfig, folder: Path) -> bool:
    """Say whether a finished run still has to be sent: it was killed before, or W&B had failed."""
    return config.logger.name == "wandb" and not (folder / _LOGGED).is_file()


@contextmanager
def wandb_run(
    config: TrainConfig | EvaluateConfig, name: str, job_type: str, folder: Path, group: str | None
) -> Iterator[RunLogger | None]:
    """Yield the Lightning logger of a W&B run for this run, None where there is none, and finish it after.

    Each run has a W&B run of its own, in a sweep too; one that goes on, goes on online. WANDB_MODE is respected; without
    it the run is online if this machine has a key, else offline. Of several ranks the first logs for all.
    """
    logger = None
    if config.logger.name == "wandb" and ranks.rank() == 0:
        (folder / _LOGGED).unlink(missing_ok=True)
        logger = _start(config, name, job_type, folder, group)
    if logger is None:
        yield None
        return
    try:
        _catch_up(logger, folder)
        yield logger
    except BaseException:
        _finish(logger, 1, folder)
        raise
    _finish(logger, 0, folder)


def _finish(logger: RunLogger, exit_code: int, folder: Path) -> None:
    """Finish the W&B run, mark the run as logged if W&B has it, and otherwise say what it misses."""
    try:
        _within(_FINISH_S, lambda: logger.experiment.finish(exit_code=exit_code))
        if logger.failed is None and logger.sent is not None:
            if logger.online:
                _within(_ANSWER_S, lambda: _wait_until_shown(logger))
            if logger.wanted:
                write_atomically(folder / _LOGGED, "")
    except Exception as error:
        logger.failed = logger.failed or _said(error)
    finally:
        _end_service()
    if logger.failed is not None:
        print(
            f"W&B misses a part of {folder.name} ({logger.failed}); it is in {folder}; the same command sends it.", flush=True
        )


def _wait_until_shown(logger: RunLogger) -> None:
    """Return once W&B shows the summary that it was sent: only there can be seen that it took the run."""
    import wandb

    run, sent = logger.experiment, logger.sent or {}
    api = wandb.Api(timeout=_ANSWER_S)
    while True:
        shown = api.run(f"{run.entity}/{run.project}/{run.id}").summary_metrics
        if sent.items() <= shown.items():
            return
        time.sleep(0.5)


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return what a call of W&B's returns; raises TimeoutError where it takes longer, after its service was killed.

    W&B waits for ever for its service, which waits for the network. A thread of ours can be left behind.
    """
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # it is raised where it is waited for
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    finally:  # Ctrl-C does not wait either
        if thread.is_alive():
            _kill_service()
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer for {seconds} s")
    return outcome[0]


def _kill_service() -> None:
    import psutil  # type: ignore[import-untyped]

    with suppress(psutil.Error):
        for child in psutil.Process().children():
            if child.name().startswith("wandb-core"):
                child.kill()


def _end_service() -> None:
    """End W&B's service, for which the process would wait at its exit, unless the caller's own W&B run needs it."""
    import wandb

    if wandb.run is None:
        with suppress(Exception, SystemExit):  # it is dead already
            _within(_ANSWER_S, wandb.teardown)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def send_results(
    config: TrainConfig | EvaluateConfig, name: str, job_type: str, run_folder: RunFolder, group: str | None
) -> None:
    """Send a finished run, which W&B misses."""
    with run_folder.held(), wandb_run(config, name, job_type, run_folder.path, group) as logger:
        if logger is not None:
            log_results(logger, read_results(run_folder.results), run_folder.path)


def _start(config: TrainConfig | EvaluateConfig, name: str, job_type: str, folder: Path, group: str | None) -> RunLogger | None:
    import wandb

    mode: Any = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")

    def start(mode: Any, **same: Any) -> Any:
        return wandb.init(
            mode=mode,
            dir=str(folder),
            project=config.logger.project,
            entity=config.logger.entity,
            name=name,
            group=group,
            job_type=job_type,
            tags=[config.dataset.name, *config.logger.tags],
            config=config.model_dump(),
            settings=wandb.Settings(init_timeout=_INIT_S, silent=True, reinit="create_new"),  # init writes into these
            **same,
        )

    online = mode == "online"
    try:
        # Only the server can go on with a run: two offline runs of one id would replace each other at `wandb sync`.
        same = {"id": _id(folder), "resume": "allow"} if online else {}
        return RunLogger(_within(_INIT_S + _ANSWER_S, lambda: start(mode, **same)), online, wanted=mode != "disabled")
    except Exception as error:  # unreachable, key refused, timed out, a full disk: the run matters more
        reason = _said(error)
    _end_service()
    if online and not (folder / "results.json").is_file():  # a finished run is in its folder anyway
        with suppress(Exception):
            logger = RunLogger(_within(_INIT_S + _ANSWER_S, lambda: start("offline")), wanted=False)
            print(
                f"W&B could not be reached ({reason}); logging offline. When it can be, the same command sends the finished "
                f"run, or `wandb sync {folder}/wandb/offline-run-*`.",
                flush=True,
            )
            return logger
        _end_service()
    print(f"W&B gets nothing of {folder.name} now ({reason}); the same command sends it later.", flush=True)
    return None


def _catch_up(logger: RunLogger, folder: Path) -> None:
    """Log the updates of earlier processes that W&B does not have, because it failed then or was not asked for."""
    updates = _earlier_updates(folder)
    known = logger.experiment.summary.get("trainer/global_step", -1) if updates else -1
    for step, metrics in updates:
        if step > known:
            logger.log_metrics(metrics, step)


def _earlier_updates(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Return what the CSV log holds; what was done twice is there once, a line that a kill cut off is not."""
    rows: dict[tuple[Any, ...], tuple[int, dict[str, float]]] = {}
    for path in sorted(folder.glob("log/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                with suppress(KeyError, TypeError, ValueError):
                    metrics = {name: float(value) for name, value in row.items() if value != ""}
                    step = int(metrics.pop("step"))
                    rows[step, *metrics] = step, metrics
    return list(rows.values())


def log_results(logger: RunLogger, results: Results, folder: Path) -> None:
    """Add to the run its summary, pools and adapter and, where rows have labels, the per-prompt table, figure and report.

    Where W&B fails, that is said when the run is finished, and the same command sends them another time.
    """
    try:
        logger.sent = _within(_UPLOAD_S, lambda: _log(logger, results, folder))
    except Exception as error:
        logger.failed = logger.failed or _said(error)


def _log(logger: RunLogger, results: Results, folder: Path) -> dict[str, float]:
    import wandb

    run = logger.experiment
    numbers: dict[str, float] = {}
    content = results.model_dump()
    for group in ("robustness", "uncertainty", "consensus", "extra_measures"):
        numbers |= _flat(group, content[group] or {})
    run.summary.update(numbers)
    if results.robustness is not None:
        with (folder / "per_prompt.csv").open(encoding="utf-8") as file:
            names, *rows = csv.reader(file)
        table = wandb.Table(columns=[*names], data=[[id_, *map(float, values)] for id_, *values in rows])
        run.log({
            "per_prompt": table,
            "distribution": wandb.Image(str(folder / "distribution.png")),
            "report": wandb.Html((folder / "report.html").read_text(encoding="utf-8"), inject=False),
        })  # fmt: skip
    artifacts = []
    for kind in ("prompts", "adapter"):
        if (folder / kind).is_dir():
            artifact = wandb.Artifact(f"{results.run}-{kind}", kind)
            artifact.add_dir(str(folder / kind))
            artifacts.append(run.log_artifact(artifact))
    if logger.online:
        for artifact in artifacts:  # they are sent in the background
            artifact.wait()
    return numbers


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, float]:
    """Return nested numbers under names with slashes; what is no number is left out."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}/{key}"
        if isinstance(value, dict):
            flat |= _flat(name, value)
        elif isinstance(value, int | float):
            flat[name] = value
    return flat


def _id(folder: Path) -> str:
    """Return the id of the folder's W&B run, which a continued run keeps."""
    from wandb.sdk.lib.runid import generate_id

    path = folder / "wandb_id"
    if not path.is_file():
        write_atomically(path, generate_id())
    return path.read_text(encoding="utf-8")


def logged_in() -> bool:
    """Say whether this machine has a key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False

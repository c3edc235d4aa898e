"""Logging to Weights & Biases (W&B): online where the machine is logged in, otherwise offline.

W&B never asks a question and never holds up a run: whatever it does, the results are in the run's folder. Each call that may
wait for the network has one of the time limits below. When it is exceeded, W&B's service is ended, and the run prints what
W&B lacks. A run is marked as logged once W&B has all of it; until then the same command sends it again.
"""

import csv
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

from lightning.pytorch.loggers import WandbLogger

from paft.config.schema import EvaluateConfig, TrainConfig
from paft.reporting.logged import earlier_updates, numbers_of
from paft.reporting.results import DrawnRecord, Results
from paft.runtime.files import write_atomically

# Time limits in seconds.
_INIT_S = 30  # starting, at the start of a run
_UPLOAD_S = 60  # sending the adapter and the pools, at its end
_FINISH_S = 30  # sending the rest, at its end
_ANSWER_S = 10  # a short call: logging an update, reading back the summary, ending the service
_ARTIFACT_NAME = 128  # characters, at most: NAME_MAXLEN of wandb/sdk/artifacts/_validators.py
_LOGGED = "wandb_logged"  # a file in the run's folder: W&B has the run, or the offline run that was asked for has it


class RunLogger(WandbLogger):
    """A W&B logger whose failure does not stop training; it prints the first failure and logs nothing afterwards.

    Args:
        experiment: the W&B run.
        online: whether the run is sent to W&B while it goes.
        wanted: whether the W&B run is of the mode that was asked for. False for an offline run in place of an online one, and
            for a disabled run.
    """

    def __init__(self, experiment: Any, online: bool = False, wanted: bool = True) -> None:
        super().__init__(experiment=experiment)
        self.online, self.wanted = online, wanted
        self.last: dict[bool, int] = {}  # whether of an update or a validation -> the last that earlier processes logged
        self.failed: str | None = None  # the reason why W&B does not have all of this run
        self.sent: dict[str, float] | None = None  # the numbers of the summary, once results were sent

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log an update that W&B lacks, because a resumed run repeats some; after the first failure do nothing."""
        if self.failed is not None or (step is not None and step <= self.last.get("loss" in metrics, -1)):
            return
        try:
            within(_ANSWER_S, lambda: WandbLogger.log_metrics(self, metrics, step))
        except Exception as error:  # e.g. a dead service or a full disk; the CSV log has all updates
            self.failed = _one_line(error)
            print(
                f"W&B misses metrics from update {step} on ({self.failed}); they are in log/ of the run's folder.", flush=True
            )


def has_logged(folder: Path) -> bool:
    """Return whether W&B has a finished run, under the id that a W&B agent wants if one started this process."""
    mark = folder / _LOGGED
    return mark.is_file() and _wanted_by_agent() in (None, mark.read_text(encoding="utf-8"))


def _wanted_by_agent() -> str | None:
    """Return the id of the W&B run that a sweep's agent waits for; None without an agent."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


@contextmanager
def wandb_run(
    config: TrainConfig | EvaluateConfig, name: str, job_type: str, folder: Path, group: str | None
) -> Iterator[RunLogger | None]:
    """Start a W&B run, yield its Lightning logger, and finish it; yield None where W&B cannot take it.

    Each run has a W&B run of its own, also within a sweep. A resumed run continues its W&B run if it is online. The
    environment variable WANDB_MODE sets the mode; without it the W&B run is online if this machine has a key, else offline.
    Where a W&B agent has started this process, the W&B run is the one that the agent waits for.

    Args:
        name: of the W&B run.
        job_type: its kind, as W&B shows it.
        folder: of the run.
        group: the sweep that the run belongs to.
    """
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
    """Finish the W&B run; mark the run as logged if W&B has all of it, otherwise print what W&B lacks."""
    try:
        within(_FINISH_S, lambda: logger.experiment.finish(exit_code=exit_code))
        if logger.failed is None and logger.sent is not None:
            if logger.online:
                within(_ANSWER_S, lambda: _wait_until_shown(logger))
            if logger.wanted:
                write_atomically(folder / _LOGGED, logger.experiment.id)
    except Exception as error:
        logger.failed = logger.failed or _one_line(error)
    finally:
        end_service()
    if logger.failed is not None:
        print(
            f"W&B misses a part of {folder.name} ({logger.failed}); it is in {folder}; the same command tries again.",
            flush=True,
        )


def _wait_until_shown(logger: RunLogger) -> None:
    """Return once W&B's server shows the summary that was sent, the only sign that it has received the run."""
    import wandb

    run, sent = logger.experiment, logger.sent or {}
    api = wandb.Api(timeout=_ANSWER_S)
    while True:
        shown = api.run(f"{run.entity}/{run.project}/{run.id}").summary_metrics
        if sent.items() <= shown.items():
            return
        time.sleep(0.5)


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return the result of a call to W&B; if it takes longer than `seconds`, kill W&B's service and raise TimeoutError.

    W&B waits without a limit for its service, which waits for the network. The call therefore runs in a thread, which can be
    abandoned.
    """
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    finally:  # also after Ctrl-C
        if thread.is_alive():
            _kill_service()
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer for {seconds} s")
    return outcome[0]


def _kill_service() -> None:
    """Kill W&B's service, a child process of this one."""
    import psutil  # type: ignore[import-untyped]

    _expect_dead_threads()
    with suppress(psutil.Error):
        for child in psutil.Process().children():
            if child.name().startswith("wandb-core"):
                child.kill()


def end_service() -> None:
    """End W&B's service, unless a W&B run of the caller's needs it; otherwise this process would wait for it at exit."""
    import wandb

    if wandb.run is None:
        _expect_dead_threads()
        with suppress(Exception, SystemExit):  # the service may be dead already
            within(_ANSWER_S, wandb.teardown)


_without_service: "WeakSet[threading.Thread]" = WeakSet()


def _expect_dead_threads() -> None:
    """Let W&B's threads of now end without a word: what they still want to send will have no service."""
    _without_service.update(thread for thread in threading.enumerate() if thread.name.startswith("wandb-"))
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _print_unless_expected


def _print_unless_expected(failed: threading.ExceptHookArgs) -> None:
    """Print why a thread died, unless that was to be expected."""
    if failed.thread not in _without_service:
        threading.__excepthook__(failed)


def _one_line(error: Exception) -> str:
    """Return the type of an error and its message, on one line of limited length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _start(config: TrainConfig | EvaluateConfig, name: str, job_type: str, folder: Path, group: str | None) -> RunLogger | None:
    """Start a W&B run: online if possible, otherwise offline; None if neither can be."""
    import wandb

    mode: Any = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")

    def start(mode: Any, **resume: Any) -> Any:
        run = wandb.init(
            mode=mode,
            dir=str(folder),
            project=config.logger.project,
            entity=config.logger.entity,
            name=name,
            group=group,
            job_type=job_type,
            tags=[config.dataset.name, *config.logger.tags],
            config=config.model_dump(),
            settings=wandb.Settings(init_timeout=_INIT_S, silent=True, reinit="create_new"),  # a new object: init changes it
            **resume,
        )
        _define_metrics(run)
        return run

    online = mode == "online"
    try:
        # Only the server can resume a W&B run: two offline runs of the same id would replace each other at `wandb sync`.
        resume = {"id": _id(folder), "resume": "allow"} if online else {}
        return RunLogger(within(_INIT_S + _ANSWER_S, lambda: start(mode, **resume)), online, wanted=mode != "disabled")
    except Exception as error:  # e.g. unreachable, key refused, time limit, full disk; the run matters more
        reason = _one_line(error)
    end_service()
    if online and not (folder / "results.json").is_file():  # a finished run can be sent later from its folder
        with suppress(Exception):
            logger = RunLogger(within(_INIT_S + _ANSWER_S, lambda: start("offline")), wanted=False)
            print(
                f"W&B could not be reached ({reason}); logging offline. When it can be, the same command sends the finished "
                f"run, or `wandb sync {folder}/wandb/offline-run-*`.",
                flush=True,
            )
            return logger
        end_service()
    print(f"W&B gets nothing of {folder.name} now ({reason}); once W&B takes it, the same command sends it.", flush=True)
    return None


def _define_metrics(run: Any) -> None:
    """Have W&B show figures over updates, and summarise them by what is best: the highest validation, the lowest loss."""
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    best = {"loss": "last,min", "validation/mean": "max", "validation/worst": "max", "validation/std": "min"}
    for name, summary in best.items():
        run.define_metric(name, step_metric="trainer/global_step", step_sync=True, summary=summary)


def _catch_up(logger: RunLogger, folder: Path) -> None:
    """Log the updates of earlier processes that W&B lacks, because it failed then or was not asked for."""
    updates = earlier_updates(folder)
    known = logger.experiment.summary.get("trainer/global_step", -1) if updates else -1
    for step, metrics in updates:
        if step > known:
            logger.log_metrics(metrics, step)
    for step, metrics in updates:
        logger.last["loss" in metrics] = max(step, logger.last.get("loss" in metrics, -1))


def log_results(logger: RunLogger, results: Results, folder: Path, objective: float | None = None) -> None:
    """Log the results of a run: summary, pools and adapter and, where rows have labels, per-prompt table, figure and page.

    A failure of W&B is printed when the W&B run is finished; the same command then sends the results again.

    Args:
        objective: what a search maximises, if the run has it.
    """
    try:
        logger.sent = within(_UPLOAD_S, lambda: _log(logger, results, folder, objective))
    except Exception as error:
        logger.failed = logger.failed or _one_line(error)


def _log(logger: RunLogger, results: Results, folder: Path, objective: float | None) -> dict[str, float]:
    """Log the results of a run, wait until the artifacts are sent, and return the numbers of the summary."""
    import wandb

    run = logger.experiment
    numbers = numbers_of(results)
    texts = {"verdict": results.verdict, "warnings": "\n".join(results.warnings)}
    run.summary.update(numbers | {name: text for name, text in texts.items() if text})
    media: dict[str, Any] = {} if objective is None else {"objective": objective}  # W&B's searches read what was logged
    if results.robustness is not None:
        media |= {
            "per_prompt": _table(folder / "per_prompt.csv"),
            "distribution": wandb.Image(str(folder / "distribution.png")),
            "report": wandb.Html((folder / "report.html").read_text(encoding="utf-8"), inject=False),
        }
    if results.training is not None and results.training.drawn is not None:
        media["drawn"] = _drawn(results.training.drawn)
    if media:
        run.log(media)
    artifacts = []
    for kind in ("prompts", "adapter"):
        if (folder / kind).is_dir():
            artifact = wandb.Artifact(artifact_name(results.run, kind), kind)
            artifact.add_dir(str(folder / kind))
            artifacts.append(run.log_artifact(artifact))
    if logger.online:
        for artifact in artifacts:  # W&B sends them in the background
            artifact.wait()
    return numbers


def _drawn(drawn: DrawnRecord) -> Any:
    """Return how many renderings each family had in each part of the training, as a W&B table."""
    import wandb

    kinds = (("wording", drawn.wordings), ("layout", drawn.layouts))
    rows: list[Any] = [
        [key, name, part, n] for key, of in kinds for name, parts in of.items() for part, n in enumerate(parts, 1)
    ]
    return wandb.Table(columns=["family", "name", "fifth", "renderings"], data=rows)


def _table(path: Path) -> Any:
    """Return a CSV file as a W&B table; a column whose values are all numbers holds numbers, the first holds ids."""
    import wandb

    with path.open(encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    ids, *columns = zip(*rows, strict=True)
    return wandb.Table(columns=[*names], data=[list(row) for row in zip(ids, *map(_numeric, columns), strict=True)])


def _numeric(column: Sequence[str]) -> Sequence[float | str]:
    """Return texts as numbers, or as they are if one of them is none."""
    try:
        return [float(value) for value in column]
    except ValueError:
        return column


def artifact_name(run: str, kind: str) -> str:
    """Return the name of an artifact of a run: in W&B's alphabet, and no longer than W&B allows.

    A run's name may hold the name of any folder; it ends with its digest, which is kept.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{run}-{kind}")
    return name[-_ARTIFACT_NAME:]


def _id(folder: Path) -> str:
    """Return the id of the W&B run of a folder, which is kept there so that a resumed run has the same."""
    from wandb.sdk.lib.runid import generate_id

    path = folder / "wandb_id"
    if not path.is_file():
        write_atomically(path, generate_id())
    return path.read_text(encoding="utf-8")


def logged_in() -> bool:
    """Return whether this machine has a W&B key, in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False

"""Training as a user asks for it: only what is not finished, beside the runs that it is compared with, and a table."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from paft.config.adapter import read_metadata
from paft.config.schema import ModelConfig, TrainConfig
from paft.evaluation.evaluator import Scored
from paft.jobs.extra_measures import measure_more
from paft.jobs.finished import has_results, outdated, scored_before
from paft.jobs.one_run import PreparedRun, evaluator_of, prepare, save_files, train_and_score
from paft.jobs.planning import print_beside, print_inputs
from paft.jobs.preflight import CheckedRun
from paft.model.adapter import base_of, with_adapter
from paft.model.base import device_of, load_base, switch_attention
from paft.model.fused import fused_kind
from paft.reporting.compare import ComparedRun, load
from paft.reporting.loggers import log_results, misses, run_loggers, send_results
from paft.reporting.provenance import reset_peak_memory
from paft.reporting.results import Results, read_results
from paft.reporting.table import print_run
from paft.reporting.verdict import judged
from paft.runtime import ranks
from paft.runtime.errors import InputError
from paft.runtime.files import disk_full_is_an_input_error
from paft.runtime.process import keep_freed_memory, quieten, repeat_exactly
from paft.runtime.run_folder import PATIENCE_S, RunFolder
from paft.training.kernels import recorded_kernels, with_recorded


def run_training(
    config: TrainConfig, group: str | None = None, checked: CheckedRun | None = None, waits: bool = False
) -> Results:
    """Prepare a run, print its plan, train it unless it is finished already, and print its table.

    The run of one fixed prompt that it is shown beside is trained first, unless that is finished.

    Args:
        group: the sweep that the run belongs to, for loggers.
        checked: the result of check_run(config); None: it is called here.
        waits: whether to wait for another process that is at work on this run; the base model's, which other runs score, too,
            is waited for in any case.

    Returns the results, also where they were finished already. Raises InputError.
    """
    quieten()
    keep_freed_memory()
    repeat_exactly()
    run = prepare(config, checked)
    print(run.plan.text(run.folder.path, run.advice), flush=True)
    print_beside(config, run.beside)
    print_inputs(config, run.inputs, run.warnings)
    results = None
    if not has_results(run.folder, config.dataset):
        _train_others(run, group)
        results = train(run, group, waits or not config.method.trains)
    if results is None:
        results = _complete(run, group)
        print(f"Finished already: {run.folder.results}", flush=True)
    if ranks.rank() == 0:
        print_run(config.method.name, results, run.folder.results)
    return results


def _train_others(run: PreparedRun, group: str | None) -> None:
    """Train what a run is shown beside, but for the base model, which the run itself scores."""
    for other in run.beside.values():
        if other.config.method.trains and not has_results(other.folder, other.config.dataset):
            run_training(other.config, group, waits=True)
            gc.collect()  # its model is gone before the next one is loaded


def train(run: PreparedRun, group: str | None = None, waits: bool = False) -> Results | None:
    """Train a prepared run, save what it learnt, score it and report; return the results.

    Before anything is trained, the base model is scored, unless it was, for the run to be shown beside it. That is no part of
    the run's time.

    Args:
        group: the sweep that the run belongs to, for loggers.
        waits: whether to wait for another process that is at work on this run; where that has finished it, None is returned.
    """
    config, folder = run.config, run.folder.path
    started = time.perf_counter()
    reset_peak_memory()
    device, sharded = device_of(config.trainer.accelerator), config.trainer.strategy == "fsdp"
    recorded = recorded_kernels(folder / "checkpoints", run.folder.digest) if config.method.trains else None
    model, fused = with_recorded(config, device, recorded)
    base = load_base(model, device, config.method.trains, run.encoder.cutoff, fused, sharded)
    asked = time.perf_counter()
    beside = _others(run, lambda: base, model)
    started += time.perf_counter() - asked
    with disk_full_is_an_input_error(folder), run.folder.held(None if waits else PATIENCE_S):
        # Only now, so that a model that cannot be used leaves no folder.
        if waits and _finished(run.folder, config):
            return None
        with run_loggers(config, config.run_name, config.method.name, folder, group) as loggers:
            results, scored = train_and_score(run, base, loggers, started, recorded)
            results = judged(results, folder, scored.matrix, run.inputs.test, config.method.name, beside)
            save_files(run, results, scored)
            log_results(loggers, results, config, folder)
    return results


def _others(run: PreparedRun, base: Callable[[], PreTrainedModel], model: ModelConfig) -> dict[str, ComparedRun]:
    """Return the finished runs that a run is shown beside, by method; the base model is scored if it was not.

    Args:
        base: returns the base model, without an adapter.
        model: how it was loaded.

    Raises InputError if one of the runs is damaged.
    """
    if "base" in run.beside and not _finished(run.beside["base"].folder, run.config):
        _score_base(run.beside["base"].config, base(), model)
    first = {name: load(other.folder.path) for name, other in run.beside.items()} if ranks.rank() == 0 else {}
    return ranks.gather(first)[0]


def _score_base(config: TrainConfig, base: PreTrainedModel, model: ModelConfig) -> None:
    """Score a base model as the run of method=base does, into the folder of that run.

    Of several processes that need it, the first scores it. The others wait, and one of them goes on where the first has died.

    Args:
        config: of the run of method=base.
        base: the base model, which is left with the attention of training, and the peak memory as if nothing had been scored.
        model: how it was loaded.
    """
    started = time.perf_counter()
    run = prepare(config)
    with disk_full_is_an_input_error(run.folder.path), run.folder.held(patience_s=None):
        if _finished(run.folder, config):
            return
        print(f"Scoring the base model: {run.folder.path}", flush=True)
        results, scored = train_and_score(run, base, [], started, None)
        save_files(run, judged(results, run.folder.path, scored.matrix, run.inputs.test, config.method.name), scored)
    switch_attention(base, model, backward=True)
    gc.collect()  # what scoring has recorded (CUDA graphs) makes room for training
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    reset_peak_memory()


def _finished(folder: RunFolder, config: TrainConfig) -> bool:
    """Return whether a run is finished, as the first rank sees it.

    One that is damaged is not, which is said, and one whose texts another version of the metric's function has scored.
    """
    finished = False
    if ranks.rank() == 0 and folder.results.is_file():
        try:
            load(folder.path)
            finished = not outdated(folder.results, config.dataset)
        except InputError as error:
            print(f"BEWARE: {error}", flush=True)
    return ranks.gather(finished)[0]


def _complete(run: PreparedRun, group: str | None) -> Results:
    """Add to a finished run what it lacks: extra measures and other runs that are asked for now, and its copies in loggers."""
    config = run.config
    results = read_results(run.folder.results)
    missing = [name for name in config.extra_measures if getattr(results.extra_measures, name) is None]
    if missing:
        results = add_measures(run, missing, group)
    if run.beside.keys() - results.beside.keys():
        results = _add_others(run, group)
    if ranks.gather(misses(config, run.folder.path))[0]:  # the first rank may be writing into a logger still
        send_results(config, config.run_name, config.method.name, run.folder, group)
    return results


def add_measures(run: PreparedRun, names: Sequence[str], group: str | None) -> Results:
    """Add extra measures to the results.json of a finished run, and send them to its loggers; return the results.

    Args:
        names: of the measures, as in extra_measures.
        group: the sweep that the run belongs to, for loggers.
    """
    config, folder = run.config, run.folder.path
    adapted = config.method.trains and config.model.lora is not None
    settings = config.model
    if config.method.trains and not adapted:
        settings = settings.model_copy(update={"path": str(run.trained_folder), "revision": None})
    model: Any = _load_to_score(run, settings)
    if adapted:
        trained_on = base_of(read_metadata(folder / "adapter"), config.model)
        model = with_adapter(model, folder / "adapter", trained_on, config.model.path or "the embedded one")

    def changed(before: Results, scored: Scored) -> Results:
        extra = measure_more(names, config, run.inputs, evaluator_of(run, model), folder, before.extra_measures)
        return before.model_copy(update={"extra_measures": extra})

    return _rewritten(run, group, changed)


def _add_others(run: PreparedRun, group: str | None) -> Results:
    """Show a finished run beside other runs, which are made if they were not: its verdict, its page and its copy in W&B."""
    _train_others(run, group)
    beside = _others(run, lambda: _load_to_score(run, run.config.model), run.config.model)

    def changed(before: Results, scored: Scored) -> Results:
        root = run.folder.path.parent
        earlier = {name: load(root / other.run) for name, other in before.beside.items() if name not in beside}
        shown = dict(sorted((earlier | beside).items()))  # the base model first
        return judged(before, run.folder.path, scored.matrix, run.inputs.test, run.config.method.name, shown)

    return _rewritten(run, group, changed)


def _rewritten(run: PreparedRun, group: str | None, changed: Callable[[Results, Scored], Results]) -> Results:
    """Write the files of a finished run again, and its copies in loggers, with results that are changed; return those.

    Args:
        group: the sweep that the run belongs to, for loggers.
        changed: from the results as they were, and the scores of the test, to the results as they shall be.
    """
    config, folder = run.config, run.folder.path
    with (
        disk_full_is_an_input_error(folder),
        run.folder.held(),
        run_loggers(config, config.run_name, config.method.name, folder, group) as loggers,
    ):
        before = read_results(run.folder.results)
        scored = scored_before(folder, before.scoring.model_dump())
        results = changed(before, scored)
        save_files(run, results, scored)
        log_results(loggers, results, config, folder)
    return results


def _load_to_score(run: PreparedRun, settings: ModelConfig) -> PreTrainedModel:
    """Load the base model of a finished run, or the whole model that it trained, to score with."""
    config = run.config
    device, sharded = device_of(config.trainer.accelerator), config.trainer.strategy == "fsdp"
    fused = fused_kind(device, config.trainer.fused)
    return load_base(settings, device, cutoff=run.encoder.cutoff, fused=fused, sharded=sharded)

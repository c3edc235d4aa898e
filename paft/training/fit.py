"""Training an adapter, or a whole model, with Lightning's Trainer, all of whose settings stand here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.strategies import DDPStrategy

from paft.config.schema import TrainConfig
from paft.data.datamodule import PaftDataModule
from paft.data.updates import Updates
from paft.model.base import Model
from paft.prompts.by_loss import ByLossSampler
from paft.runtime import ranks
from paft.training.callbacks import Recorder, ShowProgress
from paft.training.checkpoints import SaveBest, SaveState, usable_state
from paft.training.forecast import SCORED_TO_TRAINED, ScoringWork, Work
from paft.training.kernels import Kernels
from paft.training.module import PaftModule
from paft.training.probe import Probe
from paft.training.update_loss import UpdateLoss


@dataclass(frozen=True)
class Fitted:
    """The figures of a finished training: its time, its tokens and its best validation.

    updates counts those of the whole run. tokens are real ones (no padding), of all ranks. seconds is the time of the
    updates alone; loop_seconds is the part of it around the model, during which the device may be at work. probe_tokens are
    those of the forward passes that tried candidates, repeated_tokens those of updates that were computed a second
    time with perturbed embeddings; None where there were none. prompts_truncated counts the renderings that were cut off.
    earlier_wall_s is the wall-clock time of the processes that this one resumed, each up to the state that was resumed from.
    best_validation_mean and best_validation_worst (of its prompts) are accuracies, None without validation.
    """

    updates: int
    tokens: int
    best_validation_mean: float | None
    best_validation_worst: float | None
    tokens_per_s: float
    seconds: float
    loop_seconds: float
    probe_tokens: int | None
    repeated_tokens: int | None
    prompts_truncated: int
    earlier_wall_s: float
    drawn: Mapping[tuple[int, int], int]  # renderings by part of the training, of PARTS, and template
    kernels: Kernels
    graph_shapes: int  # how many shapes of micro-batches were replayed as CUDA graphs


def fit(
    model: Model,
    data: PaftDataModule,
    config: TrainConfig,
    folder: Path,
    identity: str,
    validate: Callable[[Model], dict[str, float]],
    loggers: Sequence[Logger],
    kernels: Kernels,
    scoring: ScoringWork,
    started: float,
) -> Fitted:
    """Train the adapter, or all weights, in place, or resume its training; it ends with the weights of the best validation.

    Args:
        folder: the run's; checkpoints and the CSV log go into it.
        identity: the digest that identifies the run; the checkpoints of another run are skipped.
        validate: called after each validation epoch; returns metrics of the model by name, of which `mean` chooses the best.
        loggers: besides the CSV log.
        kernels: of the run, by kernels_of.
        scoring: what the run scores besides its updates, to forecast its time.
        started: when this process began the run, by time.perf_counter.
    """
    device = model.device
    total, paired = data.updates.total, data.updates.paired
    probe = None if data.updates.candidates is None else Probe()
    by_loss = data.updates.sampler if isinstance(data.updates.sampler, ByLossSampler) else None
    update_loss = UpdateLoss(config.loss, total, paired, 0 if by_loss is None else data.updates.most_renderings)
    module = PaftModule(model, config.optim, total, config.seed, validate, kernels, update_loss, probe, by_loss)
    recorder = Recorder(started)
    every = config.validation.every or data.updates.per_epoch
    work = Work(total, data.updates.examples_per_update, every, scoring, _later(update_loss, data.updates))
    best = SaveBest(folder / "checkpoints", module.averaged)
    often, kept = config.trainer.checkpoint_every, config.trainer.checkpoints_kept
    state = SaveState(folder / "checkpoints", identity, often, kept, total)
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    # It costs a kernel for each new tensor, and shows mistakes only.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=ranks.n_local_ranks(),
        strategy=_Ranks() if ranks.n_ranks() > 1 else "auto",
        use_distributed_sampler=False,  # each rank reads the whole update and takes its own share of it
        plugins=_Started() if ranks.n_ranks() > 1 else LightningEnvironment(),  # a cluster's job is not Lightning's to launch
        precision=precision_of(model.dtype),
        # Or the gradients of flash attention depend on the order of adding; "warn" would not change that.
        deterministic=True if device.type == "cuda" else None,
        max_epochs=config.T,
        val_check_interval=config.validation.every,
        check_val_every_n_epoch=None if config.validation.every else 1,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,  # the data module reads the trainer's epoch and step when it is asked
        logger=[CSVLogger(folder, name="log"), *loggers],
        log_every_n_steps=0,  # the recorder logs each update
        callbacks=[recorder, ShowProgress(recorder, work, silent=not config.trainer.progress), best, state],
        enable_progress_bar=False,  # Lightning's, which is one for each epoch
        enable_model_summary=False,
        profiler=config.trainer.profiler,
    )
    resumed = ranks.gather(usable_state(state.folder, state.run))[0]
    if resumed is not None and ranks.rank() == 0:
        print(f"Resuming from {resumed.name}, of {total} updates.", flush=True)
    try:
        trainer.fit(module, data, ckpt_path=resumed)
    except SystemExit as exit_:  # Lightning raises it in place of KeyboardInterrupt
        if not isinstance(exit_.__context__, KeyboardInterrupt):
            raise  # submitit has queued the job again
        raise KeyboardInterrupt(*exit_.__context__.args) from None
    finally:
        torch.use_deterministic_algorithms(was_deterministic)  # scoring adds nothing up in an order that may change
    if best.best_model_path:
        module.load_state_dict(best.best())
    model.to(device)  # type: ignore[arg-type]
    return Fitted(
        updates=data.updates.total,
        tokens=recorder.tokens,
        repeated_tokens=recorder.repeated_tokens or None,
        probe_tokens=None if probe is None else probe.tokens,
        best_validation_mean=None if best.best_model_score is None else float(best.best_model_score),
        best_validation_worst=best.worst,
        tokens_per_s=round(recorder.tokens_per_s, 1),
        seconds=round(recorder.seconds, 4),
        loop_seconds=round(recorder.loop_seconds, 4),
        prompts_truncated=recorder.truncated,
        earlier_wall_s=recorder.earlier_wall_s,
        drawn=dict(recorder.drawn),
        kernels=module.kernels_now or kernels,
        graph_shapes=module.end_graphs(),
    )


def _later(update_loss: UpdateLoss, updates: Updates) -> list[tuple[int, float]]:
    """Return from which updates on an update takes longer than the first ones, and by what share of their time."""
    repeated = next((update for update in range(updates.total) if update_loss.repeats(update)), None)
    found = [] if repeated is None else [(repeated, 1.0)]
    if (tried := updates.candidates) is not None:  # on the examples of the first of each draw's updates
        found.append((tried.first_update, tried.share * tried.n * SCORED_TO_TRAINED / updates.schedule.k))
    return found


class _Ranks(DDPStrategy):
    """Several ranks without DDP's averaging of gradients, because PaftModule sums them itself.

    DDP needs the same number of micro-batches on each rank; an update does not have it.
    """

    def configure_ddp(self) -> None:
        """Do not wrap the module."""


class _Started(TorchElasticEnvironment):
    """Ranks that run already and have met, and of which some machines may have more than others."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Do not multiply devices by nodes."""


def precision_of(dtype: torch.dtype) -> Literal["bf16-mixed", "32-true"]:
    """Return Lightning's precision for a base model of this dtype.

    bf16-mixed computes the fp32 adapter in bf16 and keeps its weights and moments in fp32. bf16-true would round those too.
    """
    return "bf16-mixed" if dtype == torch.bfloat16 else "32-true"

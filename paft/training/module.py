"""The LightningModule: one training step is one optimiser update, whatever micro-batches it is split into."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import Any

import lightning.pytorch as pl
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from paft.config.schema import LossConfig, OptimConfig
from paft.data.batch import Update
from paft.model.base import Model
from paft.model.graphs import TOLERANCE, Capture, Replayed
from paft.prompts.by_loss import ByLossSampler
from paft.prompts.schedule import Draw
from paft.runtime.errors import first_sentence
from paft.training.kernels import Kernels
from paft.training.probe import Probe
from paft.training.update_loss import UpdateLoss, UpdatePart


class PaftModule(pl.LightningModule):
    """Trains the adapter of a LoRA-wrapped causal LM, or all weights of a plain one; the loss is over answer tokens only.

    Optimisation is manual, so that Lightning's step is an update. The loss is the mean over all answer tokens of the update, or
    one in which its templates are weighed (losses.py); the size of its micro-batches changes memory, and the masks of LoRA's
    dropout, and nothing else.
    Checkpoints hold the adapter, not the base model, or all weights where all are trained.
    """

    strict_loading = False  # the base model's weights are not in the checkpoint; load_state_dict checks the rest

    def __init__(
        self,
        model: Model,
        optim: OptimConfig,
        total_updates: int,
        seed: int,
        validate: Callable[[Model], dict[str, float]] | None = None,
        kernels: Kernels | None = None,
        update_loss: UpdateLoss | None = None,
        probe: Probe | None = None,
        by_loss: ByLossSampler | None = None,
    ) -> None:
        """
        Args:
            model: its trainable parameters are the adapter's, or all.
            total_updates: of the whole run; the learning rate reaches zero at its end.
            seed: of dropout.
            validate: called after each validation epoch; returns metrics of the model by name.
            kernels: of the run; checkpoints hold them. None: no CUDA graphs, and no record.
            update_loss: what an update minimises; None: the mean over its answer tokens.
            probe: chooses among the candidates of each draw; None: there is one.
            by_loss: draws by the losses of the renderings, which it is told; None: they are not told apart.
        """
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.optim = optim
        self.total_updates = total_updates
        self.seed = seed
        self.validate = validate
        self.kernels = kernels
        self.update_loss, self.probe, self.by_loss = update_loss or UpdateLoss(LossConfig(), total_updates), probe, by_loss
        # Updates whose losses by_loss was not told yet: number, template and answer tokens of each rendering, sums of losses.
        self._unread: list[tuple[int, list[int], list[int], Tensor]] = []
        self.shown: Update | None = None  # the last update as it was trained on
        self._mean: list[Tensor] = []  # of the trained weights over the last updates, fp32
        self._averaged = 0  # over how many
        self._graphs: Replayed[UpdatePart] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over the parameters that are trained."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        # An adapter has hundreds of small tensors: one call for all of them, instead of a dozen for each.
        return torch.optim.AdamW(trained, lr=self.optim.lr, weight_decay=self.optim.weight_decay, fused=True)

    def learning_rate(self, update: int) -> float:
        """Return the learning rate of an update: a linear warm-up, then a cosine to zero.

        It depends on the number of the update alone, so that a resumed run has no scheduler to restore.
        """
        warmup = math.ceil(self.optim.warmup * self.total_updates)
        if update < warmup:
            return self.optim.lr * (update + 1) / warmup
        return self.optim.lr * 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(1, self.total_updates - warmup)))

    def on_fit_start(self) -> None:
        """Switch the model to training mode."""
        # transformers loads models in eval mode, which Lightning keeps: dropout and activation checkpointing would
        # silently do nothing.
        self.model.train()

    def on_train_start(self) -> None:
        """Prepare CUDA graphs, if the run's kernels have them, and put a mean that was restored onto the device."""
        self._mean = [mean.to(self.device) for mean in self._mean]
        if self.kernels is not None and self.kernels.graphs:
            self.replay_graphs()

    def replay_graphs(self, capture: Capture | None = None) -> None:
        """Add gradients by CUDA graphs from now on; they are added to in place, where the graphs expect them.

        Args:
            capture: as in paft.model.graphs.Replayed.
        """
        trained = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in trained if p.grad is not None]
        tolerance = TOLERANCE[self.model.dtype]
        self._graphs = Replayed(self._add_gradients, adds_to=gradients, tolerance=tolerance, capture=capture)

    def end_graphs(self) -> int:
        """Give the memory of all CUDA graphs back, for scoring; return how many shapes of micro-batches were replayed."""
        if self._graphs is None:
            return 0
        shapes = self._graphs.shapes
        self._graphs.forget()
        return shapes

    @property
    def kernels_now(self) -> Kernels | None:
        """The kernels of the run, without graphs where these had to be given up."""
        if self.kernels is None or self._graphs is None or self._graphs.given_up is None:
            return self.kernels
        return replace(self.kernels, graphs=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the kernels and the mean of the weights into the checkpoint, so that a resumed run goes on with them."""
        if self._averaged:
            checkpoint["average"] = {"updates": self._averaged, "mean": [mean.cpu() for mean in self._mean]}
        if self.probe is not None:
            checkpoint["probe"] = self.probe.state()
        if self.by_loss is not None:
            self._tell(self.by_loss)
            checkpoint["by_loss"] = self.by_loss.state()
        if self.kernels_now is not None:
            checkpoint["kernels"] = self.kernels_now.as_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the mean of the weights, which candidate the current draw took, and the losses that draws go by."""
        if "average" in checkpoint:
            self._averaged = checkpoint["average"]["updates"]
            self._mean = list(checkpoint["average"]["mean"])
        if self.probe is not None:
            self.probe.restore(checkpoint["probe"])
        if self.by_loss is not None:
            self.by_loss.restore(checkpoint["by_loss"])

    def on_train_batch_start(self, batch: Update, batch_idx: int) -> None:
        """Seed dropout from seed, rank and update, so that a resumed run repeats it."""
        torch.manual_seed((self.seed << 32) + (self.global_rank << 24) + self.global_step)

    def training_step(self, batch: Update, batch_idx: int) -> dict[str, Any]:
        """Do one optimiser update; return its figures by name.

        Tensors among them are scalars on the device, which may be overwritten by the next update. step_s is the time in seconds
        that this process spent here; the device may still be at work.
        """
        started = time.perf_counter()
        step = self.global_step
        if self._graphs is not None and self.update_loss.repeats(step) and not self.update_loss.repeats(step - 1):
            self._graphs.forget()  # those of updates that were computed once
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        (group,) = optimizer.param_groups
        group["lr"] = self.learning_rate(self.global_step)
        try:
            shown, sums = self._computed(batch, optimizer)
        except RuntimeError as error:
            if "deterministic" not in str(error) or torch.is_deterministic_algorithms_warn_only_enabled():
                raise
            print(f"BEWARE: this run cannot be repeated bit for bit on this device ({first_sentence(error)}).", flush=True)
            torch.use_deterministic_algorithms(True, warn_only=True)
            shown, sums = self._computed(batch, optimizer)
        self.shown = shown
        if self.trainer.world_size > 1:
            sums = sum_over_ranks(sums, group["params"])
        of_loss = self.update_loss.figures(sums, group["params"])
        if self.by_loss is not None:
            losses = self.update_loss.of_renderings(
                sums
            ).clone()  # not a view, which would keep what it was cut from: all gradients
            self._unread.append((self.global_step, shown.templates, shown.targets, losses))
            if (self.global_step + 1) % self.by_loss.settings.lag == 0:
                self._tell(self.by_loss)
        norm = torch.nn.utils.clip_grad_norm_(group["params"], self.optim.max_grad_norm)
        optimizer.step()
        # global_step counts this update, too
        if self.global_step >= self.optim.first_averaged(self.total_updates):
            self._add_to_mean(group["params"])
        figures = {**of_loss, "grad_norm": norm, "lr": group["lr"]}
        if len(set(shown.templates)) == 1:  # schedule.unit=example or row mixes templates in an update
            figures["template"] = float(shown.templates[0])
        if self.probe is not None:
            figures["probe_margin"] = self.probe.margin
        if self.by_loss is not None:
            figures["effective_pool"] = self.by_loss.effective_pool(shown.draw)
            if self.by_loss.settings.corrected:
                figures["weight"] = fmean(self.by_loss.weights(Draw(*shown.draw), shown.templates))
        return figures | {"step_s": time.perf_counter() - started}

    def on_validation_model_zero_grad(self) -> None:
        """Called by Lightning before validation, where it drops all gradients; CUDA graphs add to them where they are."""
        if self._graphs is None:
            super().on_validation_model_zero_grad()

    def _computed(self, batch: Update, optimizer: Any) -> tuple[Update, Tensor]:
        """Return the update under the candidate that is trained on, and what `_gradients` returns of it."""
        shown = batch if self.probe is None else self.probe.chosen(self.model, batch)
        return shown, self._gradients(shown, optimizer)

    def _gradients(self, batch: Update, optimizer: Any) -> Tensor:
        """Compute the gradients of this rank's part of an update; return what its micro-batches add up, as UpdateLoss.sums."""
        optimizer.zero_grad(set_to_none=self._graphs is None)
        n_targets = torch.full((), float(batch.n_targets), device=self.device)
        compares = self.update_loss.loss.name == "consistent"
        n_compared = torch.full((), float(batch.n_compared), device=self.device) if compares else None
        strength = self.update_loss.strength(self.global_step)
        of_update = None if strength is None else torch.full((), strength, device=self.device)
        sums = torch.zeros(self.update_loss.n_sums, device=self.device)
        for micro_batch in batch.micro_batches:
            sums += (self._graphs or self._add_gradients)(UpdatePart(micro_batch, n_targets, of_update, n_compared))
        return sums

    def _add_gradients(self, part: UpdatePart) -> Tensor:
        """Add a micro-batch's gradients; return what it adds to the update's sums."""
        return self.update_loss.add_gradients(self.model, part, self.manual_backward)

    def _tell(self, by_loss: ByLossSampler) -> None:
        """Tell the sampler the losses of the updates since it was told last; this waits for the device."""
        for number, templates, targets, sums in self._unread:
            own = zip(templates, sums.tolist(), targets, strict=False)  # a last update has fewer
            known = [(template, loss / n) for template, loss, n in own if n]
            by_loss.record(number, *map(list, zip(*known, strict=True)))
        self._unread = []

    def _add_to_mean(self, weights: list[Tensor]) -> None:
        """Take the weights after an update into their mean."""
        with torch.no_grad():
            self._averaged += 1
            if self._averaged == 1:
                self._mean = [weight.detach().clone() for weight in weights]
            else:
                torch._foreach_lerp_(self._mean, weights, 1 / self._averaged)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the trained weights their mean over the last updates, as far as there is one (optim.average).

        Weights are exchanged in place, because CUDA graphs read them where they are.
        """
        weights = [p for p in self.model.parameters() if p.requires_grad] if self._averaged else []
        own = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, mean in zip(weights, self._mean, strict=False):
                weight.copy_(mean)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, before in zip(weights, own, strict=True):
                    weight.copy_(before)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing: validation scores its matrix of prompts and examples at the end of the epoch."""

    def on_validation_epoch_end(self) -> None:
        """Call `validate` and log the metrics that it returns."""
        if self.validate is not None:
            with self.averaged():
                metrics = self.validate(self.model)
            self.log_dict({f"validation/{name}": value for name, value in metrics.items()})

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the adapter's weights, without the base model's; without an adapter all weights."""
        if not isinstance(self.model, PeftModel):
            return self.model.state_dict()
        return get_peft_model_state_dict(self.model, save_embedding_layers=False)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the weights of a checkpoint; raises RuntimeError if their names are not those of the weights trained here."""
        expected = set(self.state_dict())
        if expected != set(state_dict):
            raise RuntimeError(f"The checkpoint's weights do not fit the model: {sorted(expected ^ set(state_dict))[:3]} ...")
        if not isinstance(self.model, PeftModel):
            return self.model.load_state_dict(state_dict)
        return set_peft_model_state_dict(self.model, dict(state_dict))


def sum_over_ranks(sums: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return the sums of all ranks, and sum their gradients in place; all fp32, in one all-reduce.

    Args:
        sums: (N,), those of this rank's part of the update.
        parameters: their `grad` becomes the sum over ranks.
    """
    # A rank to which no example of the update fell has no gradients.
    parts = [sums, *(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)]
    flat = torch.cat([part.flatten() for part in parts])
    torch.distributed.all_reduce(flat)
    of_all, *gradients = flat.split([part.numel() for part in parts])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient.view_as(parameter)
        else:
            parameter.grad.copy_(gradient.view_as(parameter))
    return of_all

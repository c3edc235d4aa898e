"""The LightningModule: one training step is one optimiser update, whatever micro-batches it is split into."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from paft.config.schema import OptimConfig
from paft.data.batch import MicroBatch, Update
from paft.model.attention import packed_logits


class PaftModule(pl.LightningModule):
    """Trains the adapter of a LoRA-wrapped causal LM; the loss is over answer tokens only.

    Optimisation is manual, so that Lightning's step is an update. The loss is the mean over all answer tokens of the update;
    the size of its micro-batches changes memory and nothing else. Checkpoints hold the adapter, not the base model.
    """

    strict_loading = False  # the base model's weights are not in the checkpoint; load_state_dict checks the rest

    def __init__(
        self,
        model: PeftModel,
        optim: OptimConfig,
        total_updates: int,
        seed: int,
        validate: Callable[[PeftModel], dict[str, float]] | None = None,
    ) -> None:
        """
        Args:
            model: its trainable parameters are the adapter's.
            total_updates: of the whole run; the learning rate reaches zero at its end.
            seed: of dropout.
            validate: called after each validation epoch; returns metrics of the model by name.
        """
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.optim = optim
        self.total_updates = total_updates
        self.seed = seed
        self.validate = validate

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over the adapter's parameters."""
        adapter = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.AdamW(adapter, lr=self.optim.lr, weight_decay=self.optim.weight_decay)

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

    def on_train_batch_start(self, batch: Update, batch_idx: int) -> None:
        """Seed dropout from seed, rank and update, so that a resumed run repeats it."""
        torch.manual_seed((self.seed << 32) + (self.global_rank << 24) + self.global_step)

    def training_step(self, batch: Update, batch_idx: int) -> None:
        """Do one optimiser update."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        (group,) = optimizer.param_groups
        group["lr"] = self.learning_rate(self.global_step)
        optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        for micro_batch in batch.micro_batches:
            part = answer_loss(self.model, micro_batch) / batch.n_targets
            self.manual_backward(part)
            loss += part.detach()
        if self.trainer.world_size > 1:
            loss = sum_over_ranks(loss, group["params"])
        norm = torch.nn.utils.clip_grad_norm_(group["params"], self.optim.max_grad_norm)
        optimizer.step()
        self.log("loss", loss, prog_bar=True)
        self.log_dict({"grad_norm": norm, "lr": group["lr"]})
        if len(set(batch.templates)) == 1:  # schedule.unit=example or row mixes templates in an update
            self.log("template", float(batch.templates[0]))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing: validation scores its matrix of prompts and examples at the end of the epoch."""

    def on_validation_epoch_end(self) -> None:
        """Call `validate` and log the metrics that it returns."""
        if self.validate is not None:
            self.log_dict({f"validation/{name}": value for name, value in self.validate(self.model).items()}, prog_bar=True)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the adapter's weights, without the base model's."""
        return get_peft_model_state_dict(self.model, save_embedding_layers=False)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the adapter's weights; raises RuntimeError if their names are not those of this model's adapter."""
        expected = set(self.state_dict())
        if expected != set(state_dict):
            raise RuntimeError(f"The checkpoint's adapter does not fit the model: {sorted(expected ^ set(state_dict))[:3]} ...")
        return set_peft_model_state_dict(self.model, dict(state_dict))


def sum_over_ranks(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return the sum of all ranks' losses, and sum their gradients in place; all fp32, in one all-reduce.

    Args:
        loss: scalar.
        parameters: their `grad` is replaced by the sum over ranks.
    """
    # A rank to which no example of the update fell has no gradients.
    parts = [loss, *(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)]
    flat = torch.cat([part.flatten() for part in parts])
    torch.distributed.all_reduce(flat)
    loss, *gradients = flat.split([part.numel() for part in parts])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.view_as(parameter)
    return loss.squeeze()


def answer_loss(model: PeftModel, batch: MicroBatch) -> Tensor:
    """Return the cross-entropy (scalar, fp32) of a micro-batch, summed over its answer tokens.

    The LM head is applied to the positions that predict answer tokens and to no others.
    """
    logits = packed_logits(model, batch.packing, batch.positions)
    return F.cross_entropy(logits.float(), batch.targets, reduction="sum")

"""The kernels of a training, which every checkpoint holds, because other kernels round otherwise."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from paft.config.schema import ModelConfig, TrainConfig
from paft.model.attention import NAMES
from paft.model.base import Model, without_adapter
from paft.model.fused import Fused, fused_kind, fused_of
from paft.model.sharding import is_sharded
from paft.training.checkpoints import newest_state


@dataclass(frozen=True)
class Kernels:
    """What computes the updates of a run: two runs with the same kernels learn the same, bit for bit."""

    device: str  # cpu, or the name of the GPU
    attention: str  # a name of paft.model.attention
    fused: Fused
    graphs: bool  # whether CUDA graphs are replayed
    changed: bool = False  # whether the run was resumed with others than it had before

    def as_dict(self) -> dict[str, Any]:
        """Return the record that a checkpoint holds."""
        return asdict(self)

    def said(self) -> str:
        """Return the kernels in words."""
        return f"{self.device}, {self.attention}, fused {self.fused}, CUDA graphs {'on' if self.graphs else 'off'}"

    def differ_from(self, others: "Kernels") -> bool:
        """Return whether the same update would round otherwise."""
        return replace(self, changed=False) != replace(others, changed=False)


CHANGED = "The run was resumed on another device or with other kernels, so it is not bit for bit what it would have been."

EARLIER = Kernels("an earlier version", "unknown", "off", graphs=False)  # of states that hold no kernels


def recorded_kernels(folder: Path, run: str) -> Kernels | None:
    """Return the kernels of a run's newest whole state, EARLIER if it holds none, None if there is no such state.

    Args:
        folder: of the run's checkpoints.
        run: the digest that identifies the run.
    """
    found = newest_state(folder, run)
    if found is None:
        return None
    return Kernels(**found[1]["kernels"]) if "kernels" in found[1] else EARLIER


def with_recorded(config: TrainConfig, device: torch.device, recorded: Kernels | None) -> tuple[ModelConfig, Fused]:
    """Return the model's settings and the fused operations: those that a resumed run has had so far, if they are to be had."""
    fused = fused_kind(device, config.trainer.fused)
    if recorded is None or recorded.device != name_of(device):
        return config.model, fused
    attention = {name: kernel for kernel, name in NAMES.items()}[recorded.attention]
    if config.trainer.fused == "auto" and recorded.fused != "liger":
        fused = recorded.fused
    return config.model.model_copy(update={"attention": attention}), fused


def kernels_of(model: Model, graphs: bool, recorded: Kernels | None) -> Kernels:
    """Return the kernels of a run that starts, or is resumed with `recorded` ones, and print a line if they are others.

    Args:
        graphs: whether the settings allow CUDA graphs. Checkpointed activations do not, because they ask for the state of the
            random numbers, which cannot be recorded.
    """
    device = model.device
    attention: str = model.config._attn_implementation
    possible = device.type == "cuda" and attention == NAMES["varlen"] and not is_sharded(model)
    graphs = graphs and possible and (recorded is None or recorded.graphs)
    now = Kernels(name_of(device), attention, fused_of(without_adapter(model)), graphs)
    if recorded is None or not now.differ_from(recorded):
        return recorded or now
    print(f"BEWARE: {CHANGED} Before: {recorded.said()}. Now: {now.said()}.", flush=True)
    return replace(now, changed=True)


def name_of(device: torch.device) -> str:
    """Return the name of a GPU, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

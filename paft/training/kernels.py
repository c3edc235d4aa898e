"""The kernels of a training, which every checkpoint holds, because other kernels round otherwise."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from paft.config.schema import ModelConfig
from paft.model.attention import NAMES
from paft.training.checkpoints import states


@dataclass(frozen=True)
class Kernels:
    """What computes the updates of a run: two runs with the same kernels learn the same, bit for bit."""

    device: str  # cpu, or the name of the GPU
    attention: str  # a name of paft.model.attention
    graphs: bool  # whether CUDA graphs are replayed
    changed: bool = False  # whether the run was resumed with others than it had before

    def as_dict(self) -> dict[str, Any]:
        """Return the record that a checkpoint holds."""
        return asdict(self)

    def differ_from(self, others: "Kernels") -> bool:
        """Return whether the same update would round otherwise."""
        return (self.device, self.attention, self.graphs) != (others.device, others.attention, others.graphs)


CHANGED = "It was resumed with other kernels (device, attention or graphs), so it is not bit for bit what it would have been."


def recorded_kernels(folder: Path, run: str) -> Kernels | None:
    """Return the kernels of a run's newest whole state, None if there is none or it holds none.

    Args:
        folder: of the run's checkpoints.
        run: the digest that identifies the run.
    """
    for path in states(folder):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["run"] == run:
                return Kernels(**state["kernels"])
        except Exception:  # damaged, or of an earlier version: usable_state says so, if it matters
            continue
    return None


def with_recorded(model: ModelConfig, device: torch.device, recorded: Kernels | None) -> ModelConfig:
    """Return the model's settings, with the attention that the run has had so far if the device is the same."""
    if recorded is None or recorded.device != name_of(device):
        return model
    return model.model_copy(update={"attention": {name: kernel for kernel, name in NAMES.items()}[recorded.attention]})


def kernels_of(model: PeftModel, graphs: bool, recorded: Kernels | None) -> Kernels:
    """Return the kernels of a run that starts, or is resumed with `recorded` ones, and print a line if they are others.

    Args:
        graphs: whether the settings allow CUDA graphs.
    """
    device = model.device
    attention: str = model.config._attn_implementation
    graphs = graphs and device.type == "cuda" and attention == NAMES["varlen"] and (recorded is None or recorded.graphs)
    now = Kernels(name_of(device), attention, graphs, recorded is not None and recorded.changed)
    if recorded is None or not now.differ_from(recorded):
        return now
    print(f"BEWARE: {recorded.as_dict()} before, {now.as_dict()} now. {CHANGED}", flush=True)
    return Kernels(now.device, now.attention, now.graphs, changed=True)


def name_of(device: torch.device) -> str:
    """Return the name of a GPU, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

"""Sharding a frozen base model over ranks (FSDP), for one that does not fit a card; the adapter stays whole on each rank.

Only the layers are sharded, with torch's fully_shard: a layer is gathered for its forward and its backward pass. Embeddings,
head and adapter are on every rank, so that training, checkpoints and the sum of gradients over ranks are those of whole models.
Gathering is a collective: all ranks must do the same number of forward passes, each of them through all layers.
"""

import atexit
from collections.abc import Callable

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel

from paft.config.schema import ModelConfig, TrainerConfig
from paft.runtime import ranks
from paft.runtime.errors import InputError


def check_sharding(model: ModelConfig, trainer: TrainerConfig, device: torch.device) -> None:
    """Raise InputError if the base model is to be sharded on a CPU, or quantised as well."""
    if trainer.strategy != "fsdp":
        return
    if device.type != "cuda":
        raise InputError("trainer.strategy=fsdp needs NVIDIA GPUs; leave trainer=fsdp out on this machine.")
    if model.quantization is not None:
        raise InputError(f"model.quantization={model.quantization} cannot be sharded; leave it or trainer=fsdp out.")


def layers_of(base: PreTrainedModel) -> list[nn.Module]:
    """Return the layers that transformers keeps together on a device; raises InputError if the model does not name them."""
    kinds = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in kinds]
    if not layers:
        raise InputError(f"trainer.strategy=fsdp: {type(base).__name__} does not name its layers; leave trainer=fsdp out.")
    return layers


def load_sharded(load: Callable[[], PreTrainedModel], device: torch.device) -> PreTrainedModel:
    """Return a model whose layers are sharded over all ranks, and the rest of which is on the device.

    The ranks of a machine load the model one after another, so that its memory holds the whole model once.

    Args:
        load: returns the whole model, frozen, on the CPU.

    Raises InputError, also what `load` raises.
    """
    if not distributed.is_initialized():  # a single rank needs a group, too
        distributed.init_process_group(store=distributed.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        atexit.register(distributed.destroy_process_group)
    mesh = init_device_mesh(device.type, (ranks.n_ranks(),))
    for turn in range(max(ranks.gather(ranks.n_local_ranks()))):
        if turn == ranks.local_rank():
            base = load()
            _shard(base, mesh)
            base.to(device)  # type: ignore[arg-type]  # what is not sharded
        ranks.barrier()
    return base


def _shard(base: PreTrainedModel, mesh: DeviceMesh) -> None:
    layers = layers_of(base)
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    of_layers = {p for layer in layers for p in layer.parameters()}
    whole = {p for p in base.parameters() if p not in of_layers}
    # The root, which the layers share their streams with. Not the model itself, whose hooks PEFT passes by.
    fully_shard(base.base_model, mesh=mesh, ignored_params=whole)


def is_sharded(model: nn.Module) -> bool:
    """Say whether some layers of a model are on several ranks in parts."""
    return any(isinstance(module, FSDPModule) for module in model.modules())

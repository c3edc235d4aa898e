"""What cannot be sharded is refused; that a sharded model has the numbers of a whole one stands in tests/acceptance."""

import pytest
import torch

from paft.data.batch import pack_answers, without_targets
from paft.model.sharding import check_sharding
from paft.runtime.errors import InputError
from tests.conftest import compose_config


@pytest.mark.parametrize(
    ("overrides", "device", "sentence"),
    [
        ([], "cpu", "trainer.strategy=fsdp needs NVIDIA GPUs; leave trainer=fsdp out on this machine"),
        (["+model.quantization=4bit"], "cuda", "model.quantization=4bit cannot be sharded"),
    ],
)
def test_what_cannot_be_sharded_is_refused(overrides, device, sentence, monkeypatch):
    monkeypatch.setattr("paft.config.contradictions.importlib.util.find_spec", lambda _: True)
    config = compose_config("trainer=fsdp", *[override.lstrip("+") for override in overrides])
    with pytest.raises(InputError, match=sentence):
        check_sharding(config.model, config.trainer, torch.device(device))


def test_a_micro_batch_without_targets_has_the_same_tokens():
    batch = pack_answers([([5, 6], [7, 8]), ([9], [8])])
    idle = without_targets(batch)
    assert torch.equal(idle.packing.input_ids, batch.packing.input_ids)
    assert torch.nn.functional.cross_entropy(torch.randn(len(idle.targets), 9), idle.targets, reduction="sum") == 0

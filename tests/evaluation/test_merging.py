"""An adapter is merged where that changes no more than batching does; otherwise nothing is left of the attempt."""

import pytest
import torch

from paft.data.encode import Encoder
from paft.evaluation import merging
from paft.evaluation.likelihood import choice_log_probs, prepare
from paft.evaluation.merging import merge_within_tolerance
from paft.model.base import add_lora, load_base, load_tokenizer
from tests.evaluation.test_scoring import cells_of, config_of, setting_of


@pytest.fixture(params=["fp32", "bf16"])
def adapted(request, tiny_llama):
    config = config_of(tiny_llama).model_copy(update={"dtype": request.param})
    model = add_lora(load_base(config, torch.device("cpu")), config, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=3.0)
    _, _, pool, examples = setting_of(tiny_llama, "letter")
    return model.eval(), Encoder(load_tokenizer(config), "letter", 512), pool, examples


def scores(adapted):
    with torch.no_grad():
        return torch.stack(choice_log_probs(adapted[0], prepare(cells_of(adapted))))


@pytest.mark.parametrize("adapted", ["fp32"], indirect=True)
def test_a_merged_adapter_scores_as_before(adapted):
    before = scores(adapted)
    assert merge_within_tolerance(*adapted, batch_tokens=4096)
    assert (scores(adapted) - before).abs().max() < 1e-4
    with adapted[0].disable_adapter():  # which takes the merged weights out again
        assert (scores(adapted) - before).abs().max() > 0.01


def test_what_costs_precision_is_undone(adapted):
    model = adapted[0]
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert not merge_within_tolerance(*adapted, batch_tokens=4096, times_the_noise=0, least=0)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(getattr(module, "merged", False) for module in model.modules())


@pytest.mark.parametrize("adapted", ["fp32"], indirect=True)
def test_the_trial_keeps_to_the_memory_there_is(adapted, monkeypatch):
    sizes = []

    def small(model, cells):
        sizes.append(len(cells))
        if len(cells) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(model, cells)

    usual = merging._next_log_probs
    monkeypatch.setattr(merging, "_next_log_probs", small)
    assert merge_within_tolerance(*adapted, batch_tokens=4096)
    assert max(sizes) > 2 and sizes.count(2) >= 16  # tried once, then in pairs: 16 cells unmerged and 16 merged

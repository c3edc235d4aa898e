"""Packed batches: sequences do not see each other, and everything equals plain padded passes."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from paft.model.attention import NAMES, packed_logits, packs_ragged, register
from paft.packing import Branches, pack

SEQUENCES = [list(range(10, 27)), [5], list(range(100, 104)), list(range(40, 49))]


def load(folder, kernel):
    register()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=NAMES[kernel]).eval()


def all_positions(model, sequences):
    """Return the logits at every token of the sequences, the filler at the row's end left out."""
    tokens = sum(len(s.context) + sum(map(len, s.continuations)) for s in sequences)
    return packed_logits(model, pack(sequences, packs_ragged(model)), torch.arange(tokens))


@pytest.mark.parametrize("kernel", NAMES)
def test_packed_equals_one_by_one(tiny_llama, kernel):
    model = load(tiny_llama, kernel)
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    with torch.no_grad():
        got = all_positions(model, [Branches(s) for s in SEQUENCES])
        wanted = torch.cat([plain(torch.tensor([s])).logits[0] for s in SEQUENCES])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


FORKS = [Branches([1, 2, 3, 4], [[7, 8], [], [9, 10, 11]]), Branches([20, 21], [[30], [31, 32]])]
LONE = [Branches(list(range(2, 100)), [[7, 8, 9], [4], [9, 10, 11]])]  # a rectangle of one row, no filler beside it


@pytest.mark.parametrize("forks", [FORKS, LONE], ids=["two", "one alone"])
@pytest.mark.parametrize("kernel", NAMES)
def test_branches_see_their_context_and_themselves_only(tiny_llama, kernel, forks):
    model = load(tiny_llama, kernel)
    with torch.no_grad():
        got = all_positions(model, forks)
        start = 0
        for fork in forks:
            n = len(fork.context)
            at = start + n
            for continuation in fork.continuations:
                whole = model(torch.tensor([[*fork.context, *continuation]])).logits[0]
                torch.testing.assert_close(got[start : start + n], whole[:n], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(got[at : at + len(continuation)], whole[n:], rtol=1e-4, atol=1e-5)
                at += len(continuation)
            start = at


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128}
OTHERS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=128)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=2, intermediate_size=64)),
    "sliding window": lambda: MistralForCausalLM(
        MistralConfig(**SMALL, num_key_value_heads=2, intermediate_size=64, sliding_window=6)
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures(name):
    register()
    torch.manual_seed(0)
    model = OTHERS[name]().eval()
    with torch.no_grad():
        wanted = torch.cat([model(torch.tensor([s])).logits[0] for s in SEQUENCES])
        for kernel in NAMES.values():
            model.set_attn_implementation(kernel)
            got = all_positions(model, [Branches(s) for s in SEQUENCES])
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_generation_goes_through_transformers_own_attention(tiny_llama):
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    ids = torch.arange(5, 15)[None]
    ours = load(tiny_llama, "eager").generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(ours, plain.generate(ids, max_new_tokens=5, do_sample=False))

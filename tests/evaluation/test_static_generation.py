"""Generation with a static cache writes what it writes with one that grows, token for token; here without a GPU."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, Qwen2Config
from transformers.models.gemma3 import Gemma3TextConfig

from paft.config.schema import LoraConfig, ModelConfig
from paft.data.encode import Encoder
from paft.evaluation.decoding import StaticDecoder, Step
from paft.evaluation.generation import Generation, Stop
from paft.evaluation.metrics import Metric
from paft.model.base import add_lora, load_base
from paft.model.graphs import Replayed
from paft.packing import size_in_pieces, size_of_bucket
from paft.runtime.errors import InputError

SMALL = {"vocab_size": 512, "num_attention_heads": 4, "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": None}
WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2, "num_hidden_layers": 4}
ARCHITECTURES = {
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_positions=160, **SMALL),
    "qwen2": Qwen2Config(**WIDTH, **SMALL),
    "gemma3, sliding window": Gemma3TextConfig(sliding_window=24, sliding_window_pattern=2, head_dim=8, **WIDTH, **SMALL),
}


@pytest.fixture(scope="module", params=["llama", "llama with an adapter", *ARCHITECTURES])
def setting(request, tiny_llama, tmp_path_factory):
    """A model with its encoder."""
    folder = tiny_llama
    if request.param in ARCHITECTURES:
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(ARCHITECTURES[request.param]).save_pretrained(folder)
    lora = LoraConfig(r=4, alpha=8, dropout=0.0, target_modules=["q_proj"])
    config = ModelConfig(path=str(folder), dtype="fp32", lora=lora)
    model = load_base(config, torch.device("cpu"))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name and "wte" not in name:
            parameter.data *= 4  # what it writes depends on all it has read
    if "adapter" in request.param:
        model = add_lora(model, config, seed=0).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    return model, Encoder(AutoTokenizer.from_pretrained(tiny_llama), "text", 1024)


def prompts(n, longest=100, seed=0):
    """Return n prompts of 1 to `longest` random tokens."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n,), generator=random).tolist()
    return [torch.randint(0, 512, (length,), generator=random).tolist() for length in lengths]


def replayed(function):
    """Replay a step as on a GPU, except that what is recorded is called."""
    return Replayed(function, tolerance=0.0, enough=2, capture=lambda recorded: recorded)


def generations(setting, stop, replay):
    """Return what generates with a cache that grows, and with a static one."""
    usual, static = (Generation(*setting, Metric("exact"), stop) for _ in range(2))
    static.static = StaticDecoder(setting[0], replay)
    for generation in (usual, static):  # a random model repeats itself; this ends its texts at many moments
        generation._ended = lambda written, limit: (
            len(written) >= limit or len(written) > written[0] % 29 or sum(written) % 41 == 0
        )
    return usual, static


def test_a_static_cache_writes_what_a_growing_one_writes(setting):
    """Batches of several sizes and lengths one after the other, through memory that grows, and windows that end texts."""
    shapes, steps = [], []

    def noting(function):
        steps.append(replayed(function))
        return lambda given, step=steps[-1]: shapes.append((len(given.tokens), given.slots)) or step(given)

    usual, static = generations(setting, Stop(30, at_line_break=False), noting)
    for n, longest in ((1, 5), (20, 150), (5, 60)):
        contexts = prompts(n, longest, seed=n)
        wanted = usual.write(contexts)
        del shapes[:]
        assert static.write(contexts) == wanted
        assert static.static is not None  # no fallback
        batches = [batch for batch, _ in shapes]
        assert len({slots for _, slots in shapes}) == 1 and all(batch == size_of_bucket(batch, 1) for batch in batches)
        assert batches == sorted(batches, reverse=True) and len(batches) == max(n_tokens for _, n_tokens in wanted) - 1
        if n == 20:  # texts ended one by one, and the batch shrank
            assert len({n_tokens for _, n_tokens in wanted}) > 3 and batches[-1] < batches[0]
    assert all(step.given_up is None for step in steps) and sum(step.shapes for step in steps) > 3


class OnDevice(TorchDispatchMode):
    """Raises where a tensor lies elsewhere than on "meta", a device that has no values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        assert all(x.device.type == "meta" for x in tensors), func
        return result


def test_a_step_neither_reads_a_value_nor_takes_one_from_the_host(setting):
    """No CUDA graph could hold that; the device of this test has no values, so that reading one raises."""
    model, _ = setting
    model = copy.deepcopy(model).to("meta")
    decoder = StaticDecoder(model, lambda step: step)
    config = model.config
    heads, width = getattr(config, "num_key_value_heads", 4), 8
    held = [torch.empty(3, heads, 20, width, device="meta") for _ in range(2 * config.num_hidden_layers)]
    decoder.fill(held, [0, 1, 2], slots=128)
    of_text = torch.zeros(4, dtype=torch.int64, device="meta")
    with torch.no_grad(), OnDevice():
        assert decoder.step(Step(of_text, of_text, of_text.sum(), 128)).shape == (4,)


def test_shapes_are_few():
    assert [size_of_bucket(n, 1) for n in (1, 2, 3, 8, 9)] == [1, 2, 4, 8, 16]
    sizes = sorted({size_in_pieces(n, 4) for n in range(1, 5000)})
    assert sizes[:8] == [128, 256, 384, 512, 768, 1024, 1536, 2048] and all(size_in_pieces(size, 4) == size for size in sizes)
    assert all(n <= size_in_pieces(n, 4) <= max(128, 1.5 * n) + 127 for n in range(1, 5000)) and len(sizes) < 16


def test_a_model_that_does_not_take_it_goes_on_with_a_growing_cache(setting, capsys):
    def refusing(function):
        def step(given):
            raise TypeError("this cache has no method rewind. Ask for another")

        return step

    usual, static = generations(setting, Stop(20, at_line_break=False), refusing)
    contexts = prompts(5)
    assert static.write(contexts) == usual.write(contexts)
    assert static.static is None
    (line,) = capsys.readouterr().out.splitlines()
    assert "cannot take a static cache (TypeError: this cache has no method rewind); its cache grows" in line


def test_memory_that_runs_out_is_no_refusal(setting):
    """The batch is written in halves, with a static cache."""
    room = [8]

    def scarce(function):
        def step(given):
            if len(given.tokens) > room[0]:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return function(given)

        return step

    _, static = generations(setting, Stop(5, at_line_break=False), scarce)
    static._ended = lambda written, limit: len(written) >= limit
    with pytest.raises(torch.OutOfMemoryError):
        static.write(prompts(9))
    assert static.static is not None and len(static.write(prompts(8))) == 8


def test_scores_that_are_no_numbers_are_refused(setting):
    model, _ = setting

    def poisoned(function):
        def step(given):
            with torch.no_grad():
                hook = model.get_output_embeddings().register_forward_hook(lambda *_: torch.full((4, 1, 512), float("nan")))
                try:
                    return function(given)
                finally:
                    hook.remove()

        return step

    _, static = generations(setting, Stop(5, at_line_break=False), poisoned)
    static._ended = lambda written, limit: len(written) >= limit
    with pytest.raises(InputError, match="not numbers"):
        static.write(prompts(3))

"""Packed scores, training loss, LoRA gradients and generated texts equal plain transformers, one text at a time, on many
architectures; those that packed rows would lose a part of are refused by name."""

import functools

import pytest
import torch
from peft import PeftModel
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from paft.config.schema import LoraConfig, ModelConfig
from paft.data.batch import pack_answers
from paft.data.encode import Encoded, Encoder
from paft.evaluation.cells import Cell
from paft.evaluation.generation import Generation, Stop, end_ids
from paft.evaluation.likelihood import choice_log_probs, prepare
from paft.evaluation.metrics import Metric
from paft.model.attention import NAMES, packs_ragged
from paft.model.base import add_lora, load_base, window_of
from paft.runtime.errors import InputError
from paft.training.losses import answer_loss

WINDOW, POSITIONS, VOCABULARY = 12, 128, 512
COMMON = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY, "pad_token_id": 0,
    "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": POSITIONS,
}  # fmt: skip
LLAMA = COMMON | {"num_key_value_heads": 2, "intermediate_size": 64, "initializer_range": 0.2}
WINDOWED = LLAMA | {"head_dim": 8, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = LLAMA | {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 32}
RIGHT = {
    "llama": LLAMA,
    "gpt2": COMMON | {"initializer_range": 0.2},
    "gpt_neox": COMMON | {"intermediate_size": 64, "initializer_range": 0.2},
    "opt": COMMON | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2},
    "qwen2": LLAMA,
    "qwen2, window": LLAMA | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": LLAMA | {"head_dim": 8},
    "mistral, window": LLAMA | {"sliding_window": WINDOW},
    "phi3, window": LLAMA | {"sliding_window": WINDOW},
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS | {"head_dim": 8},
    "gemma": LLAMA | {"head_dim": 8},
    "gemma3_text, window": WINDOWED,
    "cohere2, window": WINDOWED | {"logit_scale": 1.0},
    "olmo3, window": WINDOWED,
    "exaone4, window": WINDOWED | {"sliding_window_pattern": 2},
    "smollm3": LLAMA | {"no_rope_layers": [1, 0]},
    "olmo2": LLAMA,
    "qwen3, tied": LLAMA | {"head_dim": 8, "tie_word_embeddings": True},
    "gemma3_text, tied, of six layers": WINDOWED | {
        "num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"], "tie_word_embeddings": True,
        "query_pre_attn_scalar": 8,
    },
    "phi3, part of a head is turned": LLAMA | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
        "tie_word_embeddings": True,
    },
    "granite": LLAMA | {"attention_multiplier": 0.3, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "glm4": LLAMA | {"head_dim": 8},
    "modernbert-decoder, window": COMMON | {"intermediate_size": 64, "local_attention": WINDOW, "initializer_range": 0.2},
    "llama, dynamic positions": LLAMA | {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}},
}  # fmt: skip
TARGETS = {
    "gpt2": ["c_attn"], "gpt_neox": ["query_key_value"], "phi3": ["qkv_proj"], "modernbert-decoder": ["q_proj", "v_proj"],
}  # fmt: skip

# Texts shorter and longer than the window; two begin alike, so that a packed row computes their beginning once.
LONG = torch.arange(20, 20 + 4 * WINDOW).tolist()
CONTEXTS = [LONG, [*LONG[:30], 7, 8, 9], [5], list(range(200, 209)), list(range(300, 300 + 2 * WINDOW))]
CHOICES = [[[11], [12]], [[11, 12, 13], [11, 14]], [[15, 16], [17]], [[18], [19, 20, 21, 22]], [[23, 24], [25, 26]]]


def tiny(name: str, folder, **changes):
    """Save a tiny random model of the architecture that `name` begins with; return the folder."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[name.split(",")[0]](**(RIGHT | REFUSED)[name] | changes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """From a name in RIGHT to the folder of its model, which is written once."""
    return functools.cache(lambda name: tiny(name, tmp_path_factory.mktemp("tiny")))


def config_of(folder, kernel="sdpa", dtype="fp32", targets=("q_proj", "v_proj")):
    lora = LoraConfig(r=4, alpha=8, dropout=0.0, target_modules=list(targets))
    return ModelConfig(path=str(folder), dtype=dtype, lora=lora, attention=kernel)


def adapted(folder, name, kernel):
    """Return a model with a LoRA adapter that changes its scores, and the same adapter on plain transformers."""
    config = config_of(folder, kernel, targets=TARGETS.get(name.split(",")[0], ["q_proj", "v_proj"]))
    ours = add_lora(load_base(config, torch.device("cpu"), cutoff=POSITIONS), config, seed=0)
    plain = add_lora(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False), config, seed=0)
    torch.manual_seed(1)
    for (name_, ours_p), plain_p in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if "lora_B" in name_:
            plain_p.data.copy_(torch.nn.init.normal_(ours_p, std=0.3))
    assert "paft" not in plain.config._attn_implementation
    return ours.eval(), plain.eval()


def next_log_probs(model: PeftModel, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)


def answer_log_probs(model, context, answer):
    rows = next_log_probs(model, context + answer[:-1])[len(context) - 1 :]
    return rows[range(len(answer)), answer]


@pytest.mark.parametrize("kernel", NAMES)
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_accepted_scores_and_trains_as_plain_transformers(name, kernel, folder_of):
    ours, plain = adapted(folder_of(name), name, kernel)
    with torch.no_grad():
        cells = [
            Cell(0, i, "", Encoded(c, choices, False)) for i, (c, choices) in enumerate(zip(CONTEXTS, CHOICES, strict=True))
        ]
        for got, context, choices in zip(
            choice_log_probs(ours, prepare(cells, packs_ragged(ours))), CONTEXTS, CHOICES, strict=True
        ):
            wanted = torch.stack([answer_log_probs(plain, context, choice).sum() for choice in choices])
            torch.testing.assert_close(got, wanted, rtol=0, atol=3e-4)
    pairs = [(context, choices[-1]) for context, choices in zip(CONTEXTS, CHOICES, strict=True)]
    loss = answer_loss(ours, pack_answers(pairs, packs_ragged(ours)))
    wanted_loss = -sum(answer_log_probs(plain, *pair).sum() for pair in pairs)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-4, atol=0)
    loss.backward()
    wanted_loss.backward()
    for ours_p, plain_p in zip(ours.parameters(), plain.parameters(), strict=True):
        if ours_p.requires_grad:
            torch.testing.assert_close(ours_p.grad, plain_p.grad, rtol=1e-3, atol=1e-3 * float(plain_p.grad.abs().max()))


@pytest.mark.parametrize("name", RIGHT)
def test_texts_are_generated_as_one_at_a_time(name, tiny_llama, folder_of):
    ours, plain = adapted(folder_of(name), name, "sdpa")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    encoder = Encoder(tokenizer, "text", 1024)
    texts = Generation(ours, encoder, Metric("exact"), Stop(6, at_line_break=False)).write(CONTEXTS)
    ends = end_ids(ours, encoder)
    for (text, n), context in zip(texts, CONTEXTS, strict=True):
        ids = list(context)
        with torch.no_grad():
            while len(ids) < len(context) + 6 and (len(ids) == len(context) or ids[-1] not in ends):
                ids.append(int(next_log_probs(plain, ids)[-1].argmax()))
        assert (text, n) == (tokenizer.decode(ids[len(context) :], skip_special_tokens=True).strip(), len(ids) - len(context))


OWN_CODE = "computes attention in code of its own"
STATE = "carries a state along the text"
REFUSED = {
    "gemma2": LLAMA | {"head_dim": 8},
    "gpt_oss": EXPERTS | {"head_dim": 8},
    "bloom": COMMON,
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": VOCABULARY},
    "falcon, alibi": COMMON | {"alibi": True},
    "falcon": COMMON,
    "gptj": COMMON | {"rotary_dim": 4},
    "gpt_neo": COMMON | {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "intermediate_size": 64},
    "llama4_text, chunk": EXPERTS | {"head_dim": 8, "attention_chunk_size": 32, "intermediate_size_mlp": 64},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY},
    "lfm2": LLAMA | {"full_attn_idxs": [1]},
    "plbart": {
        "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "encoder_layers": 2,
        "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "vocab_size": VOCABULARY, "pad_token_id": 0,
    },
    "stablelm": LLAMA,
}  # fmt: skip
SENTENCES = {
    "gemma2": "Gemma2ForCausalLM soft-caps its attention scores, which packed batches would lose; use a model with",
    "gpt_oss": "GptOssForCausalLM has attention sinks",
    "bloom": "BloomForCausalLM adds ALiBi biases",
    "mpt": "MptForCausalLM adds ALiBi biases",
    "falcon, alibi": "FalconForCausalLM adds ALiBi biases",
    "falcon": f"FalconForCausalLM {OWN_CODE}",
    "gptj": f"GPTJForCausalLM {OWN_CODE}",
    "gpt_neo": f"GPTNeoForCausalLM {OWN_CODE}",
    "llama4_text, chunk": "Llama4ForCausalLM attends within chunks of 32 tokens (texts of up to cutoff=32 have only one)",
    "mamba": f"MambaForCausalLM {STATE}",
    "lfm2": f"Lfm2ForCausalLM {STATE}",
    "plbart": "PLBartForCausalLM counts the positions of a text by itself",
    "stablelm": "StableLmForCausalLM scores a text otherwise in a packed batch than in a plain forward pass",
}


@pytest.mark.parametrize("kernel", NAMES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_packed_rows_would_lose_is_refused_by_name(name, kernel, tmp_path):
    tiny(name, tmp_path)
    with pytest.raises(InputError) as error:
        load_base(config_of(tmp_path, kernel), torch.device("cpu"), cutoff=100)
    assert str(error.value).startswith(f"model.path={tmp_path}: {SENTENCES[name]}")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["gptj", "llama4_text, chunk", "bloom", "stablelm"])
def test_the_comparison_finds_them_without_their_names(name, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("paft.model.packed_check._known", lambda *_: None)
    tiny(name, tmp_path, initializer_range=0.2)
    with pytest.raises(InputError, match=r"(scores a text otherwise in|does not take) .*packed batch"):
        load_base(config_of(tmp_path, dtype=dtype), torch.device("cpu"), cutoff=100)


@pytest.mark.parametrize("name", RIGHT)
def test_rounding_is_not_taken_for_a_loss(name, folder_of):
    load_base(config_of(folder_of(name), "eager", "bf16"), torch.device("cpu"), cutoff=POSITIONS)  # the most rounding


def test_texts_of_one_chunk_need_no_chunks(tmp_path):
    tiny("llama4_text, chunk", tmp_path)
    load_base(config_of(tmp_path), torch.device("cpu"), cutoff=32)


def test_positions_that_depend_on_the_longest_text_of_a_batch_are_refused(tmp_path):
    long = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [4.0] * 4, "short_factor": [1.0] * 4}
    tiny("phi3, window", tmp_path, rope_parameters=long, original_max_position_embeddings=64, sliding_window=None)
    with pytest.raises(InputError, match=r"cutoff=100: beyond 64 tokens phi3 scales .*; set cutoff=64 or lower"):
        load_base(config_of(tmp_path), torch.device("cpu"), cutoff=100)
    base = load_base(config_of(tmp_path), torch.device("cpu"), cutoff=64)
    assert window_of(base.config, 1000) == 64


def test_damaged_weights_are_not_taken_for_an_architecture(tmp_path):
    tiny("llama", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.lm_head.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    load_base(config_of(tmp_path), torch.device("cpu"))  # scoring says that its scores are not numbers

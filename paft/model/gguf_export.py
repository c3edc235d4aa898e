"""Writing a model as a GGUF file, by the conventions of llama.cpp's converter, and reading it back to compare.

Source: https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py. Names of tensors, quantisation and the layout
of the file are the gguf package's; here stands what differs between architectures and tokenizers.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType, LlamaFileType, TokenType
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from paft.model.packed_check import ordinary_ids, relative_error
from paft.runtime.errors import InputError, first_sentence
from paft.runtime.memory import is_out_of_memory

Quantisation = Literal["q8_0", "f16", "bf16"]

_INSTEAD = "leave --gguf out, and convert the merged folder with llama.cpp's convert_hf_to_gguf.py"
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}  # that llama.cpp and transformers both read
_TYPES: dict[Quantisation, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
}
# Of the logits' size, in the mean over some tokens: a wrong order of rows changes about as much as there is.
_TOLERANCE = 0.25
_WORDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_QWEN2, _LLAMA3 = f"{_WORDS}|\\p{{N}}{_REST}", f"{_WORDS}|\\p{{N}}{{1,3}}{_REST}"
_SPACE, _UNDERSCORE = " ", "\u2581"  # SentencePiece's
# What tells ways to split a text apart: digits, contractions, line breaks, spaces, scripts.
_PROBE = "It's 2024, we'LL see:\n\n  1234567 x+=y;\tNaïve café 提示 été\n \nEnd. "


def check_exportable(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError if a model of this architecture, with this tokenizer, cannot be written as a GGUF file."""
    kind = config.model_type
    if kind not in _ARCHITECTURES:
        raise InputError(f"--gguf: no GGUF file of a {kind} model is written here, only of {_listed()}; {_INSTEAD}.")
    for rope in _ropes(config):
        if rope.get("rope_type", "default") not in ("default", "llama3" if kind == "llama" else "default"):
            raise InputError(f"--gguf: this {kind} model scales its positions by {rope['rope_type']}; {_INSTEAD}.")
    if kind == "gemma3_text":
        _check_gemma(config)
    if getattr(config, "use_sliding_window", False):
        raise InputError(f"--gguf: this {kind} model attends within a window, which GGUF files of it do not say; {_INSTEAD}.")
    if _splits(tokenizer) is None and not (kind == "gemma3_text" and _is_sentencepiece(tokenizer)):
        raise InputError(f"--gguf: the tokenizer of this {kind} model splits texts in a way of its own; {_INSTEAD}.")


def _listed() -> str:
    *first, last = (kind.removesuffix("_text") for kind in _ARCHITECTURES)
    return f"{', '.join(first)} and {last}"


def _ropes(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """Return the settings of rotary positions, one for each kind of layer if these differ."""
    rope = cast(dict[str, Any], config.rope_parameters)
    by_layer = [each for each in rope.values() if isinstance(each, dict)]
    return by_layer or [rope]


def _check_gemma(config: Any) -> None:
    """Refuse a Gemma 3 model that llama.cpp, which knows one pattern of layers, would compute otherwise."""
    every_sixth = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(config.num_hidden_layers)]
    local = config.rope_parameters["sliding_attention"]["rope_theta"]
    if config.layer_types != every_sixth or local != 10_000 or config.query_pre_attn_scalar != config.head_dim:
        raise InputError(f"--gguf: this Gemma 3 model has other layers than llama.cpp knows; {_INSTEAD}.")


def write_gguf(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path, quantisation: Quantisation, name: str
) -> None:
    """Write a model and its tokenizer as a GGUF file, read it back by transformers, and compare tokens and logits.

    Matrices get the precision asked for (rows that do not divide into blocks of 32 get f16 instead of q8_0), norms and biases
    stay fp32. llama.cpp's own scripts do the same.

    Args:
        model: in fp32, on the CPU.
        file: to write, in a folder that holds nothing else.
        name: of the model, for readers of the file.

    Raises InputError if the architecture or the tokenizer cannot be written, or the file does not stand for the model.
    """
    check_exportable(model.config, tokenizer)
    config = model.config
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[_ARCHITECTURES[config.model_type]])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(_TYPES[quantisation][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, config)
    _add_tokenizer(writer, tokenizer, len(model.get_input_embeddings().get_parameter("weight")), file.parent)
    for tensor, values in _tensors(model):
        packed, kind = _packed(tensor, values, _TYPES[quantisation][0])
        writer.add_tensor(tensor, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _check_reads(file, model, tokenizer)


def _add_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = _ropes(config)
    full = config.rope_parameters["full_attention"] if len(rope) > 1 else rope[0]
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(full["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)


# --- tensors -----------------------------------------------------------------------------------------------------------


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a GGUF file by name, fp32, in llama.cpp's layout."""
    config: Any = model.config
    names = gguf.get_tensor_name_map(_ARCHITECTURES[config.model_type], config.num_hidden_layers)
    if any(rope.get("rope_type") == "llama3" for rope in _ropes(config)):
        yield "rope_freqs.weight", _slower(model)
    for name, weight in model.named_parameters():  # of two tied matrices one
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise InputError(f"--gguf: llama.cpp knows no {name} in a {config.model_type} model; {_INSTEAD}.")
        values = weight.detach().float()
        if config.model_type == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            values = _neighbours(values, heads)
        elif config.model_type == "gemma3_text" and name.endswith("norm.weight"):
            values = values + 1  # Gemma's norms multiply by 1 + weight, llama.cpp's by weight
        yield place, values


def _neighbours(weight: Tensor, heads: int) -> Tensor:
    """Return rows in llama.cpp's order: its Llama turns neighbouring features of a head, transformers' the two halves."""
    rows = weight.view(heads, 2, -1, *weight.shape[1:])
    return rows.transpose(1, 2).reshape(weight.shape)


def _slower(model: PreTrainedModel) -> Tensor:
    """Return by how much Llama 3.1 slows each frequency of its rotary positions down, (head_dim / 2,) fp32."""
    rotary, config = cast(Any, model.get_decoder()).rotary_emb, cast(Any, model.config)
    width = 2 * len(rotary.inv_freq)
    usual = 1 / config.rope_parameters["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    return usual / rotary.inv_freq.float().cpu()


def _packed(name: str, values: Tensor, kind: GGMLQuantizationType) -> tuple[np.ndarray[Any, Any], GGMLQuantizationType]:
    """Return a tensor in its precision in the file; raises InputError if it exceeds the range of fp16."""
    array = np.ascontiguousarray(values.numpy())
    if array.ndim < 2 or name.endswith("_norm.weight"):
        return array.astype(np.float32), GGMLQuantizationType.F32
    if kind == GGMLQuantizationType.Q8_0 and array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = GGMLQuantizationType.F16
    with np.errstate(over="ignore"):
        packed = gguf.quants.quantize(array, kind)
    if kind == GGMLQuantizationType.F16 and not np.isfinite(packed).all():
        raise InputError(f"--gguf f16: {name} has values beyond the range of fp16; use bf16.")
    return packed, kind


# --- tokenizer ---------------------------------------------------------------------------------------------------------


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int, scratch: Path) -> None:
    """Add tokens, merges, special tokens and the chat template.

    Args:
        size: rows of the embedding; there may be more than tokens.
        scratch: a folder for the tokenizer's files, which the gguf package reads; left as it was.
    """
    pieces = _is_sentencepiece(tokenizer)
    tokens, kinds = zip(*_tokens(tokenizer, size, pieces), strict=True)
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre("default" if pieces else str(_splits(tokenizer)))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if pieces:
        # The earlier a token, the earlier it is merged.
        writer.add_token_scores([-float(i) if kind == TokenType.NORMAL else -1000.0 for i, kind in enumerate(kinds)])
        writer.add_add_space_prefix(False)
    saved = scratch / "tokenizer"
    tokenizer.save_pretrained(saved)
    special = gguf.SpecialVocab(saved, load_merges=not pieces, n_vocab=size)
    for key in ("bos", "eos", "unk", "pad"):  # as the tokenizer is, whatever else its files say
        special.special_token_ids.pop(key, None)
        if (number := getattr(tokenizer, f"{key}_token_id")) is not None:
            special.special_token_ids[key] = number
    ids = tokenizer("a").input_ids
    special.add_special_token = {
        "bos": bool(ids) and ids[0] == tokenizer.bos_token_id,
        "eos": bool(ids) and ids[-1] == tokenizer.eos_token_id,
    }
    special.chat_template = cast(str | None, tokenizer.chat_template)
    special.add_to_gguf(writer, quiet=True)
    for path in saved.iterdir():
        path.unlink()
    saved.rmdir()


def _tokens(tokenizer: PreTrainedTokenizerBase, size: int, pieces: bool) -> Iterator[tuple[str, TokenType]]:
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    for number in range(size):
        token = by_id.get(number)
        if token is None:
            yield f"[PAD{number}]", TokenType.UNUSED
        elif token == tokenizer.unk_token and pieces:
            yield token, TokenType.UNKNOWN
        elif number in added and added[number].special:
            yield token, TokenType.CONTROL
        elif number in added:
            yield token.replace(_UNDERSCORE, _SPACE) if pieces else token, TokenType.USER_DEFINED
        elif pieces and len(token) == 6 and token.startswith("<0x"):
            yield token, TokenType.BYTE
        else:
            yield token, TokenType.NORMAL


def _splits(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return llama.cpp's name for the way a byte-level tokenizer splits texts before it merges bytes; None: it has none."""
    backend = _backend(tokenizer)
    model, normalizer = backend.get("model", {}), backend.get("normalizer")
    if model.get("type") != "BPE" or model.get("byte_fallback") or (normalizer or {}).get("type", "NFC") != "NFC":
        return None
    first = backend.get("pre_tokenizer") or {}
    *parts, last = first.get("pretokenizers", [first])
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if [part["type"] for part in parts] == ["Split"] and not last.get("use_regex"):
        by_regex = {_QWEN2: "qwen2", _LLAMA3: "llama-bpe" if model.get("ignore_merges") else "dbrx"}
        return by_regex.get(parts[0]["pattern"].get("Regex", ""))
    if not last.get("use_regex", True):
        return None
    digits = [part.get("individual_digits") for part in parts if part["type"] == "Digits"]
    return {(0, False): "gpt-2", (1, True): "smollm"}.get((len(parts), digits == [True]))


def _is_sentencepiece(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer merges characters, in the order of its tokens, as Gemma's does."""
    backend = _backend(tokenizer)
    model = backend.get("model", {})
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        return False
    spaces = {"type": "Replace", "pattern": {"String": _SPACE}, "content": _UNDERSCORE}
    vocab = model["vocab"]
    results = [vocab["".join(pair.split(" ") if isinstance(pair, str) else pair)] for pair in model["merges"]]
    return backend.get("normalizer") == spaces and results == sorted(results)


def _backend(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the content of tokenizer.json; empty for a tokenizer that has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {} if backend is None else dict(json.loads(backend.to_str()))


# --- comparison --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _check_reads(file: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError if transformers reads other weights or tokens from the file than it was made of."""
    try:
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
        tokens = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # transformers and gguf raise many kinds
        if is_out_of_memory(error):
            raise
        said = f"{type(error).__name__}: {first_sentence(error)}"
        raise InputError(f"--gguf: transformers cannot read the file that was made ({said}); {_INSTEAD}.") from None
    if any(rope.get("rope_type") == "llama3" for rope in _ropes(model.config)):
        read.get_decoder().rotary_emb = model.get_decoder().rotary_emb  # scaled positions, which transformers does not read
    ids = torch.tensor([ordinary_ids(model, 32)])
    wanted, got = (each(input_ids=ids, use_cache=False).logits[0] for each in (model.eval(), read))
    off = float(relative_error(got, wanted).mean())
    if not off <= _TOLERANCE:
        raise InputError(
            f"--gguf: read back from the file, {type(model).__name__} scores otherwise (its logits are {off:.0%} off), so "
            f"that nothing was written; {_INSTEAD}."
        )
    for text in (_PROBE, *_special_texts(tokenizer)):
        if _ids(tokens, text) != _ids(tokenizer, text):
            raise InputError(
                f"--gguf: read back from the file, the tokenizer splits {text[:40]!r} otherwise, so that nothing was written; "
                f"{_INSTEAD}."
            )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Sequence[int]:
    return cast(Sequence[int], tokenizer(text).input_ids)


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield texts with tokens that were added, as a chat template writes them."""
    for token in list(tokenizer.added_tokens_decoder.values())[:50]:
        yield f"a{token.content}b"

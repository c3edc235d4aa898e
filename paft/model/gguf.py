"""GGUF files: what a header says, which files can be used, and their digests.

Imports nothing heavy, so that a file that cannot be used is refused at once.
"""

import contextlib
import hashlib
import json
import re
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from paft.config.base_model import file_name, is_gguf
from paft.config.schema import ModelConfig
from paft.model.cache import cache_dir
from paft.model.pypi import check_license, packaged
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # by type of value
_TEXT, _ARRAY = 8, 9
_SETTLED_NS = 2 * 10**9  # a file that changed more recently may change again without its times showing it
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself, and how many bytes and weights belong to that.

    fields holds numbers and texts, and of an array its length. tensors holds the names, size the bytes that the whole file has
    if it is complete, n_weights the number of all values of all tensors.
    """

    fields: Mapping[str, Any]
    tensors: tuple[str, ...]
    size: int
    n_weights: int

    @property
    def architecture(self) -> str:
        """The name of the architecture, such as llama."""
        return str(self.fields["general.architecture"])

    def of_architecture(self, key: str) -> Any:
        """Return a field of the architecture, such as attention.key_length; None if it is not there."""
        return self.fields.get(f"{self.architecture}.{key}")


def gguf_digest(path: str) -> str:
    """Return the SHA-256 of a whole GGUF file, which is remembered in the cache until the file changes.

    Args:
        path: a file, or `pypi:` and the name of a file that PyPI has, whose digest is known.

    Raises InputError if the file cannot be read.
    """
    if (model := packaged(path)) is not None:
        return model.sha256
    file = Path(path)
    try:
        before = _state(file)
        note = cache_dir() / "digests" / f"{hashlib.sha256(before[0].encode()).hexdigest()[:16]}.json"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            seen = json.loads(note.read_text(encoding="utf-8"))
            if seen["file"] == before:
                return str(seen["sha256"])
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if _state(file) != before:
            raise InputError(f"model.path={path}: this file changed while it was read; wait until it is complete.")
    except OSError as error:
        raise InputError(f"model.path={path}: this file cannot be read ({error.strerror}).") from None
    if time.time_ns() - before[2] > _SETTLED_NS:
        with contextlib.suppress(OSError):  # a cache that cannot be written to costs seconds, no more
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps({"file": before, "sha256": digest}))
    return digest


def _state(file: Path) -> list[Any]:
    """Return what changes where a file changes: its path, size, time of modification and time of change."""
    state = file.stat()
    return [str(file.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def origin(path: str | None) -> str | None:
    """Return where dequantised weights come from, for records: a file's name and digest; None for another kind of model."""
    if path is None or not is_gguf(path):
        return None
    return f"GGUF file {file_name(path)}, SHA-256 {gguf_digest(path)}"


def converted_folder(path: str) -> Path:
    """Return where the dequantised copy of a GGUF file lies once it has been made; raises InputError as gguf_digest."""
    return cache_dir() / f"gguf-{gguf_digest(path)[:16]}"


def check_gguf(model: ModelConfig, given: bool = True) -> None:
    """Refuse a GGUF file that cannot be dequantised, as far as its header shows that, or whose licence was not accepted.

    Args:
        given: whether the command names the model; else an adapter does, and a copy in the cache was accepted before.

    Raises InputError.
    """
    path = model.path
    if path is None or not is_gguf(path):
        return
    known = packaged(path)
    if known is not None:
        if given or not converted_folder(path).is_dir():
            check_license(known, model.accept_license)
        return
    if not Path(path).is_file():
        raise InputError(f"model.path={path}: there is no such file.")
    if not converted_folder(path).is_dir():
        checked_header(path)


def checked_header(path: str) -> Header:
    """Return the header of a GGUF file; raises InputError if it shows that the file cannot be dequantised."""
    file, what = Path(path), f"model.path={path}"
    with file.open("rb") as content:
        if content.read(4) != b"GGUF":
            raise InputError(f"{what}: this is no GGUF file (it does not begin with the letters GGUF).")
    header = _read_header(file, what)
    if (part := _PART.search(file.name)) or header.fields.get("split.count", 1) > 1:
        n = int(part[1]) if part else header.fields["split.count"]
        raise InputError(
            f"{what}: this is one of {n} parts of a split GGUF file; join them with llama.cpp's "
            "`llama-gguf-split --merge FIRST_PART OUT.gguf` and give OUT.gguf."
        )
    if (size := file.stat().st_size) < header.size:
        raise InputError(f"{what}: this file is cut off ({size:,} of {header.size:,} bytes); copy or download it again.")
    if (kind := header.fields.get("general.type", "model")) != "model":
        raise InputError(f"{what}: this GGUF file holds no model (its type is {kind}); give the file of the model.")
    if not header.fields.get("tokenizer.ggml.model") or not header.fields.get("tokenizer.ggml.tokens"):
        raise InputError(f"{what}: this GGUF file holds no tokenizer; give one that llama.cpp's converter wrote.")
    _check_positions(header, what)
    return header


def _check_positions(header: Header, what: str) -> None:
    """Refuse scaled positions (Llama 3.1 and later, YaRN), which transformers' reader of GGUF files drops without a word."""
    scaled = [name for name in header.tensors if name.startswith("rope_f")]
    if header.of_architecture("rope.scaling.type") not in (None, "none") and header.architecture != "gpt-oss":
        scaled.append(f"{header.architecture}.rope.scaling.type")
    if scaled:
        raise InputError(
            f"{what}: this model scales its positions ({scaled[0]}), which transformers does not read from a GGUF file, so "
            "every score would be wrong; give the model's folder or hub id."
        )


def _read_header(file: Path, what: str) -> Header:
    """Read the header of a GGUF file of version 2 or 3; raises InputError if it is damaged."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    def align(position: int, to: int) -> int:
        return -(-position // to) * to

    try:
        with file.open("rb") as content:
            content.seek(4)
            version, n_tensors, n_fields = _unpack(content, "<IQQ")
            if version not in (2, 3):
                raise InputError(f"{what}: this is no GGUF file of version 2 or 3; convert the model again.")
            fields = {}
            for _ in range(n_fields):
                key = _text(content)
                fields[key] = _value(content, _unpack(content, "<I")[0])
            names, end, n_weights = [], 0, 0
            alignment = fields.get("general.alignment", 32)
            for _ in range(n_tensors):
                names.append(_text(content))
                shape = _unpack(content, f"<{_unpack(content, '<I')[0]}Q")
                kind, offset = _unpack(content, "<IQ")
                per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
                end = max(end, offset + prod(shape) // per_block * block_bytes)
                n_weights += prod(shape)
            if not names or not fields.get("general.architecture"):
                raise InputError(f"{what}: this GGUF file holds no model.")
            return Header(fields, tuple(names), align(content.tell(), alignment) + end, n_weights)
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, MemoryError, ZeroDivisionError) as error:
        raise InputError(
            f"{what}: the header of this GGUF file is damaged or cut off ({type(error).__name__}); copy or download it again."
        ) from None


def _unpack(content: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, content.read(struct.calcsize(form)))


def _text(content: BinaryIO) -> str:
    (length,) = _unpack(content, "<Q")
    if length > 2**27:  # longer than any file's
        raise ValueError("a text of an impossible length")
    return content.read(length).decode("utf-8", errors="replace")


def _value(content: BinaryIO, kind: int) -> Any:
    """Read a number or a text; of an array only its length."""
    if kind == _TEXT:
        return _text(content)
    if kind != _ARRAY:
        return _unpack(content, f"<{_NUMBERS[kind]}")[0]
    inner, length = _unpack(content, "<IQ")
    if inner in _NUMBERS:
        content.seek(length * struct.calcsize(f"<{_NUMBERS[inner]}"), 1)
    else:
        for _ in range(length):
            _value(content, inner)
    return length

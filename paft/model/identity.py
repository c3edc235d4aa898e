"""Identifying models without loading them, by digests of their files. Imports nothing heavy."""

import hashlib
from pathlib import Path

from paft.config.base_model import is_gguf
from paft.config.schema import ModelConfig
from paft.model.gguf import gguf_digest

_PIECE = 4096  # bytes


def base_identity(model: ModelConfig) -> str:
    """Return what identifies a base model without loading it: hub id and revision, or a digest of a folder's weight files.

    The digest covers the files' names and sizes and a thousand pieces spread over each file. It is cheap, and differs for
    different weights, even if only some layers changed because an adapter was merged into them.
    """
    if model.path is None:
        return "embedded"
    if is_gguf(model.path):
        return f"gguf:{gguf_digest(model.path)[:16]}"
    folder = Path(model.path)
    if not folder.is_dir():
        return f"{model.path}@{model.revision}"
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for offset in range(0, size, max(_PIECE, size // 1000)):
                file.seek(offset)
                digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]


def adapter_digest(folder: Path) -> str:
    """Return the SHA-256 of an adapter's weight file."""
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()

"""What tells models apart before any is loaded: digests of their files. Imports nothing heavy."""

import hashlib
from pathlib import Path

from paft.config.schema import ModelConfig

_PIECE = 4096  # bytes


def base_identity(model: ModelConfig) -> str:
    """Return what tells base models apart before any is loaded: hub id and revision, or a digest of a folder's weight files.

    The digest is over the files' names and sizes and a thousand pieces spread over each: cheap, and other for other weights,
    those of an adapter merged into some layers included.
    """
    if model.path is None:
        return "embedded"
    folder = Path(model.path)
    if not folder.is_dir():
        return f"{model.path}@{model.revision}"
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for place in range(0, size, max(_PIECE, size // 1000)):
                file.seek(place)
                digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]


def adapter_digest(folder: Path) -> str:
    """Return SHA-256 over an adapter's weights."""
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()

"""How model.path names a base model: a hub id, a folder, a GGUF file, or a GGUF file on PyPI."""

from pathlib import Path

from paft.runtime.errors import InputError

PYPI = "pypi:"  # and the name of a file: pypi:qwen2.5-coder-0.5b-instruct-q4_k_m.gguf


def is_gguf(path: str | None) -> bool:
    """Whether model.path names a GGUF file, on this machine or on PyPI."""
    return path is not None and path.lower().endswith(".gguf")


def file_name(path: str) -> str:
    """Return the last part of model.path."""
    return path.removeprefix(PYPI).rstrip("/").rsplit("/", 1)[-1]


def called(path: str | None, otherwise: str) -> str:
    """Return what pages and messages call a base model; a GGUF file never goes by the name of the model that it was made of.

    Args:
        otherwise: what to call the embedded model.
    """
    if path is None:
        return otherwise
    return f"{file_name(path)}, dequantised from GGUF" if is_gguf(path) else path


def with_gguf_file(path: str | None) -> str | None:
    """Return model.path; of a folder that holds one GGUF file and no transformers model, the path of that file.

    Raises InputError for a folder that holds several, and no transformers model.
    """
    if path is None or path.startswith(PYPI) or not Path(path).is_dir() or _holds_weights(Path(path)):
        return path
    files = sorted(file for file in Path(path).iterdir() if is_gguf(file.name))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise InputError(
            f"model.path={path}: this folder holds {len(files)} GGUF files ({names}{', ...' if len(files) > 3 else ''}); name "
            "one of them."
        )
    return str(files[0]) if files else path


def _holds_weights(folder: Path) -> bool:
    """Whether a folder holds the weights of a transformers model; a config.json may lie beside a GGUF file."""
    return any(file.suffix in (".safetensors", ".bin") for file in folder.iterdir())

"""Identifying models without loading them, by digests of their files. Imports nothing heavy."""

import hashlib
import json
import re
from functools import cache
from pathlib import Path

from paft.config.adapter import METADATA, PEFT_CONFIG, TOKENIZER, WEIGHTS
from paft.config.base_model import is_gguf
from paft.config.schema import ModelConfig
from paft.model.gguf import gguf_digest
from paft.runtime.errors import InputError

_PIECE = 4096  # bytes
_PATIENCE_S = 10  # with the hub
_WEIGHTS = (".safetensors", ".bin")
# What a rendering, a token or a generated text depends on: configs, tokenizer, chat templates, code that comes with a model.
_SETTINGS = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".vocab", ".bpe", ".py")


def base_identity(model: ModelConfig) -> str:
    """Return what identifies a base model without loading it: hub id and commit, a digest of files, or a server's address.

    The digest covers the whole of configs, tokenizer and chat templates, and of weight files names, sizes and a thousand pieces
    spread over each. It is cheap, and differs for different weights, even if only some layers changed because an adapter was
    merged into them.

    Raises InputError if the commit of a hub model cannot be known.
    """
    if model.api is not None:
        return f"api:{model.api} {model.name}"
    if model.path is None:
        return "embedded"
    if is_gguf(model.path):
        return f"gguf:{gguf_digest(model.path)[:16]}"
    folder = Path(model.path)
    return f"files:{_folder_digest(folder)}" if folder.is_dir() else f"{model.path}@{revision_of(model)}"


def revision_of(model: ModelConfig) -> str | None:
    """Return the commit of a hub model, which a branch's name stands for only today; None for a model that is on this machine.

    Raises InputError if it cannot be known: the hub has no such model or is out of reach, and no copy lies in its cache.
    """
    if model.path is None or is_gguf(model.path) or Path(model.path).is_dir():
        return None
    return _commit(model.path, model.revision or "main")


def adapter_digest(folder: Path) -> str:
    """Return SHA-256 over an adapter's weights and its config, which says how the weights are scaled.

    The tokenizer beside an adapter that PEFT or TRL made counts as well, because it is the one that is used.

    Raises InputError if the config is damaged.
    """
    try:
        config = dict(json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise InputError(f"{folder / PEFT_CONFIG}: this file is damaged; train the adapter again.") from None
    config.pop("base_model_name_or_path", None)  # where the base lay; what it is has its own digest
    # PEFT keeps module names in sets, which each process writes in an order of its own.
    config = {key: sorted(map(str, value)) if isinstance(value, list) else value for key, value in config.items()}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    digest.update((folder / WEIGHTS).read_bytes())
    for path in [] if (folder / METADATA).is_file() else [folder / name for name in TOKENIZER]:
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.relative_to(folder).parts[0].startswith(".")):
        if path.parent == folder and path.suffix in _WEIGHTS:
            _update_with_pieces(digest, path)
        elif path.suffix in _SETTINGS and (path.parent == folder or path.parent.name == "additional_chat_templates"):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def _update_with_pieces(digest: "hashlib._Hash", path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{path.name} {size} ".encode())
    with path.open("rb") as file:
        for offset in range(0, size, max(_PIECE, size // 1000)):
            file.seek(offset)
            digest.update(file.read(_PIECE))


@cache
def _commit(path: str, revision: str) -> str:
    """Return the commit that a branch, a tag or a commit of a hub model stands for: from the hub, else from its cache."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().model_info(path, revision=revision, timeout=_PATIENCE_S).sha)
    except (GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        said = type(error).__name__
    except Exception as error:  # no network, in the many forms that it takes
        cached = try_to_load_from_cache(path, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        said = type(error).__name__
    at = "" if revision == "main" else f", revision {revision},"
    raise InputError(
        f"model.path={path}: this model cannot be loaded; there is no such folder, and the hub gives this machine no model of "
        f"this id{at.rstrip(',')} ({said}); where the hub is out of reach, give a folder with the model, or a GGUF file."
    )

"""Uploading a model folder to the hub."""

from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from paft.runtime.errors import InputError, first_sentence


def check_push(repo: str) -> None:
    """Raise InputError if this is no name of a repository, or this machine has no token for the hub. It asks no server."""
    try:
        validate_repo_id(repo)
        named = "/" in repo
    except HFValidationError:
        named = False
    if not named:
        raise InputError(f"--push {repo}: a repository is named USER/NAME, of letters, digits, '-', '_' and '.'.")
    if get_token() is None:
        raise InputError(
            f"--push {repo}: there is no token for the hub; run `hf auth login`, or set HF_TOKEN to one that may write."
        )
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"--push {repo}: HF_HUB_OFFLINE is set, so nothing can be sent; unset it.")


def check_token(repo: str) -> None:
    """Raise InputError if the hub does not know this machine's token, or cannot be reached."""
    try:
        HfApi().whoami()
    except Exception as error:  # the hub's and the network's
        raise InputError(f"--push {repo}: {_why(error)}.") from None


def push(folder: Path, repo: str) -> str:
    """Upload all files of a folder to a repository of models, and return its address.

    A repository that is not there is made, private; one that is there keeps its visibility.

    Raises InputError if the hub refuses it or cannot be reached; the folder stays.
    """
    api = HfApi()
    try:
        address = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload by paft merge")
    except Exception as error:  # the hub's, the network's, and what uploading makes of them
        raise InputError(
            f"--push {repo}: {_why(error)}; {folder} is written, and `hf upload {repo} {folder}` sends it again."
        ) from None
    return str(address)


def _why(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if status == 401:
        return "the hub does not know this token; run `hf auth login`"
    if status == 403:
        return "this token may not write there; make one that may, and run `hf auth login`"
    return f"the hub cannot be reached, or refuses this ({type(error).__name__}: {first_sentence(error)})"

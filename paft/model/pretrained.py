"""Loading a causal LM by name for what is not a run: writing prompts, embedding them."""

from typing import Any

import torch
from transformers import AutoTokenizer

from paft.errors import InputError
from paft.model.embedded import smollm2_folder
from paft.quiet import quieten


def load_pretrained(kind: Any, path: str, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """Return (tokenizer, model in evaluation mode, on the GPU if there is one).

    Args:
        kind: AutoModel or AutoModelForCausalLM.
        path: a hub id or a folder; `embedded` is the model that comes with the project.

    Raises InputError if they cannot be loaded.
    """
    quieten()
    where = smollm2_folder() if path == "embedded" else path
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        model = kind.from_pretrained(where, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # whatever the hub, the files or transformers come up with
        raise InputError(f"{path}: this is no causal LM that transformers can load ({type(error).__name__}).") from None
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

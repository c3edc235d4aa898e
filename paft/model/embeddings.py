"""Prompts as vectors (the mean hidden state of a causal LM), and loading a model by name outside of runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from paft.model.converted import loadable
from paft.runtime.errors import InputError
from paft.runtime.memory import is_out_of_memory
from paft.runtime.process import quieten

_WINDOW = 512  # tokens; prompts are shorter


def mean_hidden_states(texts: Sequence[str], tokenizer: Any, model: Any) -> NDArray[np.float32]:
    """Embed texts by the mean of the last layer's hidden states: (len(texts), width) float32, rows of length 1.

    The mean over the texts is subtracted, because hidden states share one large direction that would hide all else.
    """
    rows = []
    with torch.no_grad():
        for text in texts:  # one by one, so that no padding enters the mean
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=_WINDOW).to(model.device)
            rows.append(model.base_model(**inputs).last_hidden_state[0].mean(0).float().cpu().numpy())
    vectors = np.stack(rows)
    vectors -= vectors.mean(axis=0)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


def load_pretrained(kind: Any, path: str, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """Return (tokenizer, model in evaluation mode, on the GPU if there is one).

    Args:
        kind: AutoModel or AutoModelForCausalLM.
        path: a hub id, a folder or a GGUF file; `embedded` is the model that comes with the project.

    Raises InputError if they cannot be loaded.
    """
    quieten()
    source = loadable(None if path == "embedded" else path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = kind.from_pretrained(source, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # the hub, the files and transformers raise many kinds
        if is_out_of_memory(error):
            raise
        raise InputError(f"{path}: this is no causal LM that transformers can load ({type(error).__name__}).") from None
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

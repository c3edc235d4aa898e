"""Prompts as vectors: the mean hidden state of a causal LM."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from paft.errors import InputError
from paft.model.embedded import smollm2_folder
from paft.quiet import quieten

_WINDOW = 512  # tokens; prompts are shorter


def mean_hidden_states(texts: Sequence[str], path: str) -> NDArray[np.float32]:
    """Embed texts: the last layer's hidden states, averaged over the tokens; (len(texts), width) float32, rows of length 1.

    The mean over the texts is taken off first: hidden states share one large direction, which would hide all else.

    Args:
        path: a hub id or a folder; `embedded` is the model that comes with the project.

    Raises InputError if the model cannot be loaded.
    """
    quieten()
    where = smollm2_folder() if path == "embedded" else path
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(where)
        model: Any = AutoModel.from_pretrained(where, dtype=torch.float32).to(device).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: this is no causal LM that transformers can load ({type(error).__name__}).") from None
    rows = []
    with torch.no_grad():
        for text in texts:  # one by one: no padding to leave out again
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=_WINDOW).to(device)
            rows.append(model(**inputs).last_hidden_state[0].mean(0).float().cpu().numpy())
    vectors = np.stack(rows)
    vectors -= vectors.mean(axis=0)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

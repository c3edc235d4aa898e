"""Prompts as vectors: the mean hidden state of a causal LM."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from paft.model.pretrained import load_pretrained

_WINDOW = 512  # tokens; prompts are shorter


def mean_hidden_states(texts: Sequence[str], path: str) -> NDArray[np.float32]:
    """Embed texts: the last layer's hidden states, averaged over the tokens; (len(texts), width) float32, rows of length 1.

    The mean over the texts is taken off first: hidden states share one large direction, which would hide all else.

    Args:
        path: a hub id or a folder; `embedded` is the model that comes with the project.

    Raises InputError if the model cannot be loaded.
    """
    tokenizer, model = load_pretrained(AutoModel, path, torch.float32)
    rows = []
    with torch.no_grad():
        for text in texts:  # one by one: no padding to leave out again
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=_WINDOW).to(model.device)
            rows.append(model(**inputs).last_hidden_state[0].mean(0).float().cpu().numpy())
    vectors = np.stack(rows)
    vectors -= vectors.mean(axis=0)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

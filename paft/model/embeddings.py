"""Prompts as vectors: the mean hidden state of a causal LM."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_WINDOW = 512  # tokens; prompts are shorter


def mean_hidden_states(texts: Sequence[str], tokenizer: Any, model: Any) -> NDArray[np.float32]:
    """Embed texts: the last layer's hidden states, averaged over the tokens; (len(texts), width) float32, rows of length 1.

    The mean over the texts is taken off first: hidden states share one large direction, which would hide all else.
    """
    rows = []
    with torch.no_grad():
        for text in texts:  # one by one: no padding to leave out again
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=_WINDOW).to(model.device)
            rows.append(model.base_model(**inputs).last_hidden_state[0].mean(0).float().cpu().numpy())
    vectors = np.stack(rows)
    vectors -= vectors.mean(axis=0)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)

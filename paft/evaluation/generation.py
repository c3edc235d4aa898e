"""Scoring by generation: the model writes a text greedily, and the answer is read off it (paper, section 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.answers import Metric, first_option, first_text, is_right
from paft.evaluation.cells import Cell
from paft.evaluation.likelihood import NO_NUMBERS, Model
from paft.evaluation.store import StoredCell
from paft.model.base import window_of
from paft.runtime.errors import InputError

MAX_NEW_TOKENS = 256  # as in OpenCompass


@dataclass(frozen=True)
class Stop:
    """The rule by which a text ends: at end-of-text, after max_new_tokens, or at the first line break after a word."""

    max_new_tokens: int
    at_line_break: bool


class Generation:
    """Answers cells with the text that the model writes.

    Where an example has choices, the first option's letter in the text is the prediction, or the first option's text where
    prompts ask for that. A text without any predicts -1, which is wrong. Free-form answers are compared by the metric.
    """

    def __init__(self, model: Model, encoder: Encoder, metric: Metric, stop: Stop) -> None:
        self.model, self.encoder, self.metric, self.stop = model, encoder, metric, stop

    def __call__(self, cells: Sequence[Cell], examples: Sequence[Example]) -> list[StoredCell]:
        """Return a row of answer columns per cell.

        Args:
            examples: those of the cells, in their order.
        """
        texts = generate(self.model, self.encoder.tokenizer, [cell.encoded.context for cell in cells], self.stop)
        return [self._row(example, text, n) for example, (text, n) in zip(examples, texts, strict=True)]

    def _row(self, example: Example, text: str, n_tokens: int) -> StoredCell:
        predicted = -1
        if example.choices:
            letters = self.encoder.answer == "letter"
            predicted = first_option(text, len(example.choices)) if letters else first_text(text, example.choices)
            correct = predicted == example.gold != -1
        else:
            correct = is_right(text, example.answer, self.metric)
        return {
            "log_probs": [],
            "predicted": predicted,
            "correct": correct,
            "tied": False,
            "output": text,
            "output_tokens": n_tokens,
        }


def stop_rule(examples: Sequence[Example], metric: Metric, max_new_tokens: int) -> Stop:
    """Return the rule that stops at line breaks, unless answers may take several lines.

    They may where the last number counts (GSM8K reasons over several lines) and where right answers hold line breaks.
    """
    several_lines = metric == "last_number" or any("\n" in example.answer.strip() for example in examples)
    return Stop(max_new_tokens, not several_lines)


def generate(
    model: Model, tokenizer: PreTrainedTokenizerBase, contexts: Sequence[Sequence[int]], stop: Stop
) -> list[tuple[str, int]]:
    """Continue each context greedily; return the texts, each with its number of tokens (including the one that ended it).

    A text also ends where the model's window does. Finished rows leave the batch, so that one long text does not cost the
    others computation.

    Raises InputError if the model's scores are NaN.
    """
    end: int = tokenizer.eos_token_id
    longest = max(map(len, contexts))
    ids = torch.tensor([[end] * (longest - len(c)) + list(c) for c in contexts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(c)) + [1] * len(c) for c in contexts], device=model.device)
    written: list[list[int]] = [[] for _ in contexts]
    window = window_of(model.config, longest + stop.max_new_tokens)
    limits = [min(stop.max_new_tokens, window - len(context)) for context in contexts]
    rows = list(range(len(contexts)))  # of the batch: the index of the context that each row continues
    cache = DynamicCache()
    while rows:
        tokens = _next_tokens(model, ids, mask, cache)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            written[row].append(token)
        unfinished = [i for i, row in enumerate(rows) if not _ended(tokenizer, written[row], end, stop, limits[row])]
        if len(unfinished) < len(rows):
            indices = torch.tensor(unfinished, dtype=torch.long, device=model.device)
            cache.batch_select_indices(indices)
            tokens, mask, rows = tokens[indices], mask[indices], [rows[i] for i in unfinished]
        ids, mask = tokens[:, None], torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [(_cut(text, stop), len(tokens)) for text, tokens in zip(texts, written, strict=True)]


def _next_tokens(model: Model, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Return the likeliest next token (B,) int64 of each row.

    Args:
        ids: (B, n) int64, the tokens that the cache does not hold yet.
        mask: (B, tokens so far) int64, 0 at padding.

    Raises InputError if the model's scores are NaN.
    """
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    # An index and not the number 1, which would slice: for a strided view a CPU copies the LM head once per row.
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    out = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=last
    )
    highest, best = out.logits[:, -1].max(-1)
    if highest.isnan().any():
        raise InputError(NO_NUMBERS)
    return best


def _ended(tokenizer: PreTrainedTokenizerBase, written: list[int], end: int, stop: Stop, limit: int) -> bool:
    if written[-1] == end or len(written) >= limit:
        return True
    if not stop.at_line_break or "\n" not in tokenizer.decode(written[-1:]):
        return False
    (text,) = tokenizer.batch_decode([written], skip_special_tokens=True)
    return "\n" in text.lstrip()


def _cut(text: str, stop: Stop) -> str:
    """Cut off what follows the line break that ended the text."""
    text = text.strip()
    return text.split("\n", 1)[0].rstrip() if stop.at_line_break else text

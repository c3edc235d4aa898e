"""Scoring by generation: greedy text, and the answer it gives (the paper's protocol, section 4.1)."""

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
from paft.evaluation.store import Row
from paft.model.base import window_of
from paft.runtime.errors import InputError

MAX_NEW_TOKENS = 256  # as in OpenCompass


@dataclass(frozen=True)
class Stop:
    """When a text ends: at end-of-text, after so many tokens, or at a line break behind its first word."""

    max_new_tokens: int
    at_line_break: bool


class Generation:
    """Answers with what the model writes.

    For choices, the first option letter, or the first option's text where prompts ask for that; none: predicted -1, which
    is wrong. Free-form answers are compared by the metric.
    """

    def __init__(self, model: Model, encoder: Encoder, metric: Metric, stop: Stop) -> None:
        self.model, self.encoder, self.metric, self.stop = model, encoder, metric, stop

    def __call__(self, cells: Sequence[Cell], examples: Sequence[Example]) -> list[Row]:
        """Return what each cell was answered with; examples are those of the cells."""
        texts = generate(self.model, self.encoder.tokenizer, [cell.encoded.context for cell in cells], self.stop)
        return [self._row(example, text, n) for example, (text, n) in zip(examples, texts, strict=True)]

    def _row(self, example: Example, text: str, n_tokens: int) -> Row:
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
    """Stop at line breaks, unless the last number counts (GSM8K reasons over several lines) or right answers hold some."""
    several_lines = metric == "last_number" or any("\n" in example.answer.strip() for example in examples)
    return Stop(max_new_tokens, not several_lines)


def generate(
    model: Model, tokenizer: PreTrainedTokenizerBase, contexts: Sequence[Sequence[int]], stop: Stop
) -> list[tuple[str, int]]:
    """Continue each context greedily; returns the texts and how many tokens each took, the one that ended it included.

    A row also ends where the model's window does. Finished rows leave the batch, so that one that rambles on does not make
    the others compute.
    """
    end: int = tokenizer.eos_token_id
    longest = max(map(len, contexts))
    ids = torch.tensor([[end] * (longest - len(c)) + list(c) for c in contexts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(c)) + [1] * len(c) for c in contexts], device=model.device)
    written: list[list[int]] = [[] for _ in contexts]
    window = window_of(model.config, longest + stop.max_new_tokens)
    most = [min(stop.max_new_tokens, window - len(context)) for context in contexts]
    rows = list(range(len(contexts)))  # of the batch: which context each continues
    cache = DynamicCache()
    while rows:
        tokens = _next_tokens(model, ids, mask, cache)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            written[row].append(token)
        going = [i for i, row in enumerate(rows) if not _ended(tokenizer, written[row], end, stop, most[row])]
        if len(going) < len(rows):
            kept = torch.tensor(going, dtype=torch.long, device=model.device)
            cache.batch_select_indices(kept)
            tokens, mask, rows = tokens[kept], mask[kept], [rows[i] for i in going]
        ids, mask = tokens[:, None], torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [(_cut(text, stop), len(tokens)) for text, tokens in zip(texts, written, strict=True)]


def _next_tokens(model: Model, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Return the likeliest next token (B,) int64 of each row; ids (B, n) are those that the cache does not hold yet.

    Raises InputError if the model computes no numbers.
    """
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    # An index, not a number, which would slice: a CPU multiplies a strided view with a copy of the LM head for each row.
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    out = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=last
    )
    highest, best = out.logits[:, -1].max(-1)
    if highest.isnan().any():
        raise InputError(NO_NUMBERS)
    return best


def _ended(tokenizer: PreTrainedTokenizerBase, written: list[int], end: int, stop: Stop, most: int) -> bool:
    if written[-1] == end or len(written) >= most:
        return True
    if not stop.at_line_break or "\n" not in tokenizer.decode(written[-1:]):
        return False
    (text,) = tokenizer.batch_decode([written], skip_special_tokens=True)
    return "\n" in text.lstrip()


def _cut(text: str, stop: Stop) -> str:
    """Leave out what stands behind the line break that ended the text."""
    text = text.strip()
    return text.split("\n", 1)[0].rstrip() if stop.at_line_break else text

"""Scoring: the log-probability of each choice after each rendering, one forward pass per rendering."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from paft.batch import Branches, pack
from paft.data.encode import Encoded, Encoder
from paft.data.task import Example
from paft.data.updates import split_into_micro_batches
from paft.evaluation.generation import generate, is_right
from paft.evaluation.matrix import ScoreMatrix
from paft.model.attention import packed_logits
from paft.prompts import PromptPool

Model: TypeAlias = PeftModel | PreTrainedModel
Metric = Literal["choice", "last_number", "exact"]


@dataclass(frozen=True)
class _Cell:
    """One rendering of the matrix, encoded."""

    prompt: int
    example: int
    encoded: Encoded


def score(
    model: Model,
    encoder: Encoder,
    pool: PromptPool,
    examples: Sequence[Example],
    *,
    metric: Metric,
    batch_tokens: int,
    progress: bool = False,
) -> ScoreMatrix:
    """Score every prompt of the pool on every example.

    metric: choice takes the choice with the highest log-probability (the first of equals), summed
    over its tokens where the options are shown, per UTF-8 byte where they are hidden and their
    lengths are a matter of style. last_number and exact compare a greedily generated text.
    """
    cells = [
        _Cell(p, e, encoder.scoring(template, example))
        for p, template in enumerate(pool.templates)
        for e, example in enumerate(examples)
    ]
    correct = np.zeros((len(pool.templates), len(examples)), dtype=bool)
    was_training = model.training
    model.eval()
    lengths = [len(c.encoded.context) + sum(map(len, c.encoded.continuations)) for c in cells]
    batches = split_into_micro_batches(lengths, batch_tokens)[::-1]  # longest first: memory runs out at once or never
    with torch.no_grad(), tqdm(total=len(cells), desc="scoring", unit="cell", disable=not progress) as bar:
        for batch in batches:
            chosen = [cells[i] for i in batch]
            if metric == "choice":
                right = _choose(model, encoder, pool, examples, chosen)
            else:
                texts = generate(model, encoder.tokenizer, [c.encoded.context for c in chosen])
                right = [is_right(text, examples[c.example].answer, metric) for text, c in zip(texts, chosen, strict=True)]
            for cell, is_correct in zip(chosen, right, strict=True):
                correct[cell.prompt, cell.example] = is_correct
            bar.update(len(batch))
    model.train(was_training)
    return ScoreMatrix(
        prompt_ids=tuple(t.id for t in pool.templates),
        example_ids=tuple(e.id for e in examples),
        parts=tuple(e.part for e in examples),
        groups=tuple(e.group for e in examples),
        correct=correct,
        chance=float(np.mean([1 / len(e.choices) if e.choices else 0.0 for e in examples])),
        n_truncated=sum(c.encoded.truncated for c in cells),
    )


def _choose(
    model: Model, encoder: Encoder, pool: PromptPool, examples: Sequence[Example], cells: Sequence[_Cell]
) -> list[bool]:
    scores = choice_log_probs(model, [cell.encoded for cell in cells])
    right = []
    for cell, choices in zip(cells, scores, strict=True):
        example = examples[cell.example]
        if pool.options == "hidden":
            choices = choices / torch.tensor([len(answer.encode()) for answer in encoder.answers(example)])
        right.append(int(choices.argmax()) == example.gold)
    return right


def choice_log_probs(model: Model, cells: Sequence[Encoded]) -> list[Tensor]:
    """Return, per rendering, the summed log-probability (C,) fp32 of each of its choices.

    The context is computed once for all choices: they branch off it in one packed row, and where
    every choice is one token (letters) all are read from the context's last position.
    """
    positions: list[int] = []  # tokens of the packed row whose logits are needed
    reads: list[list[list[int]]] = []  # per cell and choice: which of those predict its tokens
    start = 0
    for cell in cells:
        shared = len(positions)
        positions.append(start + len(cell.context) - 1)
        start += len(cell.context)
        choices = []
        for continuation in cell.continuations:
            own = range(len(positions), len(positions) + len(continuation) - 1)
            positions += range(start, start + len(continuation) - 1)
            start += len(continuation) - 1
            choices.append([shared, *own])
        reads.append(choices)
    device = model.device
    packing = pack([Branches(cell.context, [c[:-1] for c in cell.continuations]) for cell in cells]).to(device)
    logits = packed_logits(model, packing, torch.tensor(positions, device=device)).float()
    normaliser = logits.logsumexp(-1)
    result = []
    for cell, choices in zip(cells, reads, strict=True):
        pairs = zip(choices, cell.continuations, strict=True)
        values = [(logits[rows, tokens] - normaliser[rows]).sum() for rows, tokens in pairs]
        result.append(torch.stack(values).cpu())
    return result

"""Scoring: the log-probability of each choice after each rendering, one forward pass per rendering."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

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
from paft.evaluation.matrix import ScoreMatrix, matrix_of
from paft.evaluation.store import MatrixStore, Row
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
    store: MatrixStore | None = None,
) -> ScoreMatrix:
    """Score every prompt of the pool on every example.

    metric: choice takes the choice with the highest log-probability (the first of equals), summed
    over its tokens where the options are shown, per UTF-8 byte where they are hidden and their
    lengths are a matter of style. last_number and exact compare a greedily generated text.
    store: keeps each batch as it is scored, and gives back those of an evaluation that was cut off.
    """
    if store is not None and (done := store.load()) is not None:
        return matrix_of(pool, examples, done)
    cells = [
        _Cell(p, e, encoder.scoring(template, example))
        for p, template in enumerate(pool.templates)
        for e, example in enumerate(examples)
    ]
    was_training = model.training
    model.eval()
    lengths = [len(c.encoded.context) + sum(map(len, c.encoded.continuations)) for c in cells]
    batches = split_into_micro_batches(lengths, batch_tokens)[::-1]  # longest first: memory runs out at once or never
    rows: list[Row] = []
    right = 0
    with torch.no_grad(), tqdm(total=len(cells), desc="scoring", unit="cell", disable=not progress) as bar:
        for number, batch in enumerate(batches):
            found = None if store is None else store.load_part(number)
            if found is None:
                found = _score_cells(model, encoder, pool, examples, [cells[i] for i in batch], metric)
                if store is not None:
                    store.save_part(number, found)
            rows += found
            right += sum(row["correct"] for row in found)
            bar.update(len(batch))
            bar.set_postfix_str(f"accuracy {100 * right / len(rows):.1f}")
    model.train(was_training)
    if store is not None:
        store.save(rows)
    return matrix_of(pool, examples, rows)


def _score_cells(
    model: Model,
    encoder: Encoder,
    pool: PromptPool,
    examples: Sequence[Example],
    cells: Sequence[_Cell],
    metric: Metric,
) -> list[Row]:
    """Score the cells of a batch."""
    if metric == "choice":
        scores = choice_log_probs(model, [cell.encoded for cell in cells])
        answers = [_chosen(s, cell, encoder, pool, examples) for s, cell in zip(scores, cells, strict=True)]
    else:
        texts = generate(model, encoder.tokenizer, [cell.encoded.context for cell in cells])
        answers = [
            {"output": text, "correct": is_right(text, examples[cell.example].answer, metric), "predicted": -1, "log_probs": []}
            for text, cell in zip(texts, cells, strict=True)
        ]
    return [_row(cell, pool, examples) | answer for cell, answer in zip(cells, answers, strict=True)]


def _chosen(log_probs: Tensor, cell: _Cell, encoder: Encoder, pool: PromptPool, examples: Sequence[Example]) -> Row:
    """Take the choice with the highest score."""
    example = examples[cell.example]
    scores = log_probs
    if pool.options == "hidden":
        scores = log_probs / torch.tensor([len(answer.encode()) for answer in encoder.answers(example)])
    predicted = int(scores.argmax())
    return {"log_probs": log_probs.tolist(), "predicted": predicted, "correct": predicted == example.gold, "output": None}


def _row(cell: _Cell, pool: PromptPool, examples: Sequence[Example]) -> Row:
    """Say which cell this is."""
    example = examples[cell.example]
    return {
        "prompt": cell.prompt,
        "example": cell.example,
        "prompt_id": pool.templates[cell.prompt].id,
        "example_id": example.id,
        "group": example.group,
        "part": example.part,
        "gold": example.gold,
        "truncated": cell.encoded.truncated,
    }


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

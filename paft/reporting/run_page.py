"""The page of a run, report.html: a single HTML file that loads nothing else."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from scipy.special import softmax

from paft.data.tasks.base import LETTERS, Example
from paft.evaluation.evaluator import Scored
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.robustness import accuracy_per_prompt
from paft.evaluation.store import StoredCell, read_cells
from paft.prompts import PromptPool
from paft.reporting.results import Results
from paft.reporting.table import beware, certainty, coverage, remarks, worst_prompts
from paft.runtime.files import write_atomically

_ORIGIN = {"git", "versions", "device", "dtype", "fingerprints"}  # keys of the results
_WORST_PROMPTS, _MISTAKES = 3, 3  # the number of worst prompts on the page, and of mistakes for each


@dataclass(frozen=True)
class Mistake:
    """A rendering that was answered wrongly.

    text is the rendering, right the right answer, answered the model's. choices are (name, text, score). The score of a letter
    is its share of the letters' probability. The score of an option's text is its log-probability, summed over its tokens.
    Where text was generated, scores are None.
    """

    text: str
    right: str
    answered: str
    choices: list[tuple[str, str, float | None]]


def write_run_page(
    path: Path, results: Results, scored: Scored, pool: PromptPool, examples: Sequence[Example], figure: Path
) -> None:
    """Write the page of a run.

    Args:
        figure: a PNG, which is embedded in the page.
    """
    matrix = scored.matrix
    assert results.robustness is not None and results.chance is not None
    accuracy = accuracy_per_prompt(matrix)
    generated = results.scoring.scoring == "generate"
    prompts = [
        {
            "template": template,
            "accuracy": 100 * accuracy[i],
            "tokens": matrix.output_tokens[i].mean(),
            "seconds": scored.seconds[template.id],
        }
        for i, template in enumerate(pool.templates)
    ]
    environment = Environment(loader=PackageLoader("paft", "reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("run_page.html.jinja").render(
        results=results,
        generated=generated,
        letters=pool.answer == "letter",
        prompts=prompts,
        worst=[(pool.templates[i], 100 * accuracy[i], wrong) for i, wrong in mistakes(scored.path, matrix, pool, examples)],
        figure=base64.b64encode(figure.read_bytes()).decode(),
        over=coverage(results.robustness, results.chance, results.threshold),
        sure=certainty(results.uncertainty),
        tail=worst_prompts(results),
        warnings=beware(results),
        remarks=remarks(results),
        origin=results.model_dump_json(include=_ORIGIN | ({"served"} if results.served else set()), indent=2),
        config=json.dumps(results.config, indent=2),
    )
    write_atomically(path, page)


def mistakes(path: Path, matrix: ScoreMatrix, pool: PromptPool, examples: Sequence[Example]) -> list[tuple[int, list[Mistake]]]:
    """Return the indices of the worst prompts, worst first, each with some renderings that were answered wrongly.

    Args:
        path: the file of the finished matrix, of which only these cells are read.
    """
    by_prompt = []
    for prompt in accuracy_per_prompt(matrix).argsort(kind="stable")[:_WORST_PROMPTS].tolist():
        wrong = np.flatnonzero(~matrix.correct[prompt])[:_MISTAKES].tolist()
        if not wrong:
            continue
        cells = read_cells(path, where=[("prompt", "=", prompt), ("example", "in", wrong)]).to_pylist()
        by_prompt.append((prompt, [_mistake(cell, pool, examples[cell["example"]]) for cell in cells]))
    return by_prompt


def _mistake(cell: StoredCell, pool: PromptPool, example: Example) -> Mistake:
    names = LETTERS if pool.answer == "letter" else "•" * len(example.choices)
    scores: list[float | None] = cell["log_probs"] or [None] * len(example.choices)
    if pool.answer == "letter" and cell["log_probs"]:
        scores = softmax(cell["log_probs"]).tolist()
    choices = list(zip(names, example.choices, scores, strict=False))

    def option(index: int) -> str:
        if index < 0:
            return "no option"
        return f"{names[index]}: {example.choices[index]}" if pool.answer == "letter" else example.choices[index]

    right = option(cell["gold"]) if example.choices else example.answer
    answered = option(cell["predicted"]) if example.choices else ""
    if cell["output"] is not None:
        answered = f"{answered}, in “{cell['output']}”" if example.choices else cell["output"] or "nothing"
    return Mistake(pool.templates[cell["prompt"]].render(example.fields), right, answered, choices)

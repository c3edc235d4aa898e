"""Scoring candidate prompts within a budget, and the result of a search."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from paft.data.tasks.base import Example
from paft.evaluation.evaluator import Evaluator
from paft.evaluation.metrics import Metric
from paft.evaluation.scoring import Scoring
from paft.prompts import PromptPool, PromptTemplate

Scores: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """A prompt that a search tested: its score (accuracy), and the number of renderings that were scored for it."""

    prompt: str
    score: float
    renderings: int


@dataclass(frozen=True)
class Selection:
    """The prompt that a search chose, and all that it tested, in order."""

    chosen: PromptTemplate
    trace: tuple[Trial, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the content of selection.json, in plain types."""
        chosen = {"id": self.chosen.id, "text": self.chosen.text}
        return {
            "chosen": chosen,
            "renderings": sum(trial.renderings for trial in self.trace),
            "trace": [asdict(trial) for trial in self.trace],
        }


class Scorer:
    """Scores templates on validation examples; each call leaves its score matrix in `folder`, so that a search can resume.

    Args:
        examples: validation examples, in a fixed order; a call scores the first n of them.
        budget: the number of renderings that a search may score in all.
    """

    def __init__(
        self, evaluator: Evaluator, pool: PromptPool, examples: Sequence[Example], metric: Metric, folder: Path, budget: int
    ) -> None:
        self.pool, self.budget = pool, budget
        self._evaluator, self._examples, self._folder = evaluator, examples, folder
        self._scoring = Scoring(metric)
        self._calls = 0

    def __call__(self, templates: Sequence[PromptTemplate], n_examples: int) -> Scores:
        """Return the accuracy (P,) of each template on the first n examples."""
        self._calls += 1
        pool = PromptPool("candidates", tuple(templates), self.pool.answer, self.pool.options)
        self._folder.mkdir(parents=True, exist_ok=True)
        examples = self._examples[:n_examples]
        scored = self._evaluator.score(self._folder, pool, examples, self._scoring, name=f"scores-{self._calls:03}")
        return scored.matrix.accuracy

    def share(self, n_templates: int) -> int:
        """Return the number of examples on which each of n_templates templates may be scored."""
        return min(self.budget // n_templates, len(self._examples))

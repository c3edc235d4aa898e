"""The verdict on a run, in a sentence: was anything learnt, is it better than the base model, what does the wording cost?

A pure function of the scores and of what is known of the training. It claims no more than intervals show: where one holds both
answers, the sentence says so, and where there are too few prompts or rows for one, it says that. The thresholds stand below.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from paft.data.tasks.base import LETTERS
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.statistics import FEWEST, Array, Estimate, Groups, can_promise, corrected_std, estimate, swap_test
from paft.evaluation.tail import families_named
from paft.evaluation.wording import cost_of_wording, wording_matters, working_prompts, worse_kinds
from paft.prompts import PromptPool
from paft.reporting.compare import ComparedRun
from paft.reporting.logged import earlier_updates
from paft.reporting.page import bracketed, counted, p_value, percent, short
from paft.reporting.results import Beside, Results

SMALL = 0.03  # a difference of accuracies that does not matter: the wording may cost so much of a model that is called robust
ERROR = 0.05  # the probability of naming a kind of prompt as worse, or a spread as smaller, where there is no difference
LOSS_FELL = 0.05  # the share by which the training loss falls at least where anything was learnt
LITTLE_TO_GAIN = 0.95  # the accuracy of a base model from which training can hardly help
MANY_TEMPLATES = 20  # of which training has seen enough that others of the same kinds add little
MANY_ROWS = 200  # of training
_MOST_KINDS = 2  # of prompt that are named


@dataclass(frozen=True)
class Constant:
    """The answer that is right most often if it is always given, and where (E,) it is right, as 0 and 1."""

    name: str
    correct: Array


@dataclass(frozen=True)
class TrainingFacts:
    """What is known of a training run; K is None where it plays no part, losses are those of its beginning and its end."""

    lr: float
    K: int | None
    templates: int
    templates_seen: int
    rows: int
    losses: tuple[float, float] | None = None


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made from.

    correct (P, E) is right (1) or wrong (0), or a score in between; groups (E,) says which examples belong together. base
    (P, E) is the base model's on the same cells, None where it was not scored. method is how the model was trained, `base` if
    it was not. constant is None for free-form answers. families names the kind of each prompt (P,) by wording, layout ...,
    lengths (P,) counts its characters. letters says whether the answers are letters of options. trained is None in evaluations.
    """

    correct: Array
    groups: Groups
    chance: float
    method: str
    base: Array | None = None
    constant: Constant | None = None
    families: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lengths: Sequence[int] = ()
    letters: bool = False
    trained: TrainingFacts | None = None

    @property
    def scope(self) -> str:
        """Say what a number is about, where it is not about other prompts and examples of the kind; begins with a space."""
        prompts, groups = len(self.correct), len(np.unique(self.groups))
        if groups < FEWEST:
            return f" on {counted(prompts, 'prompt')} and {counted(groups, 'row')} alone, too few for an interval"
        return f" under {'this one prompt' if prompts == 1 else f'these {prompts} prompts'}" if prompts < FEWEST else ""

    @cached_property
    def gain(self) -> Estimate | None:
        """The mean less that of the base model; None where that was not scored."""
        return None if self.base is None else estimate(self.correct - self.base, self.groups)

    @cached_property
    def steadier(self) -> str | None:
        """A clause that says that a run varies less over prompts than its base model; None where nothing shows that."""
        if self.base is None or not can_promise(self.correct - self.base, self.groups):
            return None
        p, sign = swap_test(self.correct[None], self.base[None], self.groups)
        own, other = (corrected_std(one, self.groups) for one in (self.correct, self.base))
        if p >= ERROR or sign >= 0 or own >= other:
            return None
        return f"it varies less over prompts (std {percent(own)} instead of {percent(other)}, permutation {p_value(p)})"

    @cached_property
    def worst(self) -> list[str]:
        """The kinds of prompt that are worse than the others beyond noise, each with its numbers.

        The kinds are the families that the pool names; where it names none, the longer and the shorter half of the prompts.
        """
        families = {key: names for key, names in self.families.items() if len({*names} - {""}) > 1}
        if not families and self.lengths:
            middle = int(np.median(self.lengths))
            halves = {True: f"of more than {middle} characters", False: f"of up to {middle} characters"}
            families = {"": [halves[length > middle] for length in self.lengths]}
        for key, names in families.items():
            if found := worse_kinds(self.correct.mean(1), names, ERROR / len(families))[:_MOST_KINDS]:
                return [
                    f"{f'of {key} ' if key else ''}{kind.name} ({counted(kind.prompts, 'prompt')}, mean {percent(kind.mean)} "
                    f"instead of {percent(kind.others)})"
                    for kind in found
                ]
        return []


def verdict(seen: Evidence) -> str:
    """Return the verdict, one sentence: what came out, and what to try where it is not what one wants."""
    text = _not_learnt(seen) or _no_better(seen) or f"{_gain(seen)}{_wording(seen)}"
    return f"{text[0].upper()}{text[1:]}."


def _not_learnt(seen: Evidence) -> str | None:
    """Say that the accuracy is not above what guessing, or always giving one answer, gets; None where it is."""
    mean = estimate(seen.correct, seen.groups)
    figures = f"mean {bracketed(mean)}{seen.scope}"
    if mean.value == 0:
        return f"not one answer is right{seen.scope}; see in report.html what the model answers, and whether its form is read"
    if seen.chance == 0:
        return None
    gain = None if seen.constant is None else estimate(seen.correct - seen.constant.correct, seen.groups)
    if _ends(mean)[0] > seen.chance and (gain is None or _ends(gain)[0] > 0):
        return None
    if some := _under_some(seen):
        return some
    if mean.high is not None and mean.high < seen.chance:
        return (
            f"below chance: {figures}, where guessing gets {percent(seen.chance)}; see whether dataset.gold names the right "
            "answers, and in report.html whether the model answers alike whatever the row says"
        )
    if _ends(mean)[0] <= seen.chance:
        said = _no_sign(seen, _ends(mean)[1] - seen.chance)
        return f"{said}: {figures}, where guessing gets {percent(seen.chance)}; {_to_learn(seen)}"
    assert gain is not None and seen.constant is not None
    always = f"always answering {seen.constant.name} gets {percent(float(seen.constant.correct.mean()))}"
    return f"{_no_sign(seen, _ends(gain)[1])}: {figures}, where {always}; {_to_learn(seen)}"


def _under_some(seen: Evidence) -> str | None:
    """Say that the model is better than one that reads no row under some prompts, and is not shown to be under the others."""
    constant = None if seen.constant is None else seen.constant.correct
    above = working_prompts(seen.correct, seen.chance, constant, seen.groups, ERROR)
    if not above.any():
        return None
    accuracy = seen.correct.mean(1)
    without = f"guessing, which gets {percent(seen.chance)},"
    if seen.constant is not None and seen.constant.correct.mean() > seen.chance:
        without = f"always answering {seen.constant.name}, which gets {percent(float(seen.constant.correct.mean()))},"
    return (
        f"better than {without} under {above.sum()} of {len(accuracy)} prompts, and not shown to be under the others: the best "
        f"gets {percent(float(accuracy.max()))}, the worst {percent(float(accuracy.min()))}; {_to_steady(seen)}"
    )


def _no_sign(seen: Evidence, at_most: float) -> str:
    """Say that nothing was learnt, or where the interval leaves more room than that, that nothing shows it."""
    if seen.trained is None:
        return "no better than guessing" if at_most <= SMALL else "nothing shows that the model is better than guessing"
    return "not learnt" if at_most <= SMALL else "nothing shows that the task was learnt"


def _to_learn(seen: Evidence) -> str:
    """Say what to try where nothing was learnt."""
    trained = seen.trained
    hidden = "dataset.answer=text dataset.options=hidden, which smaller models can answer"
    if trained is None:
        what = "it" if seen.method == "base" else "the base model again"
        return f"try {hidden}, or a larger model" if seen.letters else f"train {what}, or try a larger model"
    if (still := _loss_still(trained)) is not None:
        return f"{still}, so try a larger optim.lr (it is {trained.lr:g})"
    if seen.letters:
        return f"try {hidden}, or a larger model"
    if trained.rows < MANY_ROWS:
        return f"it was trained on {counted(trained.rows, 'row')}, so give more"
    return "try a larger model"


def _no_better(seen: Evidence) -> str | None:
    """Say that a run is no better than its base model; None where its mean is higher, or it varies less over prompts."""
    gain, base = seen.gain, seen.base
    if gain is None or base is None:
        return None
    low, high = _ends(gain)
    if low > 0 or (high >= 0 and seen.steadier is not None):
        return None
    figures = (
        f"mean {percent(float(seen.correct.mean()))}, the base model's {percent(float(base.mean()))}, a difference of "
        f"{bracketed(gain, '+')} points{seen.scope}"
    )
    if gain.high is not None and gain.high < 0:
        return f"worse than the base model: {figures}; try a smaller optim.lr, or more rows"
    said = "no better than the base model" if high <= SMALL else "nothing shows that it is better than the base model"
    return f"{said}: {figures}; {_to_gain(seen)}"


def _to_gain(seen: Evidence) -> str:
    """Say what to try where training made the base model no better."""
    trained, base = seen.trained, seen.base
    assert trained is not None and base is not None
    if (still := _loss_still(trained)) is not None:
        return f"{still}, so try a larger optim.lr (it is {trained.lr:g})"
    if base.mean() >= LITTLE_TO_GAIN:
        return "there is little left to gain, so try harder rows"
    if trained.rows < MANY_ROWS:
        return f"it was trained on {counted(trained.rows, 'row')}, so give more"
    return f"try a larger optim.lr (it is {trained.lr:g}), or a larger model"


def _gain(seen: Evidence) -> str:
    """Say how much better than its base model a run is, or that it only varies less; "" where that was not measured."""
    if seen.gain is None:
        return ""
    if _ends(seen.gain)[0] > 0:
        return f"better than the base model by {bracketed(seen.gain, '+')} points{seen.scope}; "
    return f"no sign of a better mean than the base model's ({bracketed(seen.gain, '+')} points), but {seen.steadier}; "


def _wording(seen: Evidence) -> str:
    """Say what the wording costs, which kinds of prompt are the worst, and what to try."""
    n, mean = len(seen.correct), float(seen.correct.mean())
    if n == 1:
        return f"mean {percent(mean)}, but one test prompt shows nothing of how much the wording matters; give {FEWEST} or more"
    if seen.correct.min() == 1:
        return f"every answer is right{seen.scope or f', under each of {n} prompts'}, so that the wording costs nothing here"
    cost = cost_of_wording(seen.correct, seen.groups)
    if cost.low is None or cost.high is None:
        return _without_interval(seen, cost.value)
    of = f"the mean, {percent(mean)}, less the worst tenth of {n} prompts"
    if cost.high <= SMALL:
        return f"robust: the wording costs no more than {percent(cost.high)} points ({of}: {bracketed(cost)})"
    if cost.low <= 0 and wording_matters(seen.correct, seen.groups) >= ERROR:
        return (
            f"it cannot be told whether the wording matters: it costs {bracketed(cost)} points ({of}); more test prompts or "
            "rows would tell"
        )
    return f"the wording costs up to {bracketed(cost)} points ({of}){_named(seen)}; {_to_steady(seen)}"


def _without_interval(seen: Evidence, gap: float) -> str:
    """Say what lies between the mean and the worst prompt of too few prompts or rows, or of a mean that is hardly anything."""
    n, groups = len(seen.correct), len(np.unique(seen.groups))
    few = f"fewer than {FEWEST} prompts" if n < FEWEST else f"fewer than {FEWEST} independent rows"
    if min(n, groups) >= FEWEST:  # nothing varies
        return f"the wording costs nothing here: all {n} prompts are equally good"
    mean = percent(float(seen.correct.mean()))
    between = f"between the mean, {mean}, and the worst of {n} prompts lie {percent(gap)} points"
    said = f"{between}, and {few} say nothing of others{_named(seen)}"
    return f"{said}; {_to_steady(seen)}" if gap > SMALL else said


def _named(seen: Evidence) -> str:
    """Name the worst kinds of prompt; "" where none is worse beyond noise."""
    return f"; the worst are prompts {' and '.join(seen.worst)}" if seen.worst else ""


def _to_steady(seen: Evidence) -> str:
    """Say what to try where the wording matters."""
    trained = seen.trained
    if seen.method == "base":
        return "train it under many prompts (paft train)"
    if seen.method != "paft":
        return "train under many prompts (method=paft)"
    if trained is not None and trained.templates_seen < trained.templates:
        showed = f"training showed {trained.templates_seen} of {trained.templates} templates"
        if trained.K is not None and trained.K > 1:
            return f"{showed}, so try a smaller K (it is {trained.K})"
        return f"{showed}, so give more rows or a larger T"
    if seen.worst:
        return "train on more templates like these"
    if trained is None or trained.templates_seen < MANY_TEMPLATES:
        seen_so_far = "" if trained is None else f" (it saw {trained.templates_seen})"
        return f"train on more templates{seen_so_far}"
    return "train on more rows" if trained.rows < MANY_ROWS else "try a larger model"


def _loss_still(trained: TrainingFacts) -> str | None:
    """Say that the training loss hardly fell; None where it fell or is not known."""
    if trained.losses is None or trained.losses[1] < (1 - LOSS_FELL) * trained.losses[0]:
        return None
    first, last = trained.losses
    return f"the training loss hardly fell ({first:.2f} to {last:.2f})"


def _ends(value: Estimate) -> tuple[float, float]:
    """Return the ends of an interval, and where there is none, the value twice."""
    if value.low is None or value.high is None:
        return value.value, value.value
    return value.low, value.high


def judged(
    results: Results,
    folder: Path,
    matrix: ScoreMatrix,
    pool: PromptPool,
    method: str,
    beside: Mapping[str, ComparedRun] | None = None,
) -> Results:
    """Return results with their verdict, and with the runs that they are shown beside.

    Args:
        folder: of the run, with the log of its training.
        matrix: of the results.
        pool: the test prompts.
        method: by which the model was trained; base: it was not.
        beside: other runs on the same cells, by method.
    """
    groups, correct = matrix.group_numbers, matrix.correct.astype(float)
    records = {
        name: Beside(
            run=other.results.run,
            robustness=other.results.robustness,
            tail=other.results.tail,
            difference=estimate(correct - other.matrix.correct, groups),
        )
        for name, other in (beside or {}).items()
        if other.results.robustness is not None
    }
    text = verdict(
        Evidence(
            correct,
            groups,
            matrix.chance,
            method,
            base=beside["base"].matrix.correct.astype(float) if beside and "base" in beside else None,
            constant=_constant(matrix, pool.answer, list(results.labels)),
            families={"kind of layout" if key == "kind" else key: names for key, names in families_named(pool).items()},
            lengths=[len(template.text) for template in pool.templates],
            letters=min(matrix.n_choices) > 0 and pool.answer == "letter",
            trained=_trained(results, folder),
        )
    )
    return results.model_copy(update={"beside": records, "verdict": text})


def _constant(matrix: ScoreMatrix, answer: Literal["letter", "text"], labels: Sequence[str]) -> Constant | None:
    """Return the choice that is right most often, as a label or by its place; None for free-form answers."""
    best = matrix.commonest
    if best is None:
        return None
    name = f"the choice at place {best + 1}"
    if labels:
        name = repr(short(labels[best]))
    elif answer == "letter" and best < len(LETTERS):
        name = LETTERS[best]
    return Constant(name, (matrix.gold == best).astype(float))


def _trained(results: Results, folder: Path) -> TrainingFacts | None:
    """Return what is known of a training run; None for a base model and an evaluation."""
    plan, config = results.plan, results.config
    if results.training is None or plan is None:
        return None
    return TrainingFacts(
        lr=config["optim"]["lr"],
        K=config["K"] if config["schedule"]["unit"] != "row" else None,
        templates=plan.templates,
        templates_seen=results.templates_shown,
        rows=plan.train_examples,
        losses=_losses(folder),
    )


def _losses(folder: Path) -> tuple[float, float] | None:
    """Return the mean training loss of the first and of the last tenth of the updates, by the log; None for fewer than ten."""
    losses = {step: metrics["loss"] for step, metrics in earlier_updates(folder) if "loss" in metrics}
    tenth = len(losses) // 10
    if tenth == 0:
        return None
    ordered = [losses[step] for step in sorted(losses)]
    return float(np.mean(ordered[:tenth])), float(np.mean(ordered[-tenth:]))

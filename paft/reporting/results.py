"""results.json, the product of a run, as a type: made, read and written here and nowhere else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.robustness import (
    Con,
    Consensus,
    Robustness,
    Uncertainty,
    con,
    consensus,
    robustness,
    uncertainty,
)
from paft.prompts import PromptPool
from paft.reporting.plan import Plan
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically

VERSION: Literal[1] = 1  # of results.json
FILE = "results.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScoringSettings(_Record):
    """How cells were scored.

    normalise belongs to likelihood, max_new_tokens and stop_at_line_break to generation. merged says whether the adapter's
    weights were added to the base model's; prompts_with_split_letters counts the prompts after which an option's letter is
    more than one token.
    """

    scoring: Literal["likelihood", "generate"]
    normalise: Literal["sum", "token", "byte"] | None = None
    max_new_tokens: int | None = None
    stop_at_line_break: bool | None = None
    merged: bool
    prompts_with_split_letters: int


class GitState(_Record):
    """The commit of the code; None where it was installed without its repository."""

    commit: str | None
    dirty: bool | None


class Device(_Record):
    """What a run was computed on; threads on a CPU alone."""

    type: str
    name: str
    threads: int | None = None
    ranks: int = 1

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} threads"
        return f"{self.type} {self.name}{threads}"


class PoolRecord(_Record):
    """A prompt pool: its name, how many prompts (and how many different wordings), and the fingerprint of their texts."""

    name: str
    prompts: int
    wordings: int
    fingerprint: str
    notes: list[str]


class Summary(_Record):
    """What a score matrix shows: accuracies are fractions.

    robustness is None where rows have no labels. parts holds the robustness of each subset where a data set has several.
    consensus is None where answers are free-form. unanswered counts generated texts that hold no option, ties the renderings
    in which two choices were equally likely.
    """

    robustness: Robustness | None
    uncertainty: Uncertainty | None
    parts: dict[str, Robustness]
    consensus: Consensus | None
    chance: float | None
    threshold: float | None
    ties: int
    unanswered: int
    test_prompts_truncated: int
    scoring: ScoringSettings


class GeneratedAnswers(Summary):
    """The test prompts once more, with the answers written out: tokens of a rendering (mean), seconds for all."""

    output_tokens: float
    seconds: float
    git: GitState
    device: Device


class AdversarialPrompts(_Record):
    """Con: the mean and the worst accuracy under adversarial prompts, over all and by part."""

    mean: float
    worst: float
    parts: dict[str, Con]
    pool: PoolRecord
    scoring: ScoringSettings
    git: GitState
    device: Device


class ExtraMeasures(_Record):
    """Measures besides the test prompts by likelihood; None where they were not asked for."""

    generate: GeneratedAnswers | None = None
    adversarial: AdversarialPrompts | None = None


class TrainingRecord(_Record):
    """What training took. tokens are real ones, of all updates; seconds are those of the updates alone."""

    updates: int
    tokens: int
    best_validation_mean: float | None
    tokens_per_s: float
    seconds: float
    prompts_truncated: int


class ChosenPrompt(_Record):
    """A prompt that a search chose."""

    id: str
    text: str


class TrialRecord(_Record):
    """A prompt that a search looked at: its accuracy over so many renderings."""

    prompt: str
    score: float
    renderings: int


class SelectionRecord(_Record):
    """What a search for one prompt chose, and all that it looked at."""

    chosen: ChosenPrompt
    renderings: int
    trace: list[TrialRecord]


class BaseModelRecord(_Record):
    """Which base weights: the hub's commit, and a digest of a few values of each weight."""

    hub_commit: str | None
    sample: str


class Fingerprints(_Record):
    """What a run read: data by split, pools by split, base weights, and, in an evaluation, the adapter's weights."""

    data: dict[str, str]
    pools: dict[str, PoolRecord]
    base_model: BaseModelRecord
    adapter: str | None = None


class Results(Summary):
    """results.json of a finished training run or evaluation (kind).

    training, selection and plan belong to training runs (training is None for method=base, selection where nothing was
    searched), adapter and trained_by (the run that the adapter comes from) to evaluations.
    """

    version: Literal[1] = VERSION
    kind: Literal["training", "evaluation"]
    run: str
    extra_measures: ExtraMeasures = ExtraMeasures()
    training: TrainingRecord | None = None
    selection: SelectionRecord | None = None
    plan: Plan | None = None
    adapter: str | None = None
    trained_by: str | None = None
    wall_s: float
    peak_memory_bytes: int
    fingerprints: Fingerprints
    git: GitState
    versions: dict[str, str]
    device: Device
    dtype: str
    config: dict[str, Any]

    _folder: Path | None = PrivateAttr(None)

    @property
    def folder(self) -> Path:
        """The folder of the run, where its score matrix, its prompts and its adapter lie."""
        assert self._folder is not None, "results that were neither read from a folder nor saved to one"
        return self._folder


def summarise(matrix: ScoreMatrix, threshold: float | None, settings: Mapping[str, Any], labelled: bool = True) -> Summary:
    """Return what a score matrix shows; where a data set has several parts, robustness of each too.

    Args:
        threshold: the accuracy that a prompt must reach to count for Top.
        settings: how cells were scored, in plain types.
        labelled: False leaves out what needs to know the right answers.
    """
    has_choices = min(matrix.n_choices) > 0
    agree = consensus(matrix) if has_choices and len(matrix.prompt_ids) > 1 else None
    names = list(dict.fromkeys(matrix.parts))
    if agree is not None and not labelled:
        agree = Consensus(agree.agreement, None)
    return Summary(
        robustness=robustness(matrix, threshold) if labelled else None,
        uncertainty=uncertainty(matrix) if labelled else None,
        parts={name: robustness(matrix.part(name), threshold) for name in names} if labelled and len(names) > 1 else {},
        consensus=agree,
        chance=matrix.chance if labelled else None,
        threshold=threshold,
        ties=int(matrix.tied.sum()),
        unanswered=int((matrix.predicted < 0).sum()) if has_choices else 0,
        test_prompts_truncated=int(matrix.truncated.sum()),
        scoring=ScoringSettings.model_validate(settings),
    )


def adversarial_prompts(
    matrix: ScoreMatrix, pool: PromptPool, settings: Mapping[str, Any], git: GitState, device: Device
) -> AdversarialPrompts:
    """Return Con from the matrix of the adversarial prompts."""
    whole = con(matrix)
    return AdversarialPrompts(
        mean=whole.mean,
        worst=whole.worst,
        parts={part: con(matrix.part(part)) for part in dict.fromkeys(matrix.parts)},
        pool=describe_pool(pool),
        scoring=ScoringSettings.model_validate(settings),
        git=git,
        device=device,
    )


def read_results(path: Path) -> Results:
    """Read the results.json of a finished run.

    Args:
        path: the file, or the folder of the run.

    Raises InputError if there is none, or it is damaged or of another version.
    """
    given, path = path, path / FILE if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("version") if isinstance(content, dict) and "robustness" in content else VERSION
        if version == VERSION:
            results = Results.model_validate(content)
            results._folder = path.parent
            return results
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{given}: there is no {FILE}; give the folder of a finished run.") from None
    except (ValidationError, ValueError, OSError):  # ValueError: no JSON, or no text
        raise InputError(f"{path}: this is no {FILE} of a run, or it is damaged; run it again.") from None
    raise InputError(
        f"{path}: it was written by another version of paft (version {version}, this one reads {VERSION}); run it again."
    )


def save_results(folder: Path, results: Results) -> None:
    """Write results.json: the mark of a finished run."""
    write_atomically(folder / FILE, results.model_dump_json(indent=2) + "\n")
    results._folder = folder


def describe_pool(pool: PromptPool) -> PoolRecord:
    """Return what a results.json says of a pool."""
    return PoolRecord(
        name=pool.name,
        prompts=len(pool.templates),
        wordings=pool.n_wordings,
        fingerprint=pool.fingerprint,
        notes=list(pool.notes),
    )

"""results.json, the product of a run, as a type; no other module reads or writes the file."""

import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from paft.config.schema import Objective
from paft.data.checks import LeftOut
from paft.evaluation.labels import LabelScore
from paft.evaluation.metrics import name_of_scores
from paft.evaluation.robustness import Con, Consensus, Robustness, Uncertainty
from paft.evaluation.sensitivity import Sensitivity
from paft.evaluation.statistics import Estimate
from paft.evaluation.store import read_cells
from paft.evaluation.tail import Family, Tail
from paft.prompts.readers import read_prompts
from paft.prompts.seen import Seen
from paft.reporting.plan import Plan
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

VERSION: Literal[1] = 1  # of results.json
FILE = "results.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricRecord(_Record):
    """The metric: its name, or the path of a function of one's own with the hash of its source, and the pattern of regex."""

    name: str
    pattern: str | None = None
    source: str | None = None


class ScoringSettings(_Record):
    """The settings by which cells were scored.

    metric is None in results of earlier versions, whose answers are right or wrong. normalise belongs to likelihood,
    max_new_tokens and stop_at_line_break to generate; they are None otherwise. merged says whether the adapter was merged into
    the base model. prompts_with_split_letters counts the prompts after which an option's letter is more than one token.
    """

    scoring: Literal["likelihood", "generate"]
    normalise: Literal["sum", "token", "byte"] | None = None
    max_new_tokens: int | None = None
    stop_at_line_break: bool | None = None
    merged: bool
    prompts_with_split_letters: int
    metric: MetricRecord | None = None

    @property
    def called(self) -> str:
        """What a mean of the scores is called: accuracy, or where the metric is graded F1 or score."""
        return "accuracy" if self.metric is None else name_of_scores(self.metric.name)


class GitState(_Record):
    """The commit of the code, and whether files differed from it; None where the code was installed without its repository."""

    commit: str | None
    dirty: bool | None


class Device(_Record):
    """The device that a run was computed on; threads is None on a GPU, ranks is the number of processes."""

    type: str
    name: str
    threads: int | None = None
    ranks: int = 1

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} threads"
        return f"{self.type} {self.name}{threads}"


class PoolRecord(_Record):
    """A prompt pool: its name, the numbers of its prompts and of their different wordings, and the fingerprint of the texts."""

    name: str
    prompts: int
    wordings: int
    fingerprint: str
    notes: list[str]


class Summary(_Record):
    """The summary of a score matrix; accuracies, or mean scores where the metric is graded, are fractions.

    robustness, uncertainty and chance are None where rows have no labels; uncertainty also where no interval can be promised.
    parts holds the robustness of each subset, and is empty unless the data set has several. consensus is None where answers are
    free-form, and for a single prompt. threshold is that of Top. ties counts the renderings in which several choices had the
    best score, unanswered the generated texts that hold no option. warnings are sentences on what makes the numbers mean less.
    tail is None where rows have no labels, sensitivity for a single prompt. families holds the
    accuracies by wording, by layout and by kind of layout, as far as the pool names them, the worst family first. constant is
    the accuracy of giving one choice throughout, None where it has no chance; given the share of each choice in the answers, by
    its place. labels says how each label of a classification is answered, in the order of the choices; empty for other data
    sets. Results of earlier versions have none of these six.
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
    warnings: list[str] = []
    tail: Tail | None = None
    families: dict[str, dict[str, Family]] = {}
    sensitivity: Sensitivity | None = None
    constant: float | None = None
    given: tuple[float, ...] = ()
    labels: dict[str, LabelScore] = {}


class GeneratedAnswers(Summary):
    """The summary of the test prompts scored by generation, with the mean tokens of a rendering, and the seconds for all."""

    output_tokens: float
    seconds: float
    git: GitState
    device: Device


class AdversarialPrompts(_Record):
    """The record of Con: mean and worst accuracy on adversarial prompts, over all examples and by part."""

    mean: float
    worst: float
    parts: dict[str, Con]
    pool: PoolRecord
    scoring: ScoringSettings
    git: GitState
    device: Device


class ExtraMeasures(_Record):
    """The measures besides the test prompts; None where they were not asked for."""

    generate: GeneratedAnswers | None = None
    adversarial: AdversarialPrompts | None = None


class KernelsRecord(_Record):
    """What computed the updates: attention, fused operations, and how many shapes were replayed as CUDA graphs."""

    attention: str
    fused: str
    graphs: int


class DrawnRecord(_Record):
    """What a training drew of its pool.

    effective_templates: as many templates drawn alike are as varied. wordings and layouts: the renderings of each family, in
    each fifth of the updates.
    """

    templates: int
    effective_templates: float
    wordings: dict[str, list[int]]
    layouts: dict[str, list[int]]


class TrainingRecord(_Record):
    """The figures of a training: tokens are real ones (no padding) of all updates, seconds the time of the updates alone.

    loop_seconds is the part of it around the model (Lightning, rendering, logging, checkpoints), which a device that computes
    meanwhile may hide. It, kernels and best_validation_worst are None in results of earlier versions. probe_tokens are those of
    the forward passes that tried candidates, repeated_tokens those of updates that were computed a second time with
    perturbed embeddings; None where there were none. drawn is None where there was one template. acted is what the sampler and
    the loss did besides: figures of the log by name, each with its mean in every fifth of the updates.
    """

    updates: int
    tokens: int
    best_validation_mean: float | None
    best_validation_worst: float | None = None
    tokens_per_s: float
    seconds: float
    prompts_truncated: int
    loop_seconds: float | None = None
    probe_tokens: int | None = None
    repeated_tokens: int | None = None
    drawn: DrawnRecord | None = None
    acted: dict[str, list[float | None]] = {}
    kernels: KernelsRecord | None = None


class ChosenPrompt(_Record):
    """A prompt that a search chose."""

    id: str
    text: str


class TrialRecord(_Record):
    """A prompt that a search tested: its accuracy, and the number of renderings that were scored for it."""

    prompt: str
    score: float
    renderings: int


class SelectionRecord(_Record):
    """The prompt that a search chose, and all that it tested, in order."""

    chosen: ChosenPrompt
    renderings: int
    trace: list[TrialRecord]


class Beside(_Record):
    """A run that this one is shown beside, on the same cells: its name and robustness, and how much better this one is.

    difference is the mean of this run minus that of the other, paired, with the interval of `verdict.sure`.
    """

    run: str
    robustness: Robustness
    tail: Tail | None
    difference: Estimate


class BaseModelRecord(_Record):
    """The identity of the base weights: the hub's commit, and a digest of a few values of each weight.

    Of a served model, whose weights are not seen, sample is a digest of its server, its name and what is said of it.

    dequantised_from names the GGUF file that the weights were made of, with its SHA-256; None for other models.
    """

    hub_commit: str | None
    sample: str
    dequantised_from: str | None = None


class RepeatedCells(_Record):
    """A sample of renderings that a server was asked for twice: how many, and how many were answered otherwise.

    largest_difference is that of an answer's log-probability; None where texts were generated.
    """

    cells: int
    changed: int
    largest_difference: float | None


class ServedRecord(_Record):
    """What is known of a served model and of what it was asked.

    entry is what the server's list of models says of it, answers_as what its answers call it. protocol says how cells were
    scored, given_up which ways did not work for all of them, and why. requests counts those that were sent, retries the
    attempts beyond the first; tokens are as the server reports them, uncounted the answers that reported none. cost is in
    dollars, by the prices of the config. letters_not_listed counts the renderings in which not every option's letter was among
    the likeliest first tokens; its log-probability is then -inf in the matrix.
    """

    url: str
    name: str
    entry: dict[str, Any] | None
    answers_as: str | None
    protocol: str
    given_up: dict[str, str]
    requests: int
    retries: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    cost: float | None
    letters_not_listed: int
    repeated: RepeatedCells


class Fingerprints(_Record):
    """The fingerprints of what a run read: data and pools by split, base weights and, in an evaluation, the adapter."""

    data: dict[str, str]
    pools: dict[str, PoolRecord]
    base_model: BaseModelRecord
    adapter: str | None = None


class Results(Summary):
    """The content of the results.json of a finished training run or evaluation.

    training, selection and plan belong to training runs. training is None for method=base, selection where no prompt was
    searched. adapter and trained_by (the run that trained the adapter) belong to evaluations, and are None for a base model;
    trained_by also for an adapter that PEFT or TRL made. served is None unless the model was reached through an API.
    test_prompts_seen is None where nothing was trained, and in results of earlier versions. beside holds the runs that this one
    is shown beside, by method. verdict says in a sentence what came out; None where rows have no labels, and in results of
    earlier versions.
    """

    version: Literal[1] = VERSION
    kind: Literal["training", "evaluation"]
    run: str
    verdict: str | None = None
    beside: dict[str, Beside] = {}
    extra_measures: ExtraMeasures = ExtraMeasures()
    training: TrainingRecord | None = None
    selection: SelectionRecord | None = None
    plan: Plan | None = None
    adapter: str | None = None
    trained_by: str | None = None
    test_prompts_seen: Seen | None = None
    test_rows_left_out: LeftOut = LeftOut()
    wall_s: float
    peak_memory_bytes: int
    fingerprints: Fingerprints
    git: GitState
    versions: dict[str, str]
    device: Device
    dtype: str
    config: dict[str, Any]
    served: ServedRecord | None = None

    _folder: Path | None = PrivateAttr(None)

    @property
    def folder(self) -> Path:
        """The folder of the run, which holds its score matrix, its prompts and its adapter."""
        assert self._folder is not None, "results that were neither read from a folder nor saved to one"
        return self._folder

    @property
    def is_base(self) -> bool:
        """Whether nothing was trained: these are results of a base model."""
        return self.training is None and self.adapter is None and self.trained_by is None

    @property
    def templates_shown(self) -> int:
        """How many templates training showed; of results of earlier versions, how many the plan counted."""
        if self.training is not None and self.training.drawn is not None:
            return self.training.drawn.templates
        return 0 if self.plan is None else self.plan.templates_seen

    @property
    def unseen(self) -> bool:
        """Whether the test prompts may be called unseen: nothing was trained, or they were compared with what was."""
        allowed = (self.config.get("prompts") or {}).get("allow_seen", False)
        seen = self.test_prompts_seen
        if seen is None:
            return self.is_base
        return not allowed and seen.copies == seen.near_copies == 0

    def objective(self, name: Objective) -> float | None:
        """Return the figure that a search maximises, of the validation prompts alone; None where nothing was trained.

        With evaluate=false these are scored as test prompts otherwise are; else the figure is that of the best validation.
        """
        if self.training is None:
            return None
        mean, worst = self.training.best_validation_mean, self.training.best_validation_worst
        if not self.config.get("evaluate", True) and self.robustness is not None:
            mean, worst = self.robustness.mean, self.robustness.min
        return mean if name == "validation.mean" else worst

    def scores(self) -> "pd.DataFrame":
        """Return the score matrix as a data frame: a row for each prompt and example, with the columns of matrix.parquet.

        Among them are prompt_id, example_id, correct (a score from 0 to 1 where the metric is graded), predicted and gold
        (indices of choices), log_probs (of each choice) and output (what was generated).
        """
        cells: pd.DataFrame = read_cells(self.folder / "matrix.parquet").to_pandas()
        repeated = cells.select_dtypes("category").columns
        return cells.astype(dict.fromkeys(repeated, str))

    def per_prompt(self) -> "pd.DataFrame":
        """Return a data frame with a row for each test prompt: prompt_id, text, wording, layout, accuracy; the worst first.

        Where the metric is graded, the last column is called F1 or score.
        """
        import pandas as pd

        kept = self.folder.parent.parent / "pools" / f"{self.fingerprints.pools['test'].fingerprint}.yaml"
        file = self.folder / "prompts" / "test.yaml"
        rows = read_prompts(file if file.is_file() else kept).rows
        prompts = pd.DataFrame([dict(row) for _, row in rows]).rename(columns={"id": "prompt_id"})
        called = self.scoring.called
        correct = self.scores().groupby("prompt_id")["correct"].mean().rename(called)
        found = prompts.merge(correct.reset_index(), on="prompt_id").sort_values(called, kind="stable", ignore_index=True)
        return found[["prompt_id", "text", "wording", "layout", called]]

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {value}" for name, value in self._figures().items())
        return f"Results({self.run}: {figures or 'rows without labels'})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Show the robustness as a table in a notebook, and the verdict below it."""
        figures = self._figures()
        if not figures:
            return f"<p>{escape(repr(self))}</p>"
        heads = "".join(f"<th>{name}</th>" for name in figures)
        cells = "".join(f"<td>{value}</td>" for value in figures.values())
        said = "" if self.verdict is None else f"<p>{escape(self.verdict)}</p>"
        return f"<table><caption>{escape(self.run)}</caption><tr>{heads}</tr><tr>{cells}</tr></table>{said}"

    def _figures(self) -> dict[str, str]:
        """Return the robustness over the test prompts in percent, by name; nothing for rows without labels."""
        if self.robustness is None:
            return {}
        robust = self.robustness
        shares = {"mean": robust.mean, "std": robust.std, "worst": robust.min, "best": robust.max, "Top": robust.top}
        figures = {name: f"{100 * share:.1f}" for name, share in shares.items() if share is not None}
        if self.uncertainty is not None and self.uncertainty.mean.low is not None and self.uncertainty.mean.high is not None:
            figures["mean"] += f" [{100 * self.uncertainty.mean.low:.1f}, {100 * self.uncertainty.mean.high:.1f}]"
        return figures | {"prompts": str(robust.n_prompts), "examples": str(robust.n_examples)}


def read_results(path: Path) -> Results:
    """Read the results.json of a finished run.

    Args:
        path: the file, or the folder of the run.

    Raises InputError if the file is missing, damaged or of another version.
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
    """Write results.json, which marks the run as finished, and set `results.folder`."""
    write_atomically(folder / FILE, results.model_dump_json(indent=2) + "\n")
    results._folder = folder

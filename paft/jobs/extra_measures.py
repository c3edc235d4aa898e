"""Extra measures of a trained run: generated answers (paper, Table 3) and adversarial prompts (Con, Table 4)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from paft.config.schema import TrainConfig
from paft.data.inputs import Inputs
from paft.evaluation.evaluator import Evaluator
from paft.evaluation.generation import take_several_lines
from paft.evaluation.metrics import metric_of
from paft.evaluation.scoring import Scoring, ScoringMethod
from paft.reporting.provenance import provenance
from paft.reporting.results import AdversarialPrompts, ExtraMeasures, GeneratedAnswers
from paft.reporting.summary import adversarial_prompts, summary_of


def measure_more(
    names: Sequence[str], config: TrainConfig, inputs: Inputs, evaluator: Evaluator, folder: Path, before: ExtraMeasures
) -> ExtraMeasures:
    """Return the extra measures of before, with those that are named added or measured again.

    The score matrix of a measure is folder/NAME.parquet, next to that of the run.

    Args:
        names: `generate` (the answers that the model writes) and `adversarial` (Con).
    """
    measures: dict[str, Callable[..., GeneratedAnswers | AdversarialPrompts]] = {
        "generate": _generate,
        "adversarial": _adversarial,
    }
    return before.model_copy(update={name: measures[name](config, inputs, evaluator, folder) for name in names})


def scoring_of(config: TrainConfig, inputs: Inputs, method: ScoringMethod | None = None) -> Scoring:
    """Return how a run is scored: the right answers of the training rows say whether texts may take several lines.

    They do so for a base model, too, which is measured as the runs are that are trained.
    """
    metric = metric_of(config.dataset)
    several_lines = take_several_lines(inputs.examples.train, metric)
    return Scoring(metric, method, several_lines=several_lines)


def _generate(config: TrainConfig, inputs: Inputs, evaluator: Evaluator, folder: Path) -> GeneratedAnswers:
    scoring = scoring_of(config, inputs, "generate")
    scored = evaluator.score(folder, inputs.test, inputs.examples.test, scoring, name="generate")
    origin = provenance(evaluator.model.device)
    return GeneratedAnswers(
        **dict(summary_of(scored, config.dataset, inputs.test, evaluator.encoder, inputs.examples.test)),
        output_tokens=float(scored.matrix.output_tokens.mean()),
        seconds=sum(scored.seconds.values()),
        git=origin["git"],
        device=origin["device"],
    )


def _adversarial(config: TrainConfig, inputs: Inputs, evaluator: Evaluator, folder: Path) -> AdversarialPrompts:
    pool = inputs.adversarial
    assert pool is not None
    scored = evaluator.score(folder, pool, inputs.examples.test, scoring_of(config, inputs), name="adversarial")
    origin = provenance(evaluator.model.device)
    return adversarial_prompts(scored.matrix, pool, scored.settings, origin["git"], origin["device"])

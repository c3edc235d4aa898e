"""Extra measures of a trained run: generated answers (paper, Table 3) and adversarial prompts (Con, Table 4)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from paft.config.schema import TrainConfig
from paft.data.inputs import Inputs
from paft.evaluation.evaluator import Evaluator
from paft.evaluation.predictions import count_unread
from paft.evaluation.scoring import Scoring
from paft.reporting.provenance import provenance
from paft.reporting.results import AdversarialPrompts, ExtraMeasures, GeneratedAnswers, adversarial_prompts, summarise


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


def _generate(config: TrainConfig, inputs: Inputs, evaluator: Evaluator, folder: Path) -> GeneratedAnswers:
    scoring = Scoring(config.dataset.metric, "generate")
    scored = evaluator.score(folder, inputs.test, inputs.examples.test, scoring, name="generate")
    origin = provenance(evaluator.model.device)
    unread = None if inputs.examples.task.choice_fields else count_unread(scored.path, config.dataset.metric)
    return GeneratedAnswers(
        **dict(summarise(scored.matrix, config.dataset.threshold, scored.settings, unread=unread)),
        output_tokens=float(scored.matrix.output_tokens.mean()),
        seconds=sum(scored.seconds.values()),
        git=origin["git"],
        device=origin["device"],
    )


def _adversarial(config: TrainConfig, inputs: Inputs, evaluator: Evaluator, folder: Path) -> AdversarialPrompts:
    pool = inputs.adversarial
    assert pool is not None
    scored = evaluator.score(folder, pool, inputs.examples.test, Scoring(config.dataset.metric), name="adversarial")
    origin = provenance(evaluator.model.device)
    return adversarial_prompts(scored.matrix, pool, scored.settings, origin["git"], origin["device"])

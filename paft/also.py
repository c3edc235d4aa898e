"""More measures of a trained run: answers written out (paper, Table 3) and adversarial prompts (Con, Table 4)."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paft.config import TrainConfig
from paft.data.load import Inputs
from paft.evaluation.robustness import con
from paft.measuring import Measuring
from paft.reporting.provenance import provenance
from paft.reporting.results import describe_pools, summarise


def measure_also(names: Sequence[str], config: TrainConfig, inputs: Inputs, measure: Measuring, folder: Path) -> dict[str, Any]:
    """Return what each measure found, and where, by its name, in plain types; the matrices lie beside that of the run.

    generate: robustness of the answers that the model writes, tokens of a rendering (mean) and seconds for all of them.
    adversarial: Con, the mean and the worst accuracy under adversarial prompts.
    """
    examples, metric, found = inputs.examples.test, config.dataset.metric, dict[str, Any]()
    origin = {key: value for key, value in provenance(measure.model.device).items() if key in ("git", "device")}
    for name in names:
        if name == "generate":
            measured = measure(folder, inputs.test, examples, metric, "generate", name=name)
            found[name] = {
                **summarise(measured.matrix, config.dataset.threshold),
                "output_tokens": float(measured.matrix.output_tokens.mean()),
                "seconds": sum(measured.seconds.values()),
                "how": measured.how,
                **origin,
            }
        else:
            assert inputs.adversarial is not None
            measured = measure(folder, inputs.adversarial, examples, metric, name=name)
            pool = describe_pools({name: inputs.adversarial})[name]
            parts = {part: asdict(con(measured.matrix.part(part))) for part in dict.fromkeys(measured.matrix.parts)}
            found[name] = {**asdict(con(measured.matrix)), "parts": parts, "pool": pool, "how": measured.how, **origin}
    return found

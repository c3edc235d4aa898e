"""Training updates of a large model with random weights: tokens per second and peak memory, beside what the plan estimates.

    python -m experiments.benchmarks.large_step [--accelerator cuda] [--model 8b] [--report outputs/large_step] [overrides]

Overrides are train.py's. Nothing is downloaded: the weights are random, the tokenizer is the embedded model's (it has fewer
tokens), the rows are story_facts' unless others are named (dataset=race data_root=DIR: the paper's longest). One row with
activations checkpointed and one without, each for several sizes of micro-batch, each in a process of its own; where memory runs
out, that is said. Updates are those of `paft train`, made twice; the second time counts.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.benchmarks.models import add_model_arguments, command_of, label_of, overrides_of
from experiments.benchmarks.updates import Workload, in_fresh_process, measured, run_ours
from paft.cli.hydra_app import run_plain
from paft.model.base import device_of
from paft.reporting.page import table, write, write_json
from paft.reporting.provenance import provenance
from paft.runtime.memory import is_out_of_memory
from paft.runtime.process import quieten

MODULE = "experiments.benchmarks.large_step"
MICRO_BATCHES = (2048, 4096, 8192)  # tokens
UPDATES = 8


def measure_here(overrides: list[str]) -> dict[str, float] | None:
    """Be the process of one row: return its figures, None if memory runs out."""
    work = Workload(UPDATES, overrides)
    try:
        clock, results = run_ours(work)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    assert results.plan is not None
    figures = measured(work, clock)
    return {
        "tokens/s": figures.tokens_per_s,
        "ms an update": figures.ms_per_update,
        "peak GiB": results.peak_memory_bytes / 2**30,
        "planned GiB": results.plan.memory_bytes / 2**30,
    }


def page(found: dict[str, Any], command: str) -> list[str]:
    """Return the page."""
    lines = [f"# Training updates of the {found['model']}", ""]
    lines += [f"{found['device'].name}; {UPDATES} updates of 64 examples; real tokens, no padding.", ""]
    lines += table(list(found["rows"][0]), [list(map(_cell, row.values())) for row in found["rows"]])
    return [*lines, f"Made by `{command}`. Versions and device: results.json."]


def _cell(value: Any) -> str:
    if value is None:
        return "out of memory"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def main() -> None:
    """Measure every row; write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.set_defaults(model="8b")
    parser.add_argument("--report", type=Path, default=Path("outputs/large_step"))
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)  # the processes of the rows
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    quieten()
    if arguments.only:
        print(json.dumps(measure_here(arguments.overrides)))
        return
    device = device_of(arguments.accelerator)
    common = ["dataset=story_facts", "examples_per_update=64", *overrides_of(arguments), *arguments.overrides]
    rows: list[dict[str, Any]] = []
    for checkpointed in (True, False):
        for tokens in MICRO_BATCHES:
            row = {"tokens of a micro-batch": tokens, "activations checkpointed": checkpointed}
            settings = [f"trainer.micro_batch_tokens={tokens}", f"model.activation_checkpointing={checkpointed}"]
            none = dict.fromkeys(("tokens/s", "ms an update", "peak GiB", "planned GiB"))
            rows.append(row | (in_fresh_process(MODULE, "--only", *common, *settings) or none))
            print({name: _cell(value) for name, value in rows[-1].items()}, flush=True)
    label = label_of(arguments.model, Workload(UPDATES, common).config.model)
    found = {"model": label, "rows": rows, "overrides": common, **provenance(device)}
    lines = page(found, command_of(MODULE))
    print("\n".join(lines))
    write(arguments.report, lines)
    write_json(arguments.report, found)


if __name__ == "__main__":
    run_plain(main)

"""Gates before any learnt sampler: are templates told apart, does that last, and does training on the hardest ones help others?

    python -m experiments.gates [--templates 200 --examples 16] [--report experiments/results/gates] [train.py's settings]

On ordinary runs of uniform PAFT, of which every 25 updates a state is kept, by forward passes, gradients and logs alone:

1. Persistence. The loss of each training template at a state, on half of some validation rows, beside its loss 25 updates
   later, on the other half, so that what lasts is the template's and not a row's. If the order of the templates is another one
   by then, whatever a sampler has learnt of them is out of date when it is used. The same for families.
2. Transfer. The gradient on the hardest tenth of the training templates beside that on the worst tenth of the validation
   prompts, whose families training never sees: is their cosine larger than that of as many templates taken at random? If it is
   not, hard mining cannot help prompts of other families.
3. Signal. What sampler=by_loss would have drawn, of the losses that the run itself had, beside the same losses under shuffled
   templates: if it draws alike, training's own losses do not tell templates apart.

Where the loss is near zero there is nothing left to gain: the first state below 0.05 is the last that is measured.
"""

import argparse
from pathlib import Path

from experiments.gates.measure import Gates, kept, measure
from experiments.gates.page import write_page
from paft.cli.hydra_app import run_plain
from paft.model.base import device_of
from paft.reporting.provenance import provenance
from paft.reporting.results import Results
from paft.runtime.errors import InputError
from paft.runtime.files import check_place
from paft.runtime.process import keep_freed_memory, quieten

_DEFAULT = ["scale=cpu", "dataset=story_facts", "prompts=v2", "train_examples=800", "K=1", "evaluate=false", "eval_prompts=4",
            "eval_examples=8", "validation.prompts=4", "validation.examples=24", "score_base=false"]  # fmt: skip


def main() -> None:
    """Train, measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--templates", type=int, default=200, help="training templates whose losses are measured, at most")
    parser.add_argument("--examples", type=int, default=16, help="validation rows that they are measured on")
    parser.add_argument("--report", type=Path, default=Path("outputs/gates"))
    parser.add_argument("--kept", action="store_true", help="write the page anew of what --report holds, by itself")
    parser.add_argument("overrides", nargs="*", help="further settings, as for train.py")
    arguments = parser.parse_intermixed_args()
    if arguments.templates < 20 or arguments.examples < 2:
        raise InputError(
            "--templates must be at least 20, so that a tenth of them is more than one, and --examples at least 2, so that "
            "there are two halves."
        )
    check_place(f"--report {arguments.report}", arguments.report)
    if arguments.kept:
        chosen = {name: getattr(arguments, name) or None for name in ("seeds", "templates", "examples", "overrides")}
        if other := [name for name, value in chosen.items() if value != parser.get_default(name)]:
            raise InputError(f"--kept: nothing is measured, so that {other[0]} cannot be chosen; give --report alone.")
        measured, runs, origin = kept(arguments.report)
        write_page(measured, runs, arguments.report, origin)
        return
    quieten()
    keep_freed_memory()
    typed = "".join(f" {override}" for override in arguments.overrides)
    command = (f"python -m experiments.gates --seeds {' '.join(map(str, arguments.seeds))} --templates {arguments.templates} "
               f"--examples {arguments.examples}{typed}")  # fmt: skip
    found, results = list[Gates](), list[Results]()
    for seed in arguments.seeds:
        gates, run = measure([*_DEFAULT, *arguments.overrides, f"seed={seed}"], arguments.templates, arguments.examples)
        found.append(gates)
        results.append(run)
        origin = {"command": command, "rows": arguments.examples} | provenance(device_of(run.config["trainer"]["accelerator"]))
        write_page(found, results, arguments.report, origin)  # after each, so that none is lost


if __name__ == "__main__":
    run_plain(main)

"""Does training on changed layouts hold at the worst prompt?

    python -m experiments.worst_prompt commands --stage 1                           # candidates.yaml, on validation prompts
    python -m experiments.worst_prompt choose RUNS --out experiments/results/worst_prompt/selection
    python -m experiments.worst_prompt budget --pilot RUNS --arms 2 --seeds 12     # hours, before anything is started
    python -m experiments.worst_prompt pools                                        # training prompts of the ablations
    python -m experiments.worst_prompt commands                                     # those of the registered comparison
    python -m experiments.worst_prompt keep RUNS --out experiments/results/worst_prompt/story_facts  # as they end
    python -m experiments.worst_prompt page RUNS --out experiments/results/worst_prompt/story_facts
    python -m experiments.worst_prompt composition EVALUATIONS --out experiments/results/worst_prompt/composition

The protocol: the settings of both arms are chosen on validation prompts (`evaluate=false`), with equal trials; the choice is
written into registered.yaml and committed; then the registered runs are made on fresh seeds, and the test prompts are scored
once. The page compares the worst tenth of the prompts, with an interval for other seeds and other families of prompts, at equal
tokens.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from experiments.worst_prompt import selection
from experiments.worst_prompt.composition import write_composition
from experiments.worst_prompt.few_families import write_pools
from experiments.worst_prompt.files import add_page_arguments
from experiments.worst_prompt.page import write_page
from experiments.worst_prompt.planning import budget_lines
from experiments.worst_prompt.registered import FILE, read
from paft.cli.hydra_app import run_plain
from paft.reporting.collect import Collected, collect, keep_runs
from paft.runtime.errors import InputError
from paft.runtime.files import check_place


def main() -> None:
    """Run the command in sys.argv."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.worst_prompt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="commands | choose | budget | pools | keep | page | composition")
    budget = commands.add_parser("budget", help="how many hours a plan takes, from the times of finished runs")
    budget.add_argument("--pilot", type=Path, nargs="+", required=True, help="finished runs like those of the plan")
    budget.add_argument("--arms", type=int, default=2)
    budget.add_argument("--seeds", type=int, default=12)
    budget.set_defaults(command=lambda a: print_budget(a.pilot, a.arms, a.seeds))
    typed = commands.add_parser("commands", help="print the commands of the candidates, or of the registered comparison")
    typed.add_argument("--stage", type=int, choices=(1, 2), default=2, help="1: the candidates; 2: the registered comparison")
    typed.add_argument("--candidates", type=Path, default=selection.FILE)
    typed.add_argument("--registered", type=Path, default=FILE)
    typed.set_defaults(command=lambda a: print_candidates(a.candidates) if a.stage == 1 else print_commands(a.registered))
    choose = commands.add_parser("choose", help="show all candidates on validation prompts, and choose one of each side")
    add_page_arguments(choose, Path("outputs/worst_prompt/selection"))
    choose.add_argument("--candidates", type=Path, default=selection.FILE)
    choose.set_defaults(command=lambda a: _choose(a.runs, a.candidates, a.out, a.keep))
    pools = commands.add_parser("pools", help="write the training prompts of the ablations: few families, or many")
    pools.add_argument("--registered", type=Path, default=FILE)
    pools.add_argument("--out", type=Path, default=Path("outputs/worst_prompt/pools"))
    pools.set_defaults(command=lambda a: _pools(a.registered, a.out))
    keep = commands.add_parser("keep", help="copy the registered runs that are finished to OUT/runs, without a look at scores")
    keep.add_argument("runs", type=Path, nargs="+", help="folders of runs, or folders that hold them")
    keep.add_argument("--registered", type=Path, default=FILE)
    keep.add_argument("--out", type=Path, default=Path("outputs/worst_prompt"))
    keep.set_defaults(command=lambda a: _keep(a.runs, a.registered, a.out))
    page = commands.add_parser("page", help="compare the arms")
    add_page_arguments(page, Path("outputs/worst_prompt"))
    page.add_argument("--registered", type=Path, default=FILE)
    page.set_defaults(command=lambda a: _page(a.runs, a.registered, a.out, a.keep))
    pairs = commands.add_parser("composition", help="compare the arms' adapters on known wordings and layouts in unseen pairs")
    add_page_arguments(pairs, Path("outputs/worst_prompt/composition"), of="evaluations")
    pairs.add_argument("--registered", type=Path, default=FILE)
    pairs.set_defaults(command=lambda a: _composition(a.runs, a.registered, a.out, a.keep))
    arguments = parser.parse_args()
    arguments.command(arguments)


def print_budget(pilot: Sequence[Path], arms: int, seeds: int) -> None:
    """Print the hours that a plan takes on this machine, from the times of a pilot's runs."""
    print("\n".join(budget_lines(collect(pilot).runs, arms, seeds)))


def print_candidates(path: Path) -> None:
    """Print the commands of the candidates, seed by seed."""
    candidates = selection.read(path)
    for seed in candidates.seeds:
        for side in selection.SIDES:
            for name in candidates.of(side):
                print(shlex.join(["paft", "train", *candidates.overrides(side, name), f"seed={seed}"]))


def print_commands(path: Path) -> None:
    """Print the commands of the registered comparison and of its ablations, each run once."""
    for overrides in read(path).runs().values():
        print(shlex.join(["paft", "train", *overrides]))


def _pools(registered: Path, out: Path) -> None:
    ablations = read(registered).ablations
    if ablations is None:
        raise InputError(f"{registered}: there are no ablations, which are what needs pools.")
    check_place(f"--out {out}", out)
    write_pools(ablations.seeds, out)


def _choose(runs: Sequence[Path], candidates: Path, out: Path, keep: bool) -> None:
    check_place(f"--out {out}", out)
    selection.write_selection(collect(runs), selection.read(candidates), candidates, out, keep)


def _keep(runs: Sequence[Path], registered: Path, out: Path) -> None:
    check_place(f"--out {out}", out)
    wanted = read(registered).runs()
    finished = {run.results.run: run for run in collect(runs).runs if run.results.run in wanted}  # one that lies twice once
    keep_runs(Collected([*finished.values()], {}, []), out)
    print(f"{len(finished)} of {len(wanted)} registered runs are in {out}/runs.")


def _page(runs: Sequence[Path], registered: Path, out: Path, keep: bool) -> None:
    check_place(f"--out {out}", out)
    write_page(collect(runs), read(registered), registered, out, keep)


def _composition(runs: Sequence[Path], registered: Path, out: Path, keep: bool) -> None:
    check_place(f"--out {out}", out)
    write_composition(collect(runs, "evaluation"), read(registered), registered, out, keep)


if __name__ == "__main__":
    run_plain(main)

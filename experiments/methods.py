"""Which methods beyond uniform draws are worth their cost? Each beside the best of those without, at as much compute.

    python -m experiments.methods rows                                        # the unlabelled rows of one of them
    python -m experiments.methods commands                                    # what to run; seed by seed
    python -m experiments.methods page RUNS --out experiments/results/methods [--keep]

methods.yaml says what is compared with what; `--methods FILE` takes another such file: worst_prompt/plateau.yaml compares other
learning rates. The runs score validation prompts and rows alone (`evaluate=false`), so that the test is left to whatever is
registered afterwards (`python -m experiments.worst_prompt`, with a registration of its own).
"""

import argparse
import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from experiments.worst_prompt.ablations import Compared, says
from experiments.worst_prompt.arms import missing_seeds, runs_by_arm
from experiments.worst_prompt.files import add_page_arguments, check_against, read_yaml, typed_path
from experiments.worst_prompt.registered import FORWARD, MOST_APART, Bounds
from paft.cli.hydra_app import run_plain
from paft.data.tasks.story_facts import generate_rows
from paft.evaluation.statistics import Array
from paft.evaluation.tail import cvar
from paft.reporting.collect import Collected, collect, keep_runs
from paft.reporting.page import bullets, percent, table, write, write_json
from paft.reporting.runs import FinishedRun, TableRow
from paft.reporting.sweep import origin
from paft.runtime.files import check_place, write_atomically

FILE = Path(__file__).with_name("methods.yaml")
ROWS = Path("outputs/methods/unlabelled.jsonl")
_N_ROWS = 400
_OTHER_SEED = 1  # of the generator: none of these rows is trained on with its answer, or scored


class Methods(BaseModel):
    """What is compared: arms as overrides of conf/train.yaml, and with which other arm each is compared."""

    model_config = ConfigDict(extra="forbid")
    title: str
    common: list[str]  # overrides of all arms
    seeds: list[int] = Field(min_length=3)
    arms: dict[str, list[str]]
    against: dict[str, Annotated[list[str], BeforeValidator(lambda one: [one] if isinstance(one, str) else one)]]
    equivalent: Bounds
    ruled_out: dict[str, str] = {}  # what is not swept, an arm or not, and why; an arm that has runs is shown like any other
    advice: str = ""  # what a person is to do

    @model_validator(mode="after")
    def _known(self) -> "Methods":
        check_against(self.arms, itertools.chain(*self.pairs()))
        if "evaluate=false" not in self.common:
            raise ValueError("common needs evaluate=false: methods are screened without looking at the test")
        return self

    def pairs(self) -> list[tuple[str, str]]:
        """Return each arm with each of those that it is compared with."""
        return [(arm, other) for arm, others in self.against.items() for other in others]

    def overrides(self, arm: str, seed: int) -> list[str]:
        """Return what is typed for a run."""
        return [*self.common, *self.arms[arm], f"seed={seed}"]


def read(path: Path = FILE) -> Methods:
    """Read what is compared; raises InputError that names the file and what is wrong."""
    return read_yaml(path, Methods, "there is no such file of methods.")


def main() -> None:
    """Run the command in sys.argv."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.methods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="rows | commands | page")
    rows = commands.add_parser("rows", help=f"write {_N_ROWS} rows without answers to {ROWS}")
    rows.set_defaults(command=lambda _: write_rows())
    typed = commands.add_parser("commands", help="print the command of each run")
    typed.add_argument("--methods", type=Path, default=FILE)
    typed.set_defaults(command=lambda a: print_commands(a.methods))
    page = commands.add_parser("page", help="compare the arms that are finished")
    add_page_arguments(page, Path("outputs/methods"))
    page.add_argument("--methods", type=Path, default=FILE)
    page.set_defaults(command=lambda a: _page(a.runs, a.methods, a.out, a.keep))
    arguments = parser.parse_args()
    arguments.command(arguments)


def write_rows() -> None:
    """Write rows of the training split of another seed, without their answers."""
    check_place(f"{ROWS}", ROWS.parent)
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    rows = generate_rows("train", _N_ROWS, seed=_OTHER_SEED)
    lines = [json.dumps({name: value for name, value in row.items() if name != "answer"}) for row in rows]
    write_atomically(ROWS, "\n".join([*lines, ""]))
    print(f"{_N_ROWS} rows: {ROWS}")


def print_commands(path: Path) -> None:
    """Print the command of each run, seed by seed, so that whatever is cut off, the rest is paired."""
    methods = read(path)
    for seed in methods.seeds:
        for arm in methods.arms:
            print(shlex.join(["paft", "train", *methods.overrides(arm, seed)]))


def _page(runs: Sequence[Path], path: Path, out: Path, keep: bool) -> None:
    check_place(f"--out {out}", out)
    write_page(collect(runs), read(path), path, out, keep)


def write_page(collected: Collected, methods: Methods, path: Path, out: Path, keep: bool) -> None:
    """Write README.md and results.json: each arm, and how it compares with the one beside it.

    Args:
        path: the file that says what is compared.
    """
    found = runs_by_arm(collected, {arm: [methods.overrides(arm, seed) for seed in methods.seeds] for arm in methods.arms})
    every = [run for own in found.values() for run in own]
    n, bounds = _accuracy(every[:1]).shape[1], methods.equivalent
    ruled_out = {name: why for name, why in methods.ruled_out.items() if name not in found}
    missing = missing_seeds(found, [arm for arm in methods.arms if arm not in ruled_out], len(methods.seeds))
    compared = [one for one in (Compared.of(arm, other, found) for arm, other in methods.pairs()) if one is not None]
    page = [f"# {methods.title}", "", *origin(every)]
    page += ["Not all runs are finished, so that the rest is exploratory:", "", *bullets(missing)] if missing else []
    page += bullets([*shown(compared, bounds), *([methods.advice] if methods.advice else [])])
    headings = ["arm", "settings", "seeds", "CVaR10", "mean", "updates", "seconds", "what it did, in the first and last fifth"]
    page += table(headings, [_row(arm, methods, own) for arm, own in found.items()])
    headings = ["difference", "seeds", "CVaR10", "mean", "says", "compute"]
    page += table(headings, [[*one.cells(bounds), _compute(one)] for one in compared])
    page += [
        f"Percent, on {n} validation prompts and validation rows; the test was not scored. CVaR10: the mean of the worst tenth "
        "of the prompts within a trained model, mean ± std over seeds. In brackets 95% intervals for other seeds and "
        "other families of wordings; they are not corrected for how many methods there are. Compute: token-equivalents, "
        f"as a share of the other arm's; a token of a forward pass alone counts as {FORWARD:g} of a trained one, a perturbed "
        "update as two. Seconds: of the updates, whatever else the device did. Equivalent: both intervals are within "
        f"±{bounds.cvar10:g} points of CVaR10 and ±{bounds.mean:g} of the mean. The accuracy under "
        "perturbed prompts (Con) is not measured here, because these are made of test prompts.",
        "",
        *_not_swept(ruled_out),
        f"All arms: `{' '.join(methods.common)}`. Made by "
        f"`python -m experiments.methods page RUNS --methods {typed_path(path)}`.",
    ]
    out.mkdir(parents=True, exist_ok=True)
    write(out, page)
    arms = {arm: {"seeds": [run.seed for run in own], "accuracy": _accuracy(own).tolist()} for arm, own in found.items()}
    differences = [one.as_json() for one in compared]
    write_json(out, {"methods": methods.model_dump(), "arms": arms, "differences": differences, "missing": missing})
    if keep:
        keep_runs(Collected(every, {}, []), out)
    print("\n".join(page))


def shown(compared: Sequence[Compared], bounds: Bounds) -> list[str]:
    """Say what the differences show, and how much they leave possible: a method that does nothing is said to do nothing."""
    verdicts = {
        f"{one.arm} minus {one.other}" + ("" if _equal(one) else f" ({one.compute:.2f} of its compute)"): (
            one, says(one.tail, one.mean, bounds),
        )
        for one in compared
    }  # fmt: skip
    better = [name for name, (_, said) in verdicts.items() if said.startswith("better")]
    worse = [name for name, (_, said) in verdicts.items() if said.startswith("worse")]
    lines = [f"Better at the worst prompts: {'; '.join(better) or 'none'}. Worse: {'; '.join(worse) or 'none'}."]
    left = [f"{name} {percent(one.tail.high, '+')}" for name, (one, said) in verdicts.items()
            if one.tail.high is not None and not said.startswith("better")]  # fmt: skip
    beyond = [f"For the others a larger gain of CVaR10 than this is outside the 95% interval: {'; '.join(left)}."]
    return [*lines, *(beyond if left else [])]


def _not_swept(ruled_out: Mapping[str, str]) -> list[str]:
    """Return what was not swept, and why; nothing where there is none."""
    if not ruled_out:
        return []
    return [
        "Not swept; of these nothing is shown, and nothing is excluded:",
        "",
        *bullets(f"{name}: {why}" for name, why in ruled_out.items()),
    ]


def _compute(one: Compared) -> str:
    """Return the compute of a difference, which is only one of methods where it is the same on both sides."""
    return f"{one.compute:.2f}" + ("" if _equal(one) else ", not equal")


def _equal(one: Compared) -> bool:
    return abs(one.compute - 1) <= MOST_APART


def _did(runs: Sequence[FinishedRun]) -> str:
    """Return what the sampler and the loss of an arm did, early and late, means over its seeds."""
    records = [run.results.training.acted for run in runs if run.results.training is not None]
    cells = []
    for name in dict.fromkeys(name for record in records for name in record):
        ends = []
        for part in (0, -1):
            known = [value for record in records if (value := record.get(name, [None])[part]) is not None]
            ends.append(f"{sum(known) / len(known):.3g}" if known else "-")
        cells.append(f"{name} {' to '.join(ends)}")
    return ", ".join(cells) or "-"


def _row(arm: str, methods: Methods, runs: Sequence[FinishedRun]) -> list[str]:
    accuracy = _accuracy(runs)
    settings = f"`{' '.join(methods.arms[arm])}`"
    trained = [run.results.training for run in runs if run.results.training is not None]
    updates, seconds = (sum(getattr(one, what) for one in trained) / len(trained) for what in ("updates", "seconds"))
    numbers = [*(_over_seeds(own) for own in (cvar(accuracy, 0.1), accuracy.mean(1))), f"{updates:.0f}", f"{seconds:.0f}"]
    return [arm, settings, str(len(runs)), *numbers, _did(runs)]


def _over_seeds(values: Array) -> str:
    """Return the mean of one fraction a seed, in percent, with the std if there are several seeds."""
    return percent(float(values.mean())) + (f" ± {percent(float(values.std(ddof=1)))}" if len(values) > 1 else "")


def _accuracy(runs: Sequence[FinishedRun]) -> Array:
    """Return the accuracy of each run under each prompt, (S, P)."""
    return TableRow(list(runs), runs[0].dataset).correct.mean(2)


if __name__ == "__main__":
    run_plain(main)

"""The registration of the comparison: what is compared, on what, and by what, fixed in the git history before it is run.

registered.yaml is committed before any run of the comparison is started; its commit must be an ancestor of the commit that the
runs name. Whatever does not hold makes the page exploratory, and the page says so.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from experiments.worst_prompt.files import check_against, read_yaml
from paft.config.compose import compose_training
from paft.reporting.runs import FinishedRun

FILE = Path(__file__).with_name("registered.yaml")
FORWARD = 0.4  # what a forward pass alone costs of a token's training, as measured: experiments/results/pass_cost
MOST_APART = 0.01  # of the budget: arms whose token-equivalents differ by more are not at equal compute


class Endpoint(BaseModel):
    """Prompts on which the arms are compared, by their kinds of layout."""

    model_config = ConfigDict(extra="forbid")
    name: str
    kinds: list[str] = Field(min_length=1)


class Bounds(BaseModel):
    """Differences, in points, within which two arms count as equivalent."""

    model_config = ConfigDict(extra="forbid")
    mean: float = Field(gt=0)
    cvar10: float = Field(gt=0)


class Ablations(BaseModel):
    """What else is run on the test prompts: arms that differ from another arm in one thing."""

    model_config = ConfigDict(extra="forbid")
    seeds: list[int] = Field(min_length=3)
    arms: dict[str, list[str]]  # overrides beside the common ones, by the name of the arm; {seed} stands for the seed
    against: dict[str, str]  # arm -> the arm that it is compared with
    equivalent: Bounds

    @model_validator(mode="after")
    def _known(self) -> "Ablations":
        check_against(self.arms, (*self.against, *self.against.values()))
        if taken := {"baseline", "method"} & {*self.arms}:
            raise ValueError(f"an arm is called {min(taken)!r}, which is an arm of the comparison itself")
        return self


class Registered(BaseModel):
    """The registered comparison: arms as overrides of conf/train.yaml, seeds, endpoints (the first is the headline)."""

    model_config = ConfigDict(extra="forbid")
    common: list[str]  # overrides of both arms
    baseline: list[str]
    method: list[str]
    seeds: list[int] = Field(min_length=3)
    endpoints: list[Endpoint] = Field(min_length=1)
    aim: float  # points of CVaR10 by which the method is to be better at the headline
    guard: float  # points by which its mean may be worse
    ablations: Ablations | None = None

    @model_validator(mode="after")
    def _named_once(self) -> "Registered":
        names = [endpoint.name for endpoint in self.endpoints]
        if len({*names}) < len(names):
            raise ValueError("two endpoints have the same name")
        return self

    def overrides(self, arm: str, seed: int) -> list[str]:
        """Return what is typed for a run; arm is baseline, method or an arm of the ablations."""
        arms = {"baseline": self.baseline, "method": self.method, **(self.ablations.arms if self.ablations else {})}
        return [*self.common, *(override.replace("{seed}", str(seed)) for override in arms[arm]), f"seed={seed}"]

    def run_name(self, arm: str, seed: int) -> str:
        """Return the name of a run's folder."""
        return compose_training(self.overrides(arm, seed)).run_name

    def runs(self) -> dict[str, list[str]]:
        """Return what is typed for each run, by its name: seed by seed, the comparison before the ablations.

        Whatever is cut off, the rest is paired. A run that is an arm of both is there once.
        """
        wanted = [(arm, seed) for seed in self.seeds for arm in ("baseline", "method")]
        if self.ablations is not None:
            wanted += [(arm, seed) for seed in self.ablations.seeds for arm in self.ablations.arms]
        return {self.run_name(arm, seed): self.overrides(arm, seed) for arm, seed in wanted}


def read(path: Path = FILE) -> Registered:
    """Read a registration; raises InputError that names the file and the key."""
    return read_yaml(path, Registered, "nothing is registered; choose the arms on validation prompts, then write this file.")


def exploratory(registered: Registered, arms: Mapping[str, Sequence[FinishedRun]], path: Path = FILE) -> list[str]:
    """Return what makes the comparison exploratory, as sentences; none if it is as it was registered.

    Args:
        arms: the runs of the baseline and of the method.
    """
    problems = []
    for arm, runs in arms.items():
        wanted = {registered.run_name(arm, seed) for seed in registered.seeds}
        there = {run.results.run for run in runs}
        problems += [f"{name} is registered and not there" for name in sorted(wanted - there)]
    return list(dict.fromkeys([*problems, *uncommitted([run for runs in arms.values() for run in runs], path)]))


def uncommitted(runs: Sequence[FinishedRun], path: Path = FILE) -> list[str]:
    """Return which runs were not made at a commit that holds the registration as it is, as sentences."""
    commit = _git("log", "-1", "--format=%H", "--", str(path.absolute()))
    if not commit:
        return [f"{path.name} is in no commit"]
    changed = _git("status", "--porcelain", "--", str(path.absolute()))
    problems = [f"{path.name} was changed after its commit"] if changed else []
    for run in runs:
        git = run.results.git
        if git.commit is None:
            problems.append(f"{run.results.run} names no commit")
        elif git.dirty:
            problems.append(f"{run.results.run} was made with changes that are in no commit")
        elif not _is_ancestor(commit, git.commit):
            problems.append(
                f"{run.results.run} was made at {git.commit[:7]}, whose history does not hold the commit of {path.name} "
                f"({commit[:7]})"
            )
    return problems


def unregistered(runs: Sequence[FinishedRun], registered: Registered) -> list[str]:
    """Return what was tuned on the test prompts, as sentences: runs that scored them, train and are not registered."""
    names = registered.runs()
    first = next((run for run in runs if run.results.run in names), None)
    if first is None:
        return []
    tested = first.results.fingerprints.pools["test"].fingerprint
    return [
        f"{run.results.run} scored the same test prompts and is not registered"
        for run in runs
        if run.config["method"]["name"] != "base"
        and run.results.run not in names
        and run.results.fingerprints.pools["test"].fingerprint == tested
    ]


def compute(arms: Mapping[str, Sequence[FinishedRun]]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return what each arm trained on, as means over its runs, and what says that their compute is not equal."""
    found: dict[str, dict[str, float]] = {}
    for arm, runs in arms.items():
        trained = [run.results.training for run in runs if run.results.training is not None]
        found[arm] = {
            name: sum(float(getattr(record, name) or 0) for record in trained) / len(trained)
            for name in ("tokens", "updates", "seconds", "probe_tokens", "repeated_tokens")
        }
        found[arm]["equivalents"] = sum(map(equivalents, runs)) / len(trained)
    baseline, method = found["baseline"]["equivalents"], found["method"]["equivalents"]
    if abs(method / baseline - 1) > MOST_APART:
        change = 100 * (method / baseline - 1)
        than = f"{abs(change):.1f}% {'more' if change > 0 else 'fewer'} token-equivalents than the baseline"
        return found, [f"the method had {than}"]
    return found, []


def equivalents(run: FinishedRun) -> float:
    """Return the tokens that a run was trained on, and what else it computed as if it had been trained on."""
    record = run.results.training
    if record is None:
        return 0.0
    return record.tokens + (record.repeated_tokens or 0) + FORWARD * (record.probe_tokens or 0)


def _git(*arguments: str) -> str:
    """Return what git prints, "" if it fails."""
    done = subprocess.run(["git", *arguments], cwd=FILE.parent, capture_output=True, encoding="utf-8", check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _is_ancestor(commit: str, of: str) -> bool:
    """Return whether a commit is part of another's history; it is not where git does not know one of them."""
    command = ["git", "merge-base", "--is-ancestor", commit, of]
    return subprocess.run(command, cwd=FILE.parent, capture_output=True, check=False).returncode == 0

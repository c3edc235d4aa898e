"""Known wordings in known layouts, in pairs that training did not show: the adapters of the comparison, evaluated on those.

Whoever has the adapters of registered runs evaluates them with

    paft evaluate -m adapter=RUN/adapter,... prompts.test=v2_composition prompts.allow_seen=true eval_examples=25
"""

from pathlib import Path

from experiments.worst_prompt.arms import arms_by_seed
from experiments.worst_prompt.files import typed_path
from experiments.worst_prompt.registered import Registered
from paft.evaluation.tail import cvar
from paft.reporting.collect import Collected, keep_runs
from paft.reporting.page import bracketed, percent, table, write, write_json
from paft.reporting.runs import FinishedRun, check_alike
from paft.reporting.sweep import origin
from paft.runtime.errors import InputError

POOL = "v2_composition"


def evaluations(collected: Collected, registered: Registered, arm: str) -> dict[int, FinishedRun]:
    """Return the evaluations on these pairs of an arm's adapters, by the seed of the training; InputError for two of one."""
    seeds = {registered.run_name(arm, seed): seed for seed in registered.seeds}
    found: dict[int, FinishedRun] = {}
    for run in collected.runs:
        if run.results.trained_by in seeds and run.results.fingerprints.pools["test"].name == POOL:
            seed = seeds[run.results.trained_by]
            if seed in found:
                raise InputError(f"{found[seed].folder} and {run.folder} are of one adapter; give one of them.")
            found[seed] = run
    return found


def write_composition(collected: Collected, registered: Registered, path: Path, out: Path, keep: bool) -> None:
    """Write README.md and results.json; raises InputError where no seed of both arms was evaluated.

    Args:
        path: the file of the registration.
    """
    runs = {arm: evaluations(collected, registered, arm) for arm in ("method", "baseline")}
    check_alike([run for side in runs.values() for run in side.values()], lambda run: run.measured_by)
    both = arms_by_seed(runs["method"], runs["baseline"])
    if both is None:
        raise InputError(
            f"No seed was evaluated on {POOL} with the adapters of both arms; `paft evaluate adapter=RUN/adapter "
            f"prompts.test={POOL} prompts.allow_seen=true` does so for one."
        )
    rows = []
    differences = {"CVaR10": (0.1, both.tail()), "mean": (1.0, both.mean())}
    for what, (share, difference) in differences.items():
        values = [percent(float(cvar(side.mean(2), share).mean())) for side in (both.baseline, both.method)]
        rows.append([what, str(len(both.kinds)), *values, bracketed(difference, "+")])
    own = [run for side in runs.values() for seed, run in side.items() if seed in both.seeds]
    page = ["# Known wordings in known layouts, in unseen pairs", "", *origin(own)]
    page += table(["", "prompts", "baseline", "method", "difference"], rows)
    page += [
        f"Percent; {len(both.seeds)} of {len(registered.seeds)} registered pairs of seeds, {both.method.shape[2]} examples. "
        f"Each prompt of {POOL} has a wording and a layout that training prompts have, but none of them has both. It was "
        "registered as no endpoint. CVaR10 and the intervals are as on the page of the comparison.",
        "",
        f"Made by `python -m experiments.worst_prompt composition EVALUATIONS --registered {typed_path(path)}`.",
    ]
    out.mkdir(parents=True, exist_ok=True)
    write(out, page)
    write_json(out, {"seeds": both.seeds, "differences": {what: vars(found) for what, (_, found) in differences.items()}})
    if keep:
        keep_runs(Collected(own, {}, []), out)
    print("\n".join(page))

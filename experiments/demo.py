"""The demo: fine-tune on one fixed prompt and with PAFT, and show how much the wording still matters.

    python -m experiments.demo                                    # what `make demo` runs
    python -m experiments.demo --seeds 0 1 2 --user-prompts 3 --report experiments/results/demo

Every run is an ordinary one (`python train.py experiment=demo method=user seed=1 ...`): finished runs are skipped,
interrupted ones resumed. An illustration, not a benchmark: a small model on a task made
for it.
"""

import argparse
import shlex
from pathlib import Path

import numpy as np

from experiments.studies import labelled, report, train
from paft.cli.hydra_app import run_plain
from paft.reporting.results import Results

# What three users might write; None is the plain prompt that the project ships for method=user.
USER_PROMPTS = (
    None,
    "Read the story and answer the question.\n\nStory: {story}\nQuestion: {question}\n- {A}\n- {B}\n- {C}\n- {D}\nAnswer:",
    "{story}\n\n{question} Choose one: {A}; {B}; {C}; {D}.\nThe answer is",
)

_CAVEATS = (
    "An illustration: a small model on a task made for it. Test prompts are of families that no training prompt belongs to; "
    "the order of story, question and options may be one that was trained on.",
    "Tuned on validation prompts and examples: K=4 or 1 for PAFT, lr 1e-3 or 2e-3 for one fixed prompt. Before that the task "
    "was made easier (it asked for persons and objects too), and the training and validation prompts, not the test prompts, "
    "were given more orders of story, question and options: a model trained on one order failed on others.",
)


def main() -> None:
    """Make the runs and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--user-prompts", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--report", type=Path, default=Path("outputs/demo"), help="where table and figure go")
    parser.add_argument("overrides", nargs="*", help="further settings, as for train.py")
    arguments = parser.parse_intermixed_args()
    runs: dict[str, list[Results]] = {}
    for seed in arguments.seeds:
        overrides = ["experiment=demo", f"seed={seed}", *arguments.overrides]
        for number, prompt in enumerate(USER_PROMPTS[: arguments.user_prompts], 1):
            runs.setdefault(f"user prompt {number}", []).append(train([*overrides, "method=user"], prompt))
        runs.setdefault("PAFT", []).append(train([*overrides, "method=paft"]))
    notes = [gain(runs, i, seed) for i, seed in enumerate(arguments.seeds)]
    notes += _CAVEATS
    seeds = " ".join(map(str, arguments.seeds))
    typed = "".join(f" {shlex.quote(override)}" for override in arguments.overrides)
    command = f"python -m experiments.demo --seeds {seeds} --user-prompts {arguments.user_prompts}{typed}"
    report(arguments.report, "How much the wording matters", {"story_facts": runs}, notes, command)


def gain(runs: dict[str, list[Results]], index: int, seed: int) -> str:
    """Say what PAFT gets, and what the single-prompt runs of one seed get on average."""
    paft = labelled(runs["PAFT"][index])
    users = [labelled(same[index]) for label, same in runs.items() if label != "PAFT"]
    ours, theirs = (
        [f"{100 * np.mean([getattr(run, key) for run in side]):.1f}" for key in ("mean", "min", "std")]
        for side in ([paft], users)
    )
    fixed = "one fixed prompt has" if len(users) == 1 else f"{len(users)} fixed prompts have"
    return (
        f"Seed {seed}: on unseen prompts PAFT has a mean of {ours[0]}, a worst prompt of {ours[1]} and a std of {ours[2]}, "
        f"where {fixed} {theirs[0]}, {theirs[1]} and {theirs[2]}{' on average' if len(users) > 1 else ''}."
    )


if __name__ == "__main__":
    run_plain(main)

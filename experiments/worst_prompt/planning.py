"""What a comparison of two arms costs, from the times of runs like it, and what it can find, from how much they vary."""

from collections.abc import Sequence

from paft.reporting.page import table
from paft.reporting.power import power, read_pilot
from paft.reporting.runs import FinishedRun

DIFFERENCES = (0.02, 0.05, 0.1)
SEEDS = (3, 12, 24, 48)


def budget_lines(runs: Sequence[FinishedRun], arms: int, seeds: int) -> list[str]:
    """Return what runs took, and what so many arms of so many seeds take, as two sentences."""
    trained = [run.results.training.seconds for run in runs if run.results.training is not None]
    whole = [run.results.wall_s for run in runs]
    mean, training = sum(whole) / len(whole), sum(trained) / max(1, len(trained))
    return [
        f"Of {len(runs)} runs: {mean / 60:.1f} minutes each, of which {training / 60:.1f} are training.",
        f"{arms} arms x {seeds} seeds: {arms * seeds * mean / 3600:.1f} hours.",
    ]


def power_lines(
    method: Sequence[FinishedRun],
    baseline: Sequence[FinishedRun],
    prompts: int,
    examples: int,
    headline: Sequence[int] | None = None,
) -> list[str]:
    """Return the section of a page; nothing where an arm has fewer than two runs, or one has more than the other.

    Args:
        prompts: of the study.
        examples: of the study.
        headline: the places of the prompts that the study is about, among those of the runs; None: all.
    """
    if len(method) < 2 or len(method) != len(baseline):
        return []
    pilot = read_pilot([run.folder for run in method], [run.folder for run in baseline], prompts=headline)
    rows = [
        [f"{100 * difference:g}", *(f"{100 * power(pilot, difference, n, prompts, examples, 0.1):.0f}" for n in SEEDS)]
        for difference in DIFFERENCES
    ]
    stds = {"seeds": pilot.seed, "prompts": pilot.prompt, "prompt x seed": pilot.interaction, "method x prompt": pilot.method}
    like = "prompts" if headline is None else "prompts like those of the headline"
    said = ", ".join(f"{name} {100 * std:.1f}" for name, std in stds.items())
    return [
        "## What such a study can find",
        "",
        *table(["better at every prompt by, points", *(f"{n} seeds" for n in SEEDS)], rows),
        "Percent of studies whose interval of CVaR10 lies above zero, as `paft power` simulates them from how much these runs "
        f"vary (std: {said}), with {prompts} {like} and {examples} examples.",
        "",
    ]

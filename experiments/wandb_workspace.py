"""Build the W&B workspace that docs/wandb.md describes.

    python -m experiments.wandb_workspace --entity NAME [--project paft]     # sends it; you must be logged in
    python -m experiments.wandb_workspace --entity NAME --sweep table1-cpu   # a view of one sweep
    python -m experiments.wandb_workspace --check                            # builds and checks it here, sends nothing

Needs the extra `dashboard`: pip install -e ".[dashboard]".
"""

import argparse
import json
import os
from typing import Any

from paft.cli.hydra_app import run_plain
from paft.runtime.errors import InputError

# The numbers of a run's summary, under names that do not change.
MEAN, STD, WORST = (f"robustness/{name}" for name in ("mean", "std", "min"))

UPDATE = "trainer/global_step"

_SAVE_S = 100  # W&B tries again for a while where the server does not answer


def workspace(entity: str, project: str, sweep: str | None = None) -> Any:
    """Return the workspace: runs sorted by their worst prompt, and three sections of panels.

    Args:
        sweep: show the runs of this sweep alone: its group, or the id of a sweep whose runs W&B's agents started.

    Raises InputError where wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports import v2
    except ModuleNotFoundError:
        raise InputError("wandb-workspaces is not installed; run `pip install -e '.[dashboard]'`.") from None

    panels: Any = v2  # it names its exports in a way that type checkers do not see
    ws: Any = workspaces

    def summary(name: str) -> Any:
        return panels.SummaryMetric(name)

    def bars(title: str, metric: str) -> Any:
        by_method = panels.Config("method.name")
        return panels.BarPlot(
            title=title, metrics=[metric], groupby=by_method, groupby_aggfunc="mean", groupby_rangefunc="stddev"
        )

    robustness = [
        panels.ScatterPlot(title="Accuracy against its spread: up and left is better", x=summary(STD), y=summary(MEAN)),
        bars("Worst unseen prompt, by method", WORST),
        bars("Mean over unseen prompts, by method", MEAN),
        bars("Std over unseen prompts, by method", STD),
        panels.ParallelCoordinatesPlot(
            title="What K, T and the pool do",
            columns=[
                *(panels.ParallelCoordinatesPlotColumn(panels.Config(name)) for name in ("K", "T", "train_prompts")),
                *(panels.ParallelCoordinatesPlotColumn(summary(name)) for name in (MEAN, STD, WORST)),
            ],
        ),
    ]
    prompts = [
        panels.MediaBrowser(title="Accuracy over prompts", media_keys=["distribution"]),
        panels.MediaBrowser(title="Reports: every prompt, the worst renderings", media_keys=["report"]),
    ]
    training = [
        panels.LinePlot(title="Loss", x=UPDATE, y=["loss"]),
        panels.LinePlot(title="Validation: mean and worst prompt", x=UPDATE, y=["validation/mean", "validation/worst"]),
        panels.LinePlot(title="Tokens a second", x=UPDATE, y=["tokens_per_s"]),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="PAFT: robustness over prompts" if sweep is None else f"PAFT: {sweep}",
        sections=[
            ws.Section(name="Robustness", panels=robustness, is_open=True),
            ws.Section(name="Prompts", panels=prompts, is_open=True),
            ws.Section(name="Training", panels=training),
        ],
        runset_settings=ws.RunsetSettings(
            filters=[] if sweep is None else ws.Or(ws.Metric("Group") == sweep, ws.Metric("Sweep") == sweep),
            order=[ws.Ordering(ws.Summary(WORST), ascending=False)],
        ),
    )


def main() -> None:
    """Build, and check or send."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", help="your W&B user or team")
    parser.add_argument("--project", default="paft")
    parser.add_argument("--sweep", metavar="NAME", help="show the runs of one sweep: its group, or the id that W&B gave it")
    parser.add_argument("--check", action="store_true", help="build and check; send nothing")
    arguments = parser.parse_args()
    if arguments.entity is None and not arguments.check:
        raise InputError("--entity is missing; name your W&B user or team, or give --check.")
    built = workspace(arguments.entity or "ENTITY", arguments.project, arguments.sweep)
    content = json.loads(built._to_model().model_dump_json(by_alias=True))
    sections = built.sections
    if arguments.check:
        n_panels = sum(len(section.panels) for section in sections)
        print(f"{len(sections)} sections, {n_panels} panels, {len(json.dumps(content)):,} bytes; nothing was sent.")
        return
    from paft.reporting.wandb import end_service, logged_in, within

    if not logged_in() or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        raise InputError("This machine is not logged in to W&B; run `wandb login`, or give --check to build it here.")
    try:
        within(_SAVE_S, built.save)
    except TimeoutError:
        raise InputError(
            f"W&B did not take the workspace within {_SAVE_S} s; see on the project's page whether it has it all the same."
        ) from None
    except Exception as error:  # unreachable, key refused, no right to the project
        raise InputError(f"W&B did not take the workspace ({' '.join(str(error).split())[:300]}); nothing was sent.") from None
    finally:
        end_service()
    print(f"Workspace: {built.url}")


if __name__ == "__main__":
    run_plain(main)

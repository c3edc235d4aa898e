"""Fine-tune a model and say how robust it came out: python train.py (conf/train.yaml is the page to edit)."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from paft.cli import CONFIG_PATH, run_hydra, run_job
from paft.config import TrainConfig, from_dict, parse
from paft.errors import InputError


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="train")
def main(composed: DictConfig) -> None:
    """Run one training job; in a sweep, one of its jobs."""
    run_job(lambda typed, group: job(parse(composed), typed, group))


def job(config: TrainConfig, typed: Sequence[str] = (), group: str | None = None) -> None:
    """Train, print the table, and compare with the original where a run is repeated.

    Args:
        typed: the overrides on the command line.
    """
    original = None
    if config.rerun is not None:
        original = read_results(Path(config.rerun))
        config = repeated(config, original["config"], typed)
    # Heavy imports wait until the config is known to be right.
    from paft.reporting.table import print_run
    from paft.training import run_training

    run = run_training(config, group, original)
    results = json.loads(run.folder.results.read_text())
    print_run(config.method.name, results, run.folder.results)
    if original is not None:
        same = original["robustness"] == results["robustness"]
        print(f"Repeats {config.rerun}: {'equal' if same else 'DIFFERENT'} robustness.")
        if not same:
            sys.exit(1)


# What a repeated run may take from the command: nothing that changes a number, or what its fingerprints will be checked for.
_MAY_DIFFER = (
    "trainer.progress", "trainer.workers", "trainer.checkpoint_every", "trainer.checkpoints_kept", "also",
    "data_root", "dataset.path", "model.remote_code", "prompts.train", "prompts.validation", "prompts.test",
)  # fmt: skip


def repeated(config: TrainConfig, original: dict[str, Any], typed: Sequence[str]) -> TrainConfig:
    """Return the original's config with what changes no number taken from this command: where things lie, who is told.

    Raises InputError for an override of anything else, and if the original's config does not fit this code.
    """
    own, merged = OmegaConf.create(config.model_dump()), OmegaConf.create(original)
    for key in ("output_root", "rerun", "logger", "model.remote_code"):  # a results.json may come from a stranger
        OmegaConf.update(merged, key, OmegaConf.select(own, key))
    for override in typed:
        key = override.lstrip("+~").split("=")[0]
        if key in _MAY_DIFFER:
            OmegaConf.update(merged, key, OmegaConf.select(own, key))
        elif key not in ("rerun", "output_root") and key.split(".")[0] != "logger":
            raise InputError(f"{override}: rerun= repeats a run as it was; leave this out, or start a new run without rerun=.")
    try:
        return from_dict(OmegaConf.to_container(merged))
    except InputError as error:
        raise InputError(f"rerun={config.rerun}: its config does not fit: {error}") from None


def read_results(path: Path) -> dict[str, Any]:
    """Read a results.json; raises InputError if it is none."""
    try:
        results: dict[str, Any] = json.loads(path.read_text())
        [{**results["config"][name]} for name in ("trainer", "dataset", "prompts")]
        results["robustness"], results["fingerprints"]["data"], results["fingerprints"]["pools"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"rerun={path}: this is no results.json of a finished run ({type(error).__name__}).") from None
    return results


if __name__ == "__main__":
    run_hydra(main)

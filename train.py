"""Fine-tune a model and say how robust it came out: python train.py (conf/train.yaml is the page to edit)."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paft.checked import CheckedRun, check_run
from paft.cli import CONFIG_PATH, run_hydra, run_job
from paft.config import TrainConfig, from_dict, parse
from paft.errors import InputError


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="train")
def main(composed: DictConfig) -> None:
    """Run one training job; in a sweep, one of its jobs."""
    run_job(lambda typed, group: job(parse(composed), typed, group), OmegaConf.select(composed, "trainer.devices", default=1))


def job(config: TrainConfig, typed: Sequence[str] = (), group: str | None = None) -> None:
    """Train, and compare with the original where a run is repeated.

    Args:
        typed: the overrides on the command line.
    """
    original = None
    if config.rerun is not None:
        original = read_results(Path(config.rerun))
        config = repeated(config, original["config"], typed)
    checked = check_run(config)
    if original is not None:
        check_same_inputs(config, checked, original)
    # Heavy imports wait until what can be seen without them is known to be right.
    from paft.ranks import run_on
    from paft.training import run_training

    run_on(config.trainer.devices, config.trainer.accelerator, run_training, config, group, checked)
    if original is not None:
        results = json.loads((Path(config.output_root) / config.run_name / "results.json").read_text())
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
    own = OmegaConf.create(config.model_dump())
    try:
        merged = OmegaConf.create(original)
    except OmegaConfBaseException as error:  # half an interpolation
        raise InputError(f"rerun={config.rerun}: its config does not fit: {str(error).splitlines()[0]}.") from None
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
        results["robustness"], results["fingerprints"]["data"]
        [pool["fingerprint"] for pool in results["fingerprints"]["pools"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"rerun={path}: this is no results.json of a finished run ({type(error).__name__}).") from None
    return results


def check_same_inputs(config: TrainConfig, checked: CheckedRun, original: dict[str, Any]) -> None:
    """Raise InputError if the run that is to be repeated read other data or prompts."""
    before = original["fingerprints"]
    if before["data"] != checked.inputs.examples.fingerprints:
        raise InputError(f"rerun={config.rerun}: its data were others; give the same files with data_root= or dataset.path=.")
    for split, pool in checked.inputs.pools.items():
        if before["pools"].get(split, {}).get("fingerprint") != pool.fingerprint:
            raise InputError(f"rerun={config.rerun}: its {split} prompts were others; use the code or the files of that run.")


if __name__ == "__main__":
    run_hydra(main)

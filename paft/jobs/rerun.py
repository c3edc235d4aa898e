"""Repeating a finished run from its results.json: the same config, the same inputs, the same numbers."""

import sys
from collections.abc import Sequence

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paft.config.compose import from_dict
from paft.config.schema import TrainConfig
from paft.data.inputs import Inputs
from paft.reporting.results import Results
from paft.runtime.errors import InputError

# What a repeated run may take from the command: nothing that changes a number, or what its fingerprints will be checked for.
_MAY_DIFFER = (
    "trainer.progress", "trainer.profiler", "trainer.workers", "trainer.checkpoint_every", "trainer.checkpoints_kept",
    "extra_measures", "data_root", "dataset.path", "model.remote_code", "prompts.train", "prompts.validation", "prompts.test",
)  # fmt: skip


def repeated(config: TrainConfig, original: Results, typed: Sequence[str]) -> TrainConfig:
    """Return the original's config, with what changes no number taken from this command: where things lie, who is told.

    Raises InputError for an override of anything else, and if the original's config does not fit this code.
    """
    own = OmegaConf.create(config.model_dump())
    try:
        merged = OmegaConf.create(original.config)
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


def check_same_inputs(config: TrainConfig, inputs: Inputs, original: Results) -> None:
    """Raise InputError if the run that is to be repeated read other data or prompts."""
    before = original.fingerprints
    if before.data != inputs.examples.fingerprints:
        raise InputError(f"rerun={config.rerun}: its data were others; give the same files with data_root= or dataset.path=.")
    for split, pool in inputs.pools.items():
        if split not in before.pools or before.pools[split].fingerprint != pool.fingerprint:
            raise InputError(f"rerun={config.rerun}: its {split} prompts were others; use the code or the files of that run.")


def check_repeats(config: TrainConfig, results: Results, original: Results) -> None:
    """Say whether the robustness is the original's; exit with code 1 where it is not."""
    same = original.robustness == results.robustness
    print(f"Repeats {config.rerun}: {'equal' if same else 'DIFFERENT'} robustness.")
    if not same:
        sys.exit(1)

"""Repeating a finished run from its results.json: the same config and inputs must give the same numbers."""

import sys
from collections.abc import Sequence

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paft.config.compose import from_dict
from paft.config.hints import key_of
from paft.config.schema import TrainConfig, is_function
from paft.data.inputs import Inputs
from paft.reporting.results import Results
from paft.runtime.errors import InputError

# The keys that a repeated run may take from the command: those that change no number, and those of inputs whose fingerprints
# are checked afterwards.
_MAY_DIFFER = (
    "trainer.progress", "trainer.profiler", "trainer.workers", "trainer.checkpoint_every", "trainer.checkpoints_kept",
    "extra_measures", "data_root", "dataset.path", "model.remote_code", "model.accept_license",
    "prompts.train", "prompts.validation", "prompts.test", "prompts.allow_seen", "score_base", "compare_with",
    "fail_under.mean", "fail_under.worst", "fail_under.cvar10",
)  # fmt: skip


def repeated(config: TrainConfig, original: Results, typed: Sequence[str]) -> TrainConfig:
    """Return the config of the original run, with the settings that change no number taken from this command.

    These are where files lie, and how progress is shown and logged.

    Args:
        config: composed from this command.
        original: of the run that is repeated.
        typed: the overrides of this command.

    Raises InputError for an override of anything else, and if the original's config does not fit this code.
    """
    command = OmegaConf.create(config.model_dump())
    try:
        merged = OmegaConf.create(original.config)
    except OmegaConfBaseException as error:  # e.g. an unfinished interpolation
        raise InputError(f"rerun={config.rerun}: its config does not fit: {str(error).splitlines()[0]}.") from None
    # Never from the original: a results.json may come from a stranger.
    for key in ("output_root", "rerun", "logger", "model.remote_code", "model.accept_license"):
        OmegaConf.update(merged, key, OmegaConf.select(command, key))
    commit = original.fingerprints.base_model.hub_commit
    if commit is not None:  # a branch may stand for another commit by now
        OmegaConf.update(merged, "model.revision", commit)
    metric = str(OmegaConf.select(merged, "dataset.metric", default="choice"))
    if is_function(metric) and f"dataset.metric={metric}" not in [override.lstrip("+") for override in typed]:
        raise InputError(  # a results.json may come from a stranger
            f"rerun={config.rerun}: its metric is a function, which runs only if you type it: ++dataset.metric={metric}."
        )
    same_dataset = f"dataset={OmegaConf.select(merged, 'dataset.name')}"  # which dataset.path= adds, if that is one's own rows
    for override in typed:
        key = key_of(override)
        if key == "dataset.metric" and is_function(metric):
            continue
        if key in _MAY_DIFFER:
            OmegaConf.update(merged, key, OmegaConf.select(command, key))
        elif key not in ("rerun", "output_root") and key.split(".")[0] != "logger" and override != same_dataset:
            raise InputError(f"{override}: rerun= repeats a run as it was; leave this out, or start a new run without rerun=.")
    try:
        return from_dict(OmegaConf.to_container(merged))
    except InputError as error:
        raise InputError(f"rerun={config.rerun}: its config does not fit: {error}") from None


def check_same_inputs(config: TrainConfig, inputs: Inputs, original: Results) -> None:
    """Raise InputError if the original run read other data or prompts than this one."""
    fingerprints = original.fingerprints
    if fingerprints.data != inputs.examples.fingerprints:
        raise InputError(f"rerun={config.rerun}: its data were others; give the same files with data_root= or dataset.path=.")
    for split, pool in inputs.pools.items():
        if split not in fingerprints.pools or fingerprints.pools[split].fingerprint != pool.fingerprint:
            raise InputError(f"rerun={config.rerun}: its {split} prompts were others; use the code or the files of that run.")


def check_repeats(config: TrainConfig, results: Results, original: Results) -> None:
    """Print whether the robustness equals the original's; exit with code 1 if it does not."""
    same = original.robustness == results.robustness
    print(f"Repeats {config.rerun}: {'equal' if same else 'DIFFERENT'} robustness.")
    if not same:
        sys.exit(1)

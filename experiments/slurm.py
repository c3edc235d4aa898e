"""Print the job script that `hydra/launcher=slurm` submits, without submitting it.

python -m experiments.slurm hydra.launcher.partition=gpu hydra.launcher.timeout_min=240
"""

import sys
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from paft.cli.hydra_app import check_launcher, run_plain
from paft.config.compose import CONF
from paft.runtime.errors import InputError

_OF_THE_LAUNCHER = {"_target_", "submitit_folder", "max_num_timeout", "name"}  # not SLURM's


def script(overrides: list[str]) -> str:
    """Return the text of the batch script; raises InputError without submitit, and for GPUs that are not the run's."""
    try:
        from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string
    except ModuleNotFoundError:
        raise InputError("submitit is not installed; run `pip install -e '.[slurm]'`.") from None
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", ["hydra/launcher=slurm", *overrides], return_hydra_config=True)
    launcher: Any = OmegaConf.to_container(config.hydra.launcher, resolve=False)
    check_launcher(launcher, config.trainer.devices)
    given = {key: value for key, value in launcher.items() if key not in _OF_THE_LAUNCHER and value is not None}
    slurm_names: Any = SlurmExecutor._equivalence_dict()
    settings: dict[str, Any] = {slurm_names.get(key, key): value for key, value in given.items()}
    if "mem_gb" in given:
        settings["mem"] = f"{given['mem_gb']}GB"
    folder = "outputs/sweeps/NAME/.submitit/%j"
    command = f"{sys.executable} -u -m submitit.core._submit {folder}"
    return _make_sbatch_string(command=command, folder=folder, job_name="train", map_count=2, **settings)


def main() -> None:
    """Print the script."""
    asked = {"-h", "--help"} & {*sys.argv[1:]}
    print(__doc__ if asked else script(sys.argv[1:]))


if __name__ == "__main__":
    run_plain(main)

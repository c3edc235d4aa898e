"""Several runs at a time: what each of them writes is what it writes alone."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.strike import ROOT


def swept(root: Path, *overrides: str) -> dict[str, list[bytes]]:
    """Sweep over two seeds, which ends with their table; return the files that do not hold times, by run."""
    command = [sys.executable, "train.py", "-m", "seed=0,1", *overrides, f"output_root={root}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "All runs" in done.stdout and "std of seeds" in done.stdout
    names = ("adapter/adapter_model.safetensors", "matrix.parquet", "per_prompt.csv")
    return {path.parent.name: [(path.parent / name).read_bytes() for name in names] for path in root.glob("*/results.json")}


def ray_is_missing() -> bool:
    return importlib.util.find_spec("ray") is None or importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=parallel"],
        pytest.param(
            ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"],
            marks=pytest.mark.skipif(ray_is_missing(), reason="pip install hydra-ray-launcher"),
        ),
    ],
    ids=lambda launcher: launcher[0],
)
def test_runs_at_a_time_equal_those_one_after_another(launcher, tiny_overrides, tmp_path):
    serial = swept(tmp_path / "serial", *tiny_overrides)
    assert len(serial) == 2
    assert swept(tmp_path / "together", *tiny_overrides, *launcher) == serial

"""Several ranks (gloo, on the CPU): one schedule, one writer, the same numbers as one process within rounding."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from paft.evaluation.store import read_cells
from paft.jobs.train import run_training
from paft.reporting.results import read_results
from paft.runtime.errors import InputError
from paft.runtime.launch import run_on
from tests.conftest import compose_config

# The last update of an epoch has one example: rank 1 has none.
SHAPE = ["train_examples=25", "T=2", "trainer.micro_batch_tokens=256"]


def trained(devices: int, overrides: list[str], root: Path) -> Path:
    """Train on so many ranks; return the run's folder."""
    config = compose_config(*overrides, f"output_root={root}")
    run_on(devices, "cpu", run_training, config)
    return root / config.run_name


def trajectory(folder: Path) -> list[list[float]]:
    """Loss, gradient norm, learning rate and template of every update."""
    (path,) = folder.glob("log/version_*/metrics.csv")
    names = ("loss", "grad_norm", "lr", "template")
    return [[float(row[name]) for name in names] for row in csv.DictReader(path.open()) if row["loss"]]


def test_two_ranks_are_one_process_within_rounding(tiny_overrides, tmp_path):
    one, two = (trained(n, [*tiny_overrides, *SHAPE], tmp_path / f"{n}") for n in (1, 2))
    np.testing.assert_allclose(trajectory(two), trajectory(one), rtol=1e-4)
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, two)]
    for key in adapters[0]:
        torch.testing.assert_close(adapters[1][key], adapters[0][key], rtol=1e-3, atol=2e-5)
    cells = [read_cells(folder / "matrix.parquet").to_pydict() for folder in (one, two)]
    assert cells[0]["predicted"] == cells[1]["predicted"] and cells[0]["example_digest"] == cells[1]["example_digest"]
    np.testing.assert_allclose(np.concatenate(cells[1]["log_probs"]), np.concatenate(cells[0]["log_probs"]), atol=1e-3)
    assert {p.relative_to(one) for p in one.rglob("*")} == {p.relative_to(two) for p in two.rglob("*")}
    assert read_results(two).device.ranks == 2
    assert (one / "per_prompt.csv").read_text().split(",")[:2] == (two / "per_prompt.csv").read_text().split(",")[:2]


def test_what_goes_wrong_on_ranks_is_one_sentence(tiny_overrides, tmp_path):
    config = compose_config(*tiny_overrides, "cutoff=2")
    with pytest.raises(InputError, match="which cutoff=2 has no room for"):
        run_on(2, "cpu", run_training, config)
    assert not (tmp_path / "runs").exists()

"""Kept runs: each still has the name, and is by its settings the run, that it was when it ran."""

import json
from pathlib import Path

import pytest

from paft.config.compose import CONF, from_dict
from paft.reporting.results import read_results

RESULTS = Path(CONF).parent / "experiments" / "results"


def kept(study: str) -> list[Path]:
    return sorted(path.parent for path in RESULTS.glob(f"{study}/runs/*/results.json"))


def test_there_are_runs_of_every_study():
    assert (len(kept("paper_cpu")), len(kept("race_qwen05"))) == (33, 6)


@pytest.mark.parametrize("folder", [*kept("paper_cpu"), *kept("race_qwen05")], ids=lambda folder: folder.name)
def test_a_kept_run_is_the_run_that_it_was(folder):
    results = read_results(folder)
    config = from_dict(results.config)
    assert config.identity() == json.loads((folder / "run.json").read_text())["config"]
    assert results.run == folder.name
    if folder.parent.parent.name == "paper_cpu":
        assert config.run_name == folder.name
    else:  # its base model lay in a folder of another name, which is part of the label and of the hash
        wanted, _ = config.run_name.replace(config.model.label, "qwen05").rsplit("-", 1)
        assert folder.name.rsplit("-", 1)[0] == wanted

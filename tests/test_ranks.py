"""Two ranks (gloo, on the CPU), and replayed graphs: every way to train has the numbers of one process within rounding."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from paft.config.schema import TrainConfig
from paft.data.tasks.story_facts import generate_rows
from paft.evaluation.store import read_cells
from paft.jobs.train import run_training
from paft.prompts import by_loss
from paft.reporting.results import read_results
from paft.runtime.errors import InputError
from paft.runtime.launch import run_on
from paft.training.module import PaftModule
from tests.conftest import compose_config, small_run
from tests.jobs.test_metrics import LENGTH
from tests.model.test_graphs import Recorder
from tests.reliability.bad_inputs.files import lines
from tests.training.test_by_loss import OWN as BY_LOSS
from tests.training.test_losses import CONSISTENT, TILTED
from tests.training.test_perturbed import OWN as PERTURBED
from tests.training.test_probe import WORST

STATIC = "model.attention=varlen"  # shapes of micro-batches come again, so that graphs are replayed, as on a card
UNLABELLED = [*CONSISTENT, "loss.unlabelled=unlabelled.jsonl", "loss.unlabelled_per_update=2", "dataset.answer=letter", STATIC]
ODD = ["train_examples=25", "trainer.micro_batch_tokens=256"]  # the last update of an epoch has one example: rank 1 has none
RUNS = {  # by name, how a run trains
    "uniform": [*ODD, "score_base=true"],
    "tilted": [*ODD, *TILTED, STATIC],
    "consistent": [*ODD, *CONSISTENT, STATIC],
    "perturbed": [*PERTURBED, "train_examples=40", STATIC],
    "worst_of": [*WORST, "train_examples=25", STATIC],
    "by_loss": [*BY_LOSS, "sampler.lag=6", "T=3", STATIC],
    "unlabelled": UNLABELLED,
    "unlabelled_by_loss": [*UNLABELLED, "sampler=by_loss", "sampler.lag=2", "K=1"],
    "written": [
        "dataset=jsonl", "dataset.path=.", "dataset.gold=a", "dataset.answer=text", "dataset.metric=m.py:score",
        "prompts.train=mine.jsonl", "prompts.test=unseen.jsonl", "T=1", "train_examples=8",
        "eval_examples=2", "eval_prompts=2", "validation.examples=1",
    ],
}  # fmt: skip
NEAR_ZERO = {"perturbed": 1e-6, "unlabelled": 1e-6, "unlabelled_by_loss": 1e-6}  # by how much what they log may differ there


def trained(devices: int, overrides: list[str], root: Path) -> Path:
    """Train on so many ranks; return the run's folder."""
    config = compose_config(*overrides, f"output_root={root}")
    run_on(devices, "cpu", run_training, config)
    return root / config.run_name


def train_all(configs: Sequence[TrainConfig]) -> None:
    """Train one run after the other, by draws that go by noise, too: a random model's losses have hardly anything else."""
    by_loss._LUCK = 0.0
    for config in configs:
        run_training(config)


@pytest.fixture(scope="module")
def runs(tiny_llama, tmp_path_factory) -> tuple[dict[str, dict[str, Path]], Path, str]:
    """By name of a run and by way to train it, the run's folder; and a place for a last run, and why that was refused.

    Two ranks start once for all runs.
    """
    place = tmp_path_factory.mktemp("ranks")
    rows = [{**row, "answer": "?"} for row in list(generate_rows("train", 400))[-5:]]
    (place / "unlabelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, first in (("train", 0), ("test", 100)):
        (place / f"{name}.jsonl").write_text(lines(*({"q": f"After {n}?", "a": f"{n + 1}"} for n in range(first, first + 30))))
    (place / "mine.jsonl").write_text(lines({"text": "{q} Say:"}, {"text": "Question: {q}\nAnswer:"}))
    (place / "unseen.jsonl").write_text(lines(*({"text": f"{i} {{q}} It is"} for i in ("Well,", "Now then,"))))
    (place / "m.py").write_text(LENGTH)

    def configs(way: str, devices: int = 1) -> list[TrainConfig]:
        ran = [[*small_run(tiny_llama, place / way / name), *own] for name, own in RUNS.items()]
        return [compose_config(*overrides, f"trainer.devices={devices}") for overrides in ran]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(place)
        patch.setattr(by_loss, "_LUCK", by_loss._LUCK)  # so that it is put back
        ways = {"one": configs("one"), "two": configs("two", 2), "graphs": configs("graphs")}
        train_all(ways["one"])
        refused = compose_config(*small_run(tiny_llama, place / "refused"), "cutoff=2", "trainer.devices=2")
        with pytest.raises(InputError) as raised:
            run_on(2, "cpu", train_all, [*ways["two"], refused])
        recorders: list[Recorder] = []

        def replay(module: PaftModule) -> None:
            recorders.append(Recorder())
            module.replay_graphs(recorders[-1])

        patch.setattr(PaftModule, "on_train_start", replay)
        train_all(ways["graphs"])
        assert all(r.recordings < r.replays for name, r in zip(RUNS, recorders, strict=True) if name != "written")  # one update
    found = {name: {way: place / way / name / ran[i].run_name for way, ran in ways.items()} for i, name in enumerate(RUNS)}
    return found, place / "refused", str(raised.value)


@pytest.fixture(scope="module")
def folders(runs) -> dict[str, dict[str, Path]]:
    """By name of a run and by way to train it, the run's folder."""
    return runs[0]


def trajectory(folder: Path) -> dict[str, list[float]]:
    """By column of the log, what every update wrote: loss, gradient norm, learning rate, template, and more of some runs."""
    (path,) = folder.glob("log/version_*/metrics.csv")
    rows = [row for row in csv.DictReader(path.open(encoding="utf-8")) if row["loss"]]
    return {
        name: [float(row[name] or "nan") for row in rows]
        for name in rows[0]
        if name != "tokens_per_s" and not name.startswith("validation")
    }


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_are_one_process_within_rounding(folders, name):
    same_updates(folders[name]["two"], folders[name]["one"], 1e-3, NEAR_ZERO.get(name, 0.0))


@pytest.mark.parametrize("name", RUNS)
def test_replayed_graphs_change_nothing_but_rounding(folders, name):
    same_updates(folders[name]["graphs"], folders[name]["one"], 1e-5, NEAR_ZERO.get(name, 0.0))


def same_updates(found: Path, wanted: Path, relative: float, absolute: float = 0.0) -> None:
    """Check that all updates of two runs wrote the same within these tolerances."""
    found_columns, wanted_columns = trajectory(found), trajectory(wanted)
    assert [*found_columns] == [*wanted_columns]
    for column, values in wanted_columns.items():
        np.testing.assert_allclose(found_columns[column], values, relative, absolute, err_msg=column)


def accuracies(folder: Path) -> list[tuple[str, ...]]:
    """The accuracy of each prompt of a run, and over how many examples, as its table has them."""
    with (folder / "per_prompt.csv").open(encoding="utf-8", newline="") as file:
        return [(row["prompt_id"], row["accuracy"], row["n"]) for row in csv.DictReader(file)]


def test_two_ranks_leave_what_one_process_leaves(folders):
    one, two = folders["uniform"]["one"], folders["uniform"]["two"]
    same_updates(two, one, 1e-4)
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, two)]
    for key in adapters[0]:
        torch.testing.assert_close(adapters[1][key], adapters[0][key], rtol=1e-3, atol=2e-5)
    cells = [read_cells(folder / "matrix.parquet").to_pydict() for folder in (one, two)]
    assert cells[0]["predicted"] == cells[1]["predicted"] and cells[0]["example_digest"] == cells[1]["example_digest"]
    np.testing.assert_allclose(np.concatenate(cells[1]["log_probs"]), np.concatenate(cells[0]["log_probs"]), atol=1e-3)
    assert {p.relative_to(one) for p in one.rglob("*")} == {p.relative_to(two) for p in two.rglob("*")}
    assert read_results(two).device.ranks == 2
    assert accuracies(one) == accuracies(two)


def test_two_ranks_score_the_base_model_together(folders):
    one, two = (read_results(folders["uniform"][way]) for way in ("one", "two"))
    assert one.beside["base"].run == two.beside["base"].run
    assert one.beside["base"].robustness == two.beside["base"].robustness and two.device.ranks == 2
    assert len([*folders["uniform"]["two"].parent.glob("*/results.json")]) == 2


def test_two_ranks_score_what_one_has_written(folders):
    """Also in validation, whose scores every rank has to know."""
    results = read_results(folders["written"]["two"])
    cells = read_cells(results.folder / "matrix.parquet").to_pylist()
    assert all(cell["correct"] == min(1, len(cell["output"]) / 4000) for cell in cells) and len(cells) == 4
    assert results.device.ranks == 2 and 0 < results.training.best_validation_mean < 1


def test_each_run_does_what_it_is_here_for(folders):
    def logged(name: str, column: str) -> list[float]:
        return trajectory(folders[name]["one"])[column]

    assert logged("tilted", "effective_templates")[0] == 4 and min(logged("tilted", "effective_templates")) < 3.99
    assert min(logged("consistent", "disagreement")) > 0 and min(logged("unlabelled", "disagreement")) > 0
    assert logged("perturbed", "perturbation")[:2] == [0, 0] and min(logged("perturbed", "perturbation")[3:]) > 0
    assert max(logged("worst_of", "probe_margin")) > 0
    assert min(logged("by_loss", "effective_pool")) < 0.95 * logged("by_loss", "effective_pool")[0]


def test_what_goes_wrong_on_ranks_is_one_sentence(runs):
    """Behind runs that went well: the sentence comes from the processes that have trained them."""
    _, place, said = runs
    assert "which cutoff=2 has no room for" in said and "\n" not in said
    assert not place.exists()

"""The two gates: their figures by definition, and the whole command on real runs of the tiny Llama."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.gates.__main__ import main
from experiments.gates.measure import Gates
from experiments.gates.page import says
from experiments.gates.persistence import Lasting, explained, of_families, persistence
from experiments.gates.probe import gradient, losses, probe_of
from experiments.gates.signal import Signal, signal
from experiments.gates.transfer import Transfer
from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.jobs.one_run import prepare
from paft.model.base import add_lora, load_base
from paft.prompts import PromptTemplate
from paft.runtime.errors import InputError
from tests.conftest import small_run

SMALL = ["dataset=story_facts", "prompts=v2", "evaluate=false", "K=1"]


def template(wording: str, layout: str) -> PromptTemplate:
    return PromptTemplate("{story}", "id", wording=wording, layout=layout)


def test_persistence_is_the_rank_correlation_of_neighbours_on_other_rows():
    order, other = np.array([1.0, 2, 3, 4]), np.array([4.0, 1, 3, 2])
    by_half = np.stack([np.stack([order, other], 1), np.stack([10 * other, 10 * order], 1), np.stack([order, -order], 1)])
    assert persistence(by_half).tolist() == pytest.approx([1, (-np.corrcoef([3, 0, 2, 1], range(4))[0, 1] + 1) / 2])


def test_what_belongs_to_a_row_and_not_to_a_template_does_not_persist():
    rng = np.random.default_rng(0)
    template, row_by_template = rng.normal(size=(500, 1)), 3 * rng.normal(size=(500, 2))
    assert abs(persistence(np.stack([row_by_template, row_by_template]))[0]) < 0.15
    assert persistence(np.stack([template + 0 * row_by_template] * 2))[0] == pytest.approx(1)


def test_losses_of_families_are_means_of_their_templates():
    by_half = np.arange(12.0).reshape(1, 6, 2)
    np.testing.assert_allclose(of_families(by_half, list("abbaab")), [[[14 / 3, 17 / 3], [16 / 3, 19 / 3]]])


def test_families_explain_what_is_additive_in_them_and_nothing_else():
    rng = np.random.default_rng(0)
    names = [(w, layout) for w in "abcde" for layout in "vwxyz" for _ in range(4)]
    templates = [template(*name) for name in names]
    effects = dict(zip("abcdevwxyz", rng.normal(size=10), strict=True))
    additive = np.array([effects[w] + effects[layout] for w, layout in names])
    assert explained(additive, templates) == pytest.approx(1)
    assert abs(np.mean([explained(rng.normal(size=len(names)), templates) for _ in range(50)])) < 0.05  # adjusted: no gift
    assert np.isnan(explained(additive[:5], [template(w, w) for w in "abcde"]))


@pytest.fixture
def probed(tiny_llama, tmp_path):
    config = compose_training([*small_run(tiny_llama, tmp_path), *SMALL, "eval_prompts=null", "eval_examples=3", "seed=0"])
    run = prepare(config)
    model = add_lora(load_base(config.model, torch.device("cpu"), True), config.model, 0).eval()
    return model, probe_of(run, 6)


def test_a_loss_is_that_of_plain_cross_entropy(probed):
    model, probe = probed
    found = losses(model, replace(probe, tokens=300), probe.train, torch.device("cpu"))
    assert found.shape == (6, 3)
    encoded = probe.encoder.training(probe.train[2], probe.rows[1])
    ids = torch.tensor([encoded.context + encoded.continuations[0]])
    labels = ids.clone()
    labels[0, : len(encoded.context)] = -100
    with torch.no_grad():
        plain = model(input_ids=ids, labels=labels).loss
    assert found[2, 1] == pytest.approx(float(plain), abs=1e-4)


def test_a_gradient_is_that_of_the_mean_loss_however_it_is_split(probed):
    model, probe = probed
    whole = gradient(model, replace(probe, tokens=10_000), probe.train[0], torch.device("cpu"))
    parts = gradient(model, replace(probe, tokens=200), probe.train[0], torch.device("cpu"))
    assert whole.norm() > 0 and torch.allclose(whole, parts, atol=1e-5 * float(whole.norm()))


def gates(correlation: float, families: float, rank: float, fewest: float, loss: float = 1.0, most: float = 0.9) -> Gates:
    at_random, lasting = np.linspace(0, 1, 200), Lasting(np.full(2, correlation), np.full(3, most))
    return Gates(0, [25, 50, 75], np.full((3, 20, 2), loss), lasting, lasting, lasting, [families] * 3,
                 {75: Transfer(rank, at_random)}, Signal(200, fewest, np.linspace(190, 200, 20)))  # fmt: skip


@pytest.mark.parametrize(
    ("found", "sentences"),
    [
        (
            gates(0.8, 0.6, 0.99, 150),
            ["persist over 25", "families can stand", "hard mining may help", "1 of 1 runs: they tell"],
        ),
        (
            gates(0.2, 0.1, 0.5, 195),
            ["do not persist", "families cannot stand", "is not shown to help", "0 of 1 runs: they are not shown to tell"],
        ),
        (gates(0.8, 0.6, 0.5, 189), ["from 94.5 percent of the templates", "1 of 1 runs: they tell templates apart."]),
        (gates(0.8, 0.6, 0.5, 150, loss=0.01), ["whether losses persist is not known"]),
        (gates(0.3, 0.6, 0.5, 150, most=0.5), ["persist over 25", "a ratio of 0.60"]),
        (gates(0.1, 0.6, 0.5, 150, most=0.2), ["is not known: the rows hardly tell templates apart"]),
        (gates(0.1, 0.6, 0.5, 150, most=float("nan")), ["is not known: the rows hardly tell templates apart"]),
    ],
)
def test_what_the_gates_decide_is_said(found, sentences):
    said = " ".join(says([found]))
    assert all(sentence in said for sentence in sentences) and "Fewer than three: exploratory" in said


def test_seeds_on_both_sides_of_the_bound_decide_nothing():
    found = [gates(0.3, 0.6, 0.5, 150), gates(0.5, 0.6, 0.5, 150), gates(0.8, 0.6, 0.5, 150)]
    said = says(found)[0]
    assert "is not decided, because seeds differ" in said and "by seed 0.33, 0.56, 0.89" in said
    assert "Losses of templates persist" in says(found[1:])[0] and "do not persist" in says(found[:1])[0]


def test_losses_that_tell_templates_apart_are_a_signal_and_others_are_none(tiny_llama, tmp_path):
    run = prepare(compose_training([*small_run(tiny_llama, tmp_path), *SMALL, "T=2", "train_examples=1600"]))
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(run.inputs.train.templates), size=400).tolist()
    wordings = sorted({template.wording for template in run.inputs.train.templates})
    hard = [wordings.index(template.wording) % 3 == 0 for template in run.inputs.train.templates]
    found = signal([(i, 3.0 if hard[i] else 1.0) for i in drawn], run)
    assert found.pool == len(hard) and found.fewest < 0.9 * found.shuffled.min()
    none = signal([(i, float(np.exp(rng.normal()))) for i in drawn], run)
    assert none.fewest > 0.9 * none.pool


def test_the_command_measures_every_state_and_goes_on_with_finished_runs(tiny_llama, tmp_path, monkeypatch, capsys):
    small = [*small_run(tiny_llama, tmp_path / "runs"), "train_examples=200", "T=2", "eval_prompts=2", "eval_examples=4"]
    arguments = [*small, "--seeds", "0", "--templates", "20", "--examples", "2", "--report", str(tmp_path / "page")]
    monkeypatch.setattr(sys, "argv", ["gates", *arguments])
    run_plain(main)
    content = json.loads((tmp_path / "page" / "results.json").read_text())
    (one,) = content["gates"]
    assert one["updates"] == [25, 50] and np.array(one["by_half"]).shape == (2, 20, 2)
    assert [len(own["later"]) for own in one["persistence"].values()] == [1] * 3  # templates, wordings, layouts
    assert set(one["transfer"]) <= {"25", "50"} and all(len(t["at_random"]) == 200 for t in one["transfer"].values())
    assert one["signal"]["fewest"] == pytest.approx(one["signal"]["pool"])  # 50 updates are three blocks and a half
    page = (tmp_path / "page" / "README.md").read_text()
    assert "| 0 | 25 to 50 |" in page
    run_plain(main)  # the run is finished, and measured again
    assert json.loads((tmp_path / "page" / "results.json").read_text())["gates"] == [one]
    (state,) = tmp_path.glob("runs/*/checkpoints/update-*25.*")
    state.unlink()
    with pytest.raises(SystemExit):
        run_plain(main)
    assert "its states, 25 updates apart, are not all there" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["gates", "--report", str(tmp_path / "page"), "--kept"])
    run_plain(main)  # of what the page keeps, without the run, whose states are not all there
    assert json.loads((tmp_path / "page" / "results.json").read_text()) == content
    assert (tmp_path / "page" / "README.md").read_text() == page
    (tmp_path / "page" / "results.json").unlink()
    with pytest.raises(InputError, match="leave --kept out"):
        main()


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["--templates", "5"], "--templates must be at least 20"),
        (["--kept", "--seeds", "0"], "nothing is measured, so that seeds cannot be chosen"),
        (["evaluate=true"], "leave evaluate=false"),
        (["schedule.unit=row"], "uniform draws of one template an update"),
        (["sampler=balanced"], "uniform draws of one template"),
    ],
)
def test_bad_input_is_one_sentence(tiny_llama, tmp_path, monkeypatch, capsys, typed, sentence):
    small = small_run(tiny_llama, tmp_path)
    monkeypatch.setattr(sys, "argv", ["gates", *small, *[t for t in typed if "=" in t], "--report", str(tmp_path / "page"),
                                      *[t for t in typed if "=" not in t]])  # fmt: skip
    with pytest.raises(SystemExit) as exit_:
        run_plain(main)
    assert exit_.value.code == 2 and sentence in capsys.readouterr().err and not (tmp_path / "page").exists()

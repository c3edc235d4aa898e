"""Static shapes and replayed graphs change nothing that a run learns, and a run goes on with the kernels that it had."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paft.data.batch import pack_answers
from paft.jobs.train import run_training
from paft.model.attention import packs_ragged
from paft.model.graphs import shape_of
from paft.packing import map_tensors
from paft.training.checkpoints import states
from paft.training.kernels import CHANGED, EARLIER, recorded_kernels
from paft.training.losses import answer_loss
from paft.training.module import PaftModule
from tests.conftest import compose_config, interrupt_before_its_adapter_is_saved
from tests.model.test_graphs import Recorder
from tests.training.test_module import PAIRS, adapted, gradients, losses


def test_nothing_reads_what_pads_a_row(tiny_llama):
    model = adapted(tiny_llama, attention="varlen")
    assert packs_ragged(model)
    batch = pack_answers(PAIRS, ragged=True)
    n_real = sum(len(context) + len(answer) - 1 for context, answer in PAIRS)
    n_targets = sum(len(answer) for _, answer in PAIRS)
    ids, positions = batch.packing.input_ids.clone(), batch.positions.clone()
    assert ids.shape == (1, 128) and batch.targets[n_targets:].eq(-100).all()
    ids[:, n_real:] = 77
    positions[n_targets:] = n_real + 3
    other = replace(batch, packing=replace(batch.packing, input_ids=ids), positions=positions)
    one, another = answer_loss(model, batch), answer_loss(model, other)
    assert torch.equal(one, another)
    for a, b in zip(gradients(model, one), gradients(model, another), strict=True):
        assert torch.equal(a, b)


def test_updates_of_many_lengths_have_few_shapes():
    numbers = random.Random(0)
    updates = [[([1] * numbers.randrange(40, 200), [2, 3]) for _ in range(8)] for _ in range(300)]
    batches = [pack_answers(update, ragged=True) for update in updates]
    assert len({shape_of(batch) for batch in batches}) <= 16
    padding = [
        batch.packing.input_ids.shape[1] / sum(len(c) + 1 for c, _ in u) for batch, u in zip(batches, updates, strict=True)
    ]
    assert max(padding) < 1.25 and sum(padding) / len(padding) < 1.1


def places_of_gradients(module: PaftModule) -> list[int]:
    return [p.grad.data_ptr() for p in module.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_run_by_graphs_is_a_run_without_them(tiny_overrides, tmp_path, monkeypatch, dropout):
    """Recording is played by a function that reads static tensors; everything else is what happens on a GPU."""
    overrides = [*tiny_overrides, "model.attention=varlen", f"model.lora.dropout={dropout}", "trainer.micro_batch_tokens=200"]
    usual = losses(compose_config(*overrides))
    recorder, places = Recorder(), []

    def begin(module):
        module.replay_graphs(recorder)
        places.append(places_of_gradients(module))

    monkeypatch.setattr(PaftModule, "on_train_start", begin)
    monkeypatch.setattr(PaftModule, "on_train_end", lambda module: places.append(places_of_gradients(module)))
    assert losses(compose_config(*overrides, f"output_root={tmp_path / 'graphs'}")) == pytest.approx(usual, rel=1e-6)
    assert places[0] == places[1]  # also after validation, before which Lightning drops all gradients
    assert recorder.recordings < recorder.replays
    (results,) = tmp_path.glob("graphs/*/results.json")
    assert json.loads(results.read_text())["training"]["kernels"] == {
        "attention": "paft_varlen", "fused": "torch", "graphs": recorder.recordings
    }  # fmt: skip


def test_ragged_rows_train_as_rectangles_do(tiny_overrides, tmp_path):
    usual = losses(compose_config(*tiny_overrides, "model.attention=sdpa"))
    ragged = losses(compose_config(*tiny_overrides, "model.attention=varlen"))
    assert ragged == pytest.approx(usual, rel=1e-4)


def test_a_run_that_goes_on_elsewhere_says_so_and_its_results_do(tiny_overrides, monkeypatch, capsys):
    config = compose_config(*tiny_overrides, "trainer.checkpoint_every=2")
    interrupt_before_its_adapter_is_saved(config, monkeypatch)
    for path in states(Path(config.output_root) / config.run_name / "checkpoints"):
        state = torch.load(path, weights_only=True)
        assert state["kernels"] == {
            "device": "cpu", "attention": "paft_sdpa", "fused": "torch", "graphs": False, "changed": False
        }  # fmt: skip
        state["kernels"]["device"] = "NVIDIA H100"
        torch.save(state, path)
    results = run_training(config)
    assert "BEWARE" in capsys.readouterr().out
    assert CHANGED in results.warnings


def test_gradients_are_added_where_graphs_expect_them(tiny_llama):
    model = adapted(tiny_llama, attention="varlen")
    batch = pack_answers(PAIRS, ragged=True)
    wanted = gradients(model, answer_loss(model, batch))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    places = [p.grad.data_ptr() for p in model.parameters() if p.requires_grad]
    answer_loss(model, map_tensors(batch, torch.clone)).backward()
    assert [p.grad.data_ptr() for p in model.parameters() if p.requires_grad] == places
    for a, b in zip((p.grad for p in model.parameters() if p.requires_grad), wanted, strict=True):
        assert torch.equal(a, b)


def test_an_operation_that_cannot_repeat_its_sums_is_said_once(tiny_overrides, monkeypatch, capsys):
    calls = []

    def not_deterministic(model, batch):
        calls.append(torch.is_deterministic_algorithms_warn_only_enabled())
        if not calls[-1]:
            raise RuntimeError("histc does not have a deterministic implementation, but you set it. Turn it off.")
        return answer_loss(model, batch)

    monkeypatch.setattr("paft.training.update_loss.answer_loss", not_deterministic)
    try:
        run_training(compose_config(*tiny_overrides))
    finally:
        torch.use_deterministic_algorithms(False)
    said = "BEWARE: this run cannot be repeated bit for bit on this device (histc does not have a deterministic implementation"
    assert capsys.readouterr().out.count(said) == 1 and calls[0] is False and all(calls[1:])


def test_a_state_of_an_earlier_version_is_no_reason_for_silence(tmp_path):
    assert recorded_kernels(tmp_path, "run") is None
    torch.save({"run": "run", "state_dict": {"a": torch.zeros(1)}}, tmp_path / "update-0000004.ckpt")
    assert recorded_kernels(tmp_path, "run") == EARLIER and recorded_kernels(tmp_path, "another") is None

"""Unlabelled rows: predictions are to agree there, no answer of theirs is read, and what cannot be compared is left out."""

import json
from itertools import groupby
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from paft.config.schema import LossConfig
from paft.data.batch import IGNORED
from paft.data.datamodule import PaftDataModule
from paft.data.tasks.story_facts import generate_rows
from paft.jobs.one_run import prepare
from paft.jobs.train import run_training
from paft.runtime.errors import InputError
from paft.training.update_loss import UpdateLoss, UpdatePart
from tests.conftest import compose_config, whole_and_resumed
from tests.training.test_losses import ADAPTER, CONSISTENT
from tests.training.test_module import adapted


@pytest.fixture
def own(tiny_overrides, tmp_path) -> list[str]:
    path = tmp_path / "unlabelled.jsonl"
    rows = [{**row, "answer": "?"} for row in list(generate_rows("train", 400))[-5:]]
    del rows[0]["answer"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [*tiny_overrides, *CONSISTENT, f"loss.unlabelled={path}", "loss.unlabelled_per_update=2", "dataset.answer=letter"]


def data_of(*overrides: str) -> PaftDataModule:
    run = prepare(compose_config(*overrides))
    examples, ragged = run.inputs.examples, run.config.model.attention == "varlen"
    return PaftDataModule(
        examples.train, run.inputs.train, run.encoder, run.config, examples.task, ragged, unlabelled=examples.unlabelled
    )


def test_they_come_in_turn_beside_the_others_under_all_templates_of_the_update(own):
    data = data_of(*own)
    updates = [update for epoch in range(2) for update in data.updates.of_epoch(epoch)]
    rows = []
    for update in updates:
        shown = {row: [tag.template for tag in of] for row, of in groupby(update, key=lambda tag: tag.row)}
        assert len({tuple(templates) for templates in shown.values()}) == 1
        rows += [row for row in shown if row >= 24]
    assert len(rows) == 2 * len(updates) == 24
    turns = [rows[i : i + 4] for i in range(0, 24, 4)]  # of five rows, of which one waits for the next turn
    assert all(len({*turn}) == 4 for turn in turns) and {*rows} == {*range(24, 29)} and len({*map(tuple, turns)}) > 1
    assert list(data.updates.of_epoch(1, first_update=3)) == updates[len(updates) // 2 + 3 :]


@pytest.mark.parametrize("toward", ["best", "mean"])
@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_the_loss_is_written_out_by_torchs_divergence(own, tiny_llama, toward, attention):
    model = adapted(tiny_llama, attention=attention)
    plain = adapted(tiny_llama, attention="sdpa")
    found = []
    for tokens in (100_000, 1):
        data = data_of(*own, f"model.attention={attention}", f"trainer.micro_batch_tokens={tokens}")
        tagged = next(iter(data.updates.of_epoch(0)))
        update = data.renderings[tagged]
        update_loss = UpdateLoss(LossConfig(name="consistent", weight=2, toward=toward), 10, paired=True)
        numbers = torch.tensor(float(update.n_targets)), torch.tensor(2.0), torch.tensor(float(update.n_compared))
        found.append(sum(update_loss.sums(model, UpdatePart(batch, *numbers))[0] for batch in update.micro_batches))
    asked = [tag for tag in tagged if tag.row >= 24]
    assert len(asked) == 4 and update.targets[-4:] == [0] * 4 and update.n_compared == update.n_targets + 4
    wanted = torch.zeros(())
    for _, of in groupby(tagged, key=lambda tag: tag.row):
        predictions, scores = [], []
        for tag in of:
            encoded = data.renderings._encoded(tag)
            context, answer = encoded.context, encoded.continuations[0] if tag.row < 24 else [IGNORED]
            logits = plain(torch.tensor([context + answer[:-1]])).logits[0, len(context) - 1 :]
            predictions.append(logits.log_softmax(-1))
            if answer == [IGNORED]:
                scores.append(torch.distributions.Categorical(logits=logits).entropy())
            else:
                scores.append(F.cross_entropy(logits, torch.tensor(answer), reduction="none"))
                wanted = wanted + scores[-1].sum() / update.n_targets
        a, b = predictions
        target = torch.where((scores[0] <= scores[1])[:, None], a, b).detach()
        if toward == "best":
            apart = sum(F.kl_div(p, target, log_target=True, reduction="none").sum() for p in predictions) / 2
        else:
            mean = ((a.exp() + b.exp()) / 2).log()
            apart = sum(F.kl_div(mean, p, log_target=True, reduction="none").sum() for p in predictions) / 2
        wanted = wanted + 2 * 2 * apart / update.n_compared
    for loss in found:
        torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-6)


def test_rows_whose_answers_have_other_tokens_under_another_template_are_left_out(own):
    data = data_of(*own, "sampler.mutations=[option_style]")
    tagged = next(iter(data.updates.of_epoch(0)))
    whole = len(data.renderings[tagged].templates)
    letters = iter(["AB", "BA"] * 40)
    asking = data.renderings.encoder.asking

    def other(*given):
        encoded = asking(*given)
        return type(encoded)(encoded.context, [[ord(letter)] for letter in next(letters)], False)

    data.renderings.encoder.asking = other
    update = data.renderings[tagged]
    assert len(update.templates) == whole - 4 and 0 not in update.targets


def test_a_resumed_run_is_an_undisturbed_one_bit_for_bit(own, tmp_path, monkeypatch):
    whole, resumed = whole_and_resumed([*own, "trainer.checkpoint_every=2"], tmp_path / "again", monkeypatch)
    assert (resumed.folder / ADAPTER).read_bytes() == (whole.folder / ADAPTER).read_bytes()
    assert "unlabelled" in whole.fingerprints.data


def test_answers_of_unlabelled_rows_are_not_read_and_agree_in_the_name_of_the_run(own, tmp_path):
    def identity_of(answer: str) -> str:
        path = Path(next(o for o in own if "loss.unlabelled=" in o).split("=", 1)[1])
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "answer": answer}) + "\n" for row in rows))
        return prepare(compose_config(*own)).inputs.examples.fingerprints["unlabelled"]

    assert identity_of("Mia") == identity_of("nobody at all")


def test_scored_rows_among_them_are_said(own):
    path = Path(next(o for o in own if "loss.unlabelled=" in o).split("=", 1)[1])
    path.write_text("".join(json.dumps(row) + "\n" for row in list(generate_rows("test", 100))))
    warnings = prepare(compose_config(*own)).inputs.warnings
    assert any("are among the unlabelled rows" in warning and "transduction" in warning for warning in warnings)


def test_without_them_names_stay_and_with_another_loss_they_are_refused(own, tiny_overrides):
    assert "unlabelled" not in compose_config(*tiny_overrides, *CONSISTENT).identity()["loss"]
    with pytest.raises(InputError, match=r"loss\.unlabelled gives rows for loss=consistent"):
        compose_config("loss=mean", "+loss.unlabelled=rows.jsonl")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"story": "A.", "question": "B?"}], r"unlabelled\.jsonl, line 1: the row lacks the field"),
        ([], "unlabelled.jsonl: the data file is empty"),
        ("one", "loss.unlabelled_per_update=2: .* has 1 rows"),
        (None, "unlabelled.jsonl"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(own, rows, said):
    path = Path(next(o for o in own if "loss.unlabelled=" in o).split("=", 1)[1])
    if rows is None:
        path.unlink()
    else:
        rows = [next(iter(generate_rows("train", 5)))] if rows == "one" else rows
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=said):
        prepare(compose_config(*own))


def test_an_option_longer_than_the_cutoff_is_named(own):
    path = Path(next(o for o in own if "loss.unlabelled=" in o).split("=", 1)[1])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["A"] = "the barn " * 2000
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"unlabelled\.jsonl, line 3: an answer has"):
        prepare(compose_config(*own, "dataset.answer=text"))


def test_an_update_of_results_counts_them(own):
    results = run_training(compose_config(*own))
    shown = sum(map(sum, results.training.drawn.wordings.values()))
    assert shown == 24 * 2 * 2 + results.training.updates * 4

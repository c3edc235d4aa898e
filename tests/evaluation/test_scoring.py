"""Scoring equals a naive pass, one rendering and one choice at a time; robustness is plain arithmetic."""

import numpy as np
import pytest
import torch

from paft.data.encode import Encoder
from paft.data.story_facts import generate_rows
from paft.data.task import BUILT_IN
from paft.evaluation.generation import is_right, last_number
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.robustness import robustness
from paft.evaluation.scoring import choice_log_probs, score
from paft.evaluation.store import MatrixStore
from paft.model.base import load_base, load_tokenizer
from paft.prompts import PromptPool, PromptTemplate
from paft.reporting.results import summarise
from tests.model.test_module import LoraConfig, ModelConfig

TEXTS = ("{story}\n{question}\n{A}, {B}, {C}, {D}\nAnswer:", "A {A} B {B} C {C} D {D} {story} {question} =>")


@pytest.fixture(params=["text", "letter"])
def setting(request, tiny_llama):
    lora = LoraConfig(r=4, alpha=8, dropout=0.0, target_modules=["q_proj"])
    config = ModelConfig(path=str(tiny_llama), dtype="fp32", lora=lora)
    model = load_base(config, torch.device("cpu"))
    task = BUILT_IN["story_facts"]
    examples = [task.example("row", row, str(i), "all") for i, row in enumerate(generate_rows("test", 5))]
    pool = PromptPool("p", tuple(PromptTemplate(t, str(i)) for i, t in enumerate(TEXTS)), request.param, "shown")
    return model, Encoder(load_tokenizer(config), request.param, 1024), pool, examples


def naive(model, context, continuation):
    with torch.no_grad():
        log_probs = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
    return sum(float(log_probs[len(context) - 1 + i, token]) for i, token in enumerate(continuation))


def test_log_probs_equal_a_naive_pass(setting):
    model, encoder, pool, examples = setting
    cells = [encoder.scoring(template, example) for template in pool.templates for example in examples]
    with torch.no_grad():
        together = choice_log_probs(model, cells)
    for cell, got in zip(cells, together, strict=True):
        assert got.tolist() == pytest.approx([naive(model, cell.context, c) for c in cell.continuations], abs=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 150, 100_000])
def test_the_matrix_does_not_depend_on_the_batches(setting, batch_tokens):
    model, encoder, pool, examples = setting
    matrix = score(model, encoder, pool, examples, metric="choice", batch_tokens=batch_tokens)
    for p, template in enumerate(pool.templates):
        for e, example in enumerate(examples):
            cell = encoder.scoring(template, example)
            scores = [naive(model, cell.context, c) for c in cell.continuations]
            assert matrix.correct[p, e] == (int(np.argmax(scores)) == example.gold)


class Killed(BaseException):
    """What a test calls a kill."""


def test_a_killed_evaluation_goes_on_where_it_was(setting, tmp_path, monkeypatch):
    model, encoder, pool, examples = setting
    batches: list[int] = []
    kill_at = 0

    def counted(model, cells):
        batches.append(len(cells))
        if len(batches) == kill_at:
            raise Killed
        return choice_log_probs(model, cells)

    def run(folder, adapter="one"):
        folder.mkdir(exist_ok=True)
        batches.clear()
        store = MatrixStore(folder, {"adapter": adapter})
        return score(model, encoder, pool, examples, metric="choice", batch_tokens=300, store=store)

    monkeypatch.setattr("paft.evaluation.scoring.choice_log_probs", counted)
    whole, plan = run(tmp_path / "whole"), list(batches)
    assert len(plan) > 3
    kill_at, killed = 3, tmp_path / "killed"
    with pytest.raises(Killed):
        run(killed)
    (parts,) = killed.glob(".matrix-*")
    assert sorted(path.name for path in parts.iterdir()) == ["000000.parquet", "000001.parquet"]
    (parts / "000001.parquet").write_bytes(b"torn")
    kill_at = 0
    again = run(killed)
    assert batches == plan[1:] and not parts.exists()
    assert np.array_equal(again.predicted, whole.predicted) and np.array_equal(again.correct, whole.correct)
    assert (killed / "matrix.parquet").read_bytes() == (tmp_path / "whole" / "matrix.parquet").read_bytes()
    run(killed)
    assert not batches  # finished already
    run(killed, adapter="other")
    assert batches == plan  # another matrix


def test_robustness_is_plain_arithmetic():
    correct = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)
    matrix = ScoreMatrix(
        prompt_ids=("a", "b", "c"),
        example_ids=("1", "2", "3", "4"),
        parts=("x", "x", "y", "y"),
        groups=("1", "2", "3", "4"),
        n_choices=(2, 2, 4, 0),
        gold=np.zeros(4, dtype=np.int64),
        predicted=np.where(correct, 0, 1),
        correct=correct,
        truncated=np.zeros((3, 4), dtype=bool),
    )
    found = robustness(matrix, threshold=0.5)
    assert (found.mean, found.min, found.max, found.spread) == pytest.approx((7 / 12, 0.25, 1.0, 0.75))
    assert found.std == pytest.approx(np.std([1, 0.5, 0.25])) and found.top == pytest.approx(2 / 3)
    assert robustness(matrix, None).top is None
    assert matrix.chance == pytest.approx((0.5 + 0.5 + 0.25 + 0) / 4) and matrix.part("x").chance == 0.5
    parts = summarise(matrix, 0.5)["parts"]
    assert parts["x"]["mean"] == pytest.approx(5 / 6) and parts["y"]["n_examples"] == 2


def test_generated_answers_to_rows_with_choices_have_no_consensus():
    correct = np.array([[True, False], [False, True]])
    names, nothing = ("a", "b"), np.full((2, 2), -1)
    matrix = ScoreMatrix(names, names, names, names, (2, 2), np.zeros(2, dtype=np.int64), nothing, correct, correct & False)
    assert summarise(matrix, None)["consensus"] is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("#### 72", 72), ("it is $1,050.50.", 1050.5), ("from 3 to -4", -4), ("none", None), ("5 apples, 7.", 7), ("18.00", 18)],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_free_form_answers():
    assert is_right("so 6 + 6 = 12.\n#### 12", "#### 12", "last_number") and not is_right("", "#### 12", "last_number")
    assert is_right(" New  york\n", "New York", "exact") and not is_right("York", "New York", "exact")

"""The verdict: each of its sentences, at both sides of its thresholds, from synthetic scores."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from paft.reporting.verdict import Constant, Evidence, TrainingFacts, verdict

TRAINED = TrainingFacts(lr=1e-4, K=4, templates=60, templates_seen=60, rows=400, losses=(1.5, 0.4))
STILL = dataclasses.replace(TRAINED, losses=(1.5, 1.45))


def drawn(accuracy: float | np.ndarray, prompts: int = 20, examples: int = 200, seed: int = 0) -> np.ndarray:
    """Right and wrong of prompts with these true accuracies."""
    truth = np.broadcast_to(np.asarray(accuracy, dtype=float), (prompts,))
    return (np.random.default_rng(seed).random((prompts, examples)) < truth[:, None]).astype(float)


def evidence(correct: np.ndarray, **changes: Any) -> Evidence:
    content = {"groups": np.arange(correct.shape[1]), "chance": 0.25, "method": "paft", "trained": TRAINED} | changes
    return Evidence(correct, **content)


UNEVEN = np.where(np.arange(20) < 10, 0.9, 0.6)  # the first ten prompts are good
LAYOUTS = {"layout": ["lines"] * 10 + ["inline"] * 10}
OF_LENGTH = [*range(100, 110), *range(300, 310)]
BASE = drawn(0.4, seed=9)
CASES = {
    # nothing learnt
    "at chance": (evidence(drawn(0.25)), ["Not learnt: mean 2", "where guessing gets 25.0; try a larger model."]),
    "at chance, the loss stood still": (
        evidence(drawn(0.25), trained=STILL),
        ["Not learnt: ", "the training loss hardly fell (1.50 to 1.45), so try a larger optim.lr (it is 0.0001)."],
    ),
    "at chance, letters": (
        evidence(drawn(0.25), letters=True),
        ["try dataset.answer=text dataset.options=hidden, which smaller models can answer, or a larger model."],
    ),
    "at chance, few rows": (
        evidence(drawn(0.25), trained=dataclasses.replace(TRAINED, rows=199)),
        ["it was trained on 199 rows, so give more."],
    ),
    "an interval that leaves room": (
        evidence(drawn(0.27, prompts=12, examples=40)),
        ["Nothing shows that the task was learnt: mean "],
    ),
    "some prompts": (
        evidence(drawn(np.where(np.arange(12) < 3, 0.9, 0.1), prompts=12, examples=40)),
        ["Better than guessing, which gets 25.0, under 3 of 12 prompts, and not shown to be under the others: the best gets "],
    ),
    "one of two prompts": (
        evidence(drawn(np.array([0.95, 0.0]), 2), chance=0.5, method="base", trained=None),
        ["Better than guessing, which gets 50.0, under 1 of 2 prompts, and not ", "the worst 0.0; train it under many"],
    ),
    "some prompts, and others always the same": (
        evidence(
            np.stack([np.ones(200), *[np.arange(200) % 5 < 2] * 3]) * 1.0,
            chance=0.5,
            constant=Constant("B", (np.arange(200) % 5 >= 2) * 1.0),
        ),
        ["Better than always answering B, which gets 60.0, under 1 of 4 prompts, and", "the best gets 100.0, the worst 40.0; "],
    ),
    "below chance": (evidence(drawn(0.1)), ["Below chance: mean ", "where guessing gets 25.0; see whether dataset.gold names"]),
    "not one right": (evidence(np.zeros((20, 200))), ["Not one answer is right; see in report.html what the model answers"]),
    "free-form, not one right": (evidence(np.zeros((20, 200)), chance=0.0), ["Not one answer is right; see in report.html"]),
    "always the same answer": (
        evidence(np.tile(np.arange(200) % 2, (20, 1)) * 1.0, constant=Constant("B", (np.arange(200) % 2).astype(float))),
        ["Not learnt: mean 50.0", "where always answering B gets 50.0; try a larger model."],
    ),
    "better than always the same answer": (
        evidence(drawn(0.7), constant=Constant("B", (np.arange(200) % 2).astype(float))),
        ["It cannot be told whether the wording matters: it costs "],
    ),
    "few prompts at chance": (evidence(drawn(0.25, 6)), ["Not learnt: mean ", " under these 6 prompts, where guessing gets"]),
    "few prompts, above chance by luck": (
        evidence(drawn(0.22, 6, 60), chance=0.2),
        ["Nothing shows that the task was learnt: mean ", " under these 6 prompts, where guessing gets 20.0"],
    ),
    "too little of everything": (
        evidence(np.eye(4), chance=0.3),
        ["Not learnt: mean 25.0 on 4 prompts and 4 rows alone, too few for an interval, where guessing gets 30.0"],
    ),
    "a base model at chance": (
        evidence(drawn(0.25), method="base", trained=None),
        ["No better than guessing: mean ", "; train it, or try a larger model."],
    ),
    "a base model at chance, letters": (
        evidence(drawn(0.25), method="base", trained=None, letters=True),
        ["No better than guessing: mean ", "; try dataset.answer=text dataset.options=hidden"],
    ),
    # beside the base model
    "no better": (
        evidence(drawn(0.4, 40, 800), base=drawn(0.4, 40, 800, seed=9)),
        ["No better than the base model: mean ", "a difference of ", "try a larger optim.lr (it is 0.0001), or a larger mod"],
    ),
    "no better, the loss stood still": (
        evidence(drawn(0.4), base=BASE, trained=STILL),
        ["than the base model: mean ", "the training loss hardly fell (1.50 to 1.45), so try a larger optim.lr"],
    ),
    "no better, few rows": (
        evidence(drawn(0.4), base=BASE, trained=dataclasses.replace(TRAINED, rows=90)),
        ["it was trained on 90 rows, so give more."],
    ),
    "no better than a base model that can do it": (
        evidence(drawn(0.97), base=drawn(0.97, seed=9)),
        ["No better than the base model: ", "there is little left to gain, so try harder rows."],
    ),
    "the very same answers": (
        evidence(BASE, base=BASE),
        ["No better than the base model: ", "a difference of +0.0 points;"],
    ),
    "an interval that holds more": (
        evidence(drawn(0.42, examples=60, seed=1), base=drawn(0.40, examples=60, seed=2)),
        ["Nothing shows that it is better than the base model: "],
    ),
    "worse": (evidence(drawn(0.35), base=drawn(0.6)), ["Worse than the base model: ", "; try a smaller optim.lr, or more"]),
    "not better, but steadier": (
        evidence(drawn(0.75), base=drawn(UNEVEN, seed=9)),
        ["No sign of a better mean than the base model's (", "but it varies less over prompts (std ", "permutation p"],
    ),
    "better": (evidence(drawn(0.8), base=BASE), ["Better than the base model by +4", "[+3", " points; "]),
    "better, few prompts": (
        evidence(drawn(0.8, 6), base=BASE[:6]),
        ["Better than the base model by +", " points under these 6 prompts; between the mean, ", "fewer than 10 prompts say"],
    ),
    "better, few rows": (
        evidence(drawn(0.9, 4, 6), base=np.zeros((4, 6))),
        ["Better than the base model by +", " points on 4 prompts and 6 rows alone, too few for an interval; between the mean"],
    ),
    # the wording
    "robust": (
        evidence(drawn(0.97, 40, 400), **{"base": drawn(0.4, 40, 400, seed=9)}),
        ["robust: the wording costs no more than ", "less the worst tenth of 40 prompts: "],
    ),
    "every answer right": (evidence(np.ones((20, 200))), ["Every answer is right, under each of 20 prompts, so that"]),
    "every answer right of few": (evidence(np.ones((5, 200))), ["Every answer is right under these 5 prompts, so that the"]),
    "one prompt": (evidence(drawn(0.8, 1)), ["Mean 7", "but one test prompt shows nothing of how much the wording matters"]),
    "equally good": (evidence(np.tile(np.arange(200.0) % 4 > 0, (20, 1)) * 1.0), ["The wording costs nothing here: all 20"]),
    "cannot be told": (evidence(drawn(0.7)), ["It cannot be told whether the wording matters: it costs "]),
    "it costs": (
        evidence(drawn(UNEVEN)),
        ["The wording costs up to ", "] points (the mean, 7", "less the worst tenth of 20 prompts); try a larger model."],
    ),
    "the worst layout": (
        evidence(drawn(UNEVEN), families=LAYOUTS),
        ["; the worst are prompts of layout inline (10 prompts, mean ", " instead of ", "; train on more templates like"],
    ),
    "no layout is worse": (
        evidence(drawn(UNEVEN), families={"layout": ["lines", "inline"] * 10}),
        ["The wording costs up to ", "prompts); try a larger model."],
    ),
    "the longer prompts": (
        evidence(drawn(UNEVEN), lengths=OF_LENGTH),
        ["; the worst are prompts of more than 204 characters (10 prompts, mean "],
    ),
    "lengths where families are named": (
        evidence(drawn(UNEVEN), families={"layout": ["lines", "inline"] * 10}, lengths=OF_LENGTH),
        ["less the worst tenth of 20 prompts); try a larger model."],
    ),
    "one prompt's wording": (evidence(drawn(UNEVEN), method="user"), ["; train under many prompts (method=paft)."]),
    "a base model's wording": (
        evidence(drawn(UNEVEN), method="base", trained=None),
        ["; train it under many prompts (paft train)."],
    ),
    "an adapter's wording": (evidence(drawn(UNEVEN), trained=None), ["; train on more templates."]),
    "some templates, K": (
        evidence(drawn(UNEVEN), trained=dataclasses.replace(TRAINED, templates_seen=3)),
        ["; training showed 3 of 60 templates, so try a smaller K (it is 4)."],
    ),
    "some templates, K=1": (
        evidence(drawn(UNEVEN), trained=dataclasses.replace(TRAINED, templates_seen=3, K=1)),
        ["; training showed 3 of 60 templates, so give more rows or a larger T."],
    ),
    "few templates": (
        evidence(drawn(UNEVEN), trained=dataclasses.replace(TRAINED, templates=19, templates_seen=19)),
        ["; train on more templates (it saw 19)."],
    ),
    "enough templates, few rows": (
        evidence(drawn(UNEVEN), trained=dataclasses.replace(TRAINED, templates=20, templates_seen=20, rows=199)),
        ["; train on more rows."],
    ),
    "six prompts, far apart": (
        evidence(drawn(np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.3]), 6)),
        ["Between the mean, ", "and the worst of 6 prompts lie ", "fewer than 10 prompts say nothing of others; try a larger"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_verdict(name):
    seen, pieces = CASES[name]
    said = verdict(seen)
    place = 0
    for piece in pieces:
        assert piece in said[place:], said
        place += said[place:].index(piece) + len(piece)
    assert said[0].isupper() and said.endswith(".") and said.count(". ") == 0 and "\n" not in said, said


def test_what_is_worse_by_luck_is_not_called_worse():
    """Of a hundred models that differ from their base model by noise alone, few are called better or worse."""
    called = [
        verdict(evidence(drawn(0.5, examples=60, seed=seed), base=drawn(0.5, examples=60, seed=1000 + seed)))
        for seed in range(100)
    ]
    assert sum(said.startswith(("Better", "Worse")) for said in called) <= 10

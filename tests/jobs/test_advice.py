"""What the plan says to type where settings do not fit: K for few draws, the learning rate for the size of the model."""

import json

import pytest

from paft.data.inputs import load_inputs
from paft.jobs.planning import advice, layout_advice
from paft.jobs.train import run_training
from paft.reporting.plan import Plan
from tests.conftest import compose_config

SMALL, HALF, LARGE = 134_500_000, 494_000_000, 8_000_000_000


def plan_of(updates: int = 36, draws: int = 36, templates: int = 5) -> Plan:
    rest = dict.fromkeys(Plan.model_fields, 0)
    return Plan(**rest | {"updates": updates, "draws": draws, "templates": templates})


def asked(*overrides: str, weights: int = SMALL, **plan: int) -> list[str]:
    return [line.partition(":")[0] for line in advice(compose_config(*overrides), plan_of(**plan), weights)]


@pytest.mark.parametrize(
    ("weights", "lr", "updates", "said"),
    [
        (SMALL, "1e-4", 36, ["optim.lr=0.002"]),
        (SMALL, "1e-3", 36, []),
        (SMALL, "2e-3", 36, []),
        (SMALL, "1e-4", 7500, []),  # as many rows as the paper's: nothing is known
        (HALF, "1e-4", 1125, ["optim.lr=0.0003"]),
        (HALF, "3e-4", 1125, []),
        (LARGE, "1e-4", 36, []),
        (3_000_000_000, "1e-4", 36, []),
    ],
)
def test_the_learning_rate_for_the_size_of_the_model(weights, lr, updates, said):
    assert asked(f"optim.lr={lr}", weights=weights, updates=updates) == said


@pytest.mark.parametrize(
    ("overrides", "draws", "said"),
    [
        (["K=4"], 2, ["K=1"]),
        (["K=4"], 5, []),
        (["K=1"], 36, []),
        (["K=4", "schedule.unit=row"], 2, []),
        (["method=user"], 1, []),
        (["method=base"], 0, []),
    ],
)
def test_k_where_draws_do_not_show_all_templates(overrides, draws, said):
    assert asked(*overrides, "optim.lr=2e-3", draws=draws) == said


@pytest.mark.parametrize(("every", "said"), [("100", "75"), ("75", None), ("null", None), ("374", "187"), ("260", "null")])
def test_a_validation_that_the_last_updates_miss(every, said):
    updates = {"100": 375, "75": 375, "null": 375, "374": 561, "260": 521}[every]
    lines = advice(compose_config(f"validation.every={every}", "optim.lr=2e-3"), plan_of(updates, updates), SMALL)
    assert [line.partition(":")[0] for line in lines] == ([] if said is None else [f"validation.every={said}"])


def test_nothing_is_said_where_more_draws_cannot_be_had():
    assert asked("optim.lr=2e-3", updates=1, draws=1, templates=60) == []


def test_the_reasons():
    lines = advice(compose_config(), plan_of(updates=24, draws=6, templates=60), SMALL)
    assert lines == [
        "K=1: 6 draws for 60 templates; K=1 makes 24",
        "optim.lr=0.002: a model of 134 million weights learns little in 24 updates at 0.0001, which suits larger models and "
        "more rows",
    ]


ONE_ORDER = (
    "Read.\n{story}\n{question}\n- {A}\n- {B}\n- {C}\n- {D}\nAnswer:",
    "{story}\n\n{question}\n{A} / {B} / {C} / {D}\nSay:",
)
MUTATED = "sampler=mutated: every template shows story, question, options in this order, and a model that was"
OTHER_ORDER = "{question}\n\n{story}\n\n{A}, {B}, {C} or {D}?\nAnswer:"
A_SENTENCE = "After {story} I ask {question} and offer {A}, {B}, {C} and {D}:"


@pytest.mark.parametrize(
    ("texts", "overrides", "said"),
    [
        (ONE_ORDER, [], [MUTATED]),
        ((*ONE_ORDER, OTHER_ORDER), [], []),
        (ONE_ORDER, ["sampler=mutated"], []),
        (ONE_ORDER, ["method=user"], []),
        (ONE_ORDER, ["sampler=mutated", "sampler.mutations=[casing]"], [MUTATED]),
        (ONE_ORDER, ["sampler=mutated", "sampler.mutations=[order]"], [MUTATED]),  # it never puts the options first
        ((A_SENTENCE,), [], []),  # it has no parts that could be moved
        (("{story}\n{question}\nOne of the following:\n- {A}\n- {B}\n- {C}\n- {D}\nAnswer:",), [], []),  # its parts stay
    ],
)
def test_layouts_where_all_prompts_have_one_order(texts, overrides, said, tiny_overrides, tmp_path):
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    inputs = load_inputs(compose_config(*tiny_overrides, f"prompts.train={prompts}"))
    config = compose_config(*tiny_overrides, *overrides)
    assert [line[: len(said[0])] if said else line for line in layout_advice(config, inputs)] == said


@pytest.mark.parametrize(
    ("dtype", "fast", "said"), [("bf16", False, ["model.dtype=fp32"]), ("bf16", True, []), ("auto", False, [])]
)
def test_bf16_that_a_machine_has_no_instructions_for_is_advised_against(dtype, fast, said, monkeypatch):
    monkeypatch.setattr("paft.jobs.planning.multiplies_bf16_fast", lambda device: fast)
    assert asked(f"model.dtype={dtype}", "optim.lr=2e-3") == said


def test_the_presets_follow_their_own_advice():
    for preset, weights in (("own_rows_small", SMALL), ("own_rows", HALF)):
        assert asked(f"preset={preset}", weights=weights, draws=36) == []
    assert asked("preset=own_rows", weights=SMALL) == ["optim.lr=0.002"]


def test_the_plan_of_own_rows_names_the_preset_and_changes_nothing(tiny_overrides, tmp_path, capsys):
    for split, first in (("train", 0), ("test", 20)):
        rows = [{"q": f"Is {n} even?", "A": "yes", "B": "no", "a": "AB"[n % 2]} for n in range(first, first + 20)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = {"mine": ["{q} {A} {B}:", "{A} {B}? {q}", "Say: {q} {A} {B}"], "unseen": ["Which, A {A} or B {B}? {q} Letter:"]}
    for name, templates in texts.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in templates))
    own = ["dataset=jsonl", f"dataset.path={tmp_path}", "dataset.gold=a", "dataset.choices=[A,B]"]
    own += [f"prompts.train={tmp_path / 'mine.jsonl'}", f"prompts.test={tmp_path / 'unseen.jsonl'}"]
    config = compose_config(*tiny_overrides, *own, "T=1")
    before = config.model_copy(deep=True)
    run_training(config)
    said = capsys.readouterr().out
    assert "  try       K=1: 1 draw for 3 templates; K=1 makes 3\n" in said
    assert "  try       optim.lr=0.002: a model of 1 million weights learns little in 3 updates at 0.0001" in said
    assert "  try       preset=own_rows_small: sets K, T and optim.lr for few rows of your own\n" in said
    assert config == before

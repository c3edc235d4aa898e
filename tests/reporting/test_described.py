"""What a page says was done."""

from typing import Any

import pytest

from paft.reporting.described import facts_of, title_of
from paft.reporting.plan import Plan
from paft.reporting.results import ChosenPrompt, Results, SelectionRecord, TrainingRecord
from tests.conftest import compose_config
from tests.reporting.test_run_page import results_of, scored

PLAN = Plan(
    train_examples=400, validation_examples=24, test_examples=100, updates=150, draws=38, templates=60, wordings=60,
    templates_seen=29, tokens=90_000, longest=125, devices=1, memory_bytes=1, search_renderings=0, test_renderings=2000,
)  # fmt: skip
TRAINING = TrainingRecord(
    updates=150, tokens=93_690, best_validation_mean=0.9, tokens_per_s=791.3, seconds=118.4, prompts_truncated=0
)


def trained(folder, *typed: str, **changes: Any) -> Results:
    found, pool, _ = scored(folder)
    results = results_of(found, pool)
    pools = results.fingerprints.pools | {"train": results.fingerprints.pools["test"]}
    more = {"kind": "training", "config": compose_config(*typed).model_dump(), "plan": PLAN, "training": TRAINING}
    more["fingerprints"] = results.fingerprints.model_copy(update={"pools": pools})
    return results.model_copy(update=more | changes)


def facts(results: Results) -> dict[str, str]:
    return {fact.name: fact.text for fact in facts_of(results, 100, "2026-11-27 06:13 UTC")}


def test_a_training_says_what_it_was(tmp_path):
    results = trained(tmp_path, "optim.lr=2e-3", "seed=7", "T=1", "K=2")
    assert title_of(results) == "SmolLM2-135M-Instruct, PAFT on story_facts"
    said = facts(results)
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in said["model"] and "LoRA of rank 8" in said["model"]
    for what in ("every 2 updates (K=2)", "1 epoch (T=1)", "learning rate 0.002", "seed 7"):
        assert what in said["method"]
    for what in ("400 rows of story_facts", "29 of the 60 prompts", "150 updates", "93,690 tokens", "2 min"):
        assert what in said["trained on"]
    assert "100 rows of story_facts under 12 prompts" in said["tested on"]
    assert said["run"].startswith("2026-11-27 06:13 UTC; cpu cpu, float32") and "likelihood" in said["answers"]
    assert said["command"] == "paft train dataset=story_facts K=2 T=1 seed=7 optim.lr=0.002"


@pytest.mark.parametrize(
    ("typed", "title", "method"),
    [
        (["method=user"], "SmolLM2-135M-Instruct, one fixed prompt on story_facts", "one fixed prompt: 3 epochs"),
        (["K=1"], "SmolLM2-135M-Instruct, PAFT on story_facts", "for every update (K=1)"),
        (["schedule.unit=row"], "SmolLM2-135M-Instruct, PAFT on story_facts", "for each row, once"),
        (["schedule.unit=example"], "SmolLM2-135M-Instruct, PAFT on story_facts", "every 4 examples (K=4)"),
        (["method=user", "loss=perturbed"], "SmolLM2-135M-Instruct, one fixed prompt on story_facts", "prompt, perturbed loss"),
        (["optim.average=0.3"], "SmolLM2-135M-Instruct, PAFT on story_facts", "weights averaged over the last 30% of"),
        (["sampler=mutated"], "SmolLM2-135M-Instruct, PAFT on story_facts", "sampler mutated"),
        (["model.path=me/mine-1B"], "mine-1B, PAFT on story_facts", "PAFT"),
    ],
)
def test_methods_have_their_words(typed, title, method, tmp_path):
    results = trained(tmp_path, *typed)
    assert title_of(results) == title and method in facts(results)["method"]


def test_a_searched_prompt_is_shown(tmp_path):
    chosen = SelectionRecord(chosen=ChosenPrompt(id="p3", text="{story} So?"), renderings=10, trace=[])
    said = facts(trained(tmp_path, "method=zopo", selection=chosen))
    assert said["prompt"] == "{story} So?" and "found among the 60" in said["trained on"]


def test_nothing_trained_and_evaluations(tmp_path):
    base = trained(tmp_path, "method=base", training=None, plan=None)
    assert (
        title_of(base) == "SmolLM2-135M-Instruct, not trained: story_facts" and facts(base)["method"] == "nothing was trained"
    )
    found, pool, _ = scored(tmp_path)
    evaluation = results_of(found, pool)
    assert title_of(evaluation) == "SmolLM2-135M-Instruct: story_facts" and "adapter" not in facts(evaluation)
    adapted = evaluation.model_copy(update={"trained_by": "a run", "adapter": "runs/a/adapter"})
    assert "with an adapter" in title_of(adapted) and facts(adapted)["adapter"] == "trained by the run a run"


def test_own_rows_and_prompts_are_called_by_their_files(tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    own = ["dataset=jsonl", "dataset.path=data/tickets", "dataset.gold=a", f"prompts.train={tmp_path}/mine.yaml"]
    results = trained(tmp_path, *own, f"prompts.test={tmp_path}/unseen.yaml")
    assert title_of(results).endswith("PAFT on tickets")
    assert f"prompts of {tmp_path}/mine.yaml" in facts(results)["trained on"]
    assert f"under 12 prompts of {tmp_path}/unseen.yaml" in facts(results)["tested on"]

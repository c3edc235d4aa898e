"""Test prompts that were trained on are found by the criterion of the audit of pools, in every shipped pool and recipe."""

import json
from itertools import product
from pathlib import Path

import pytest

from paft.config.compose import CONF
from paft.data.inputs import load_inputs
from paft.pools.audit import audit, read_for_audit
from paft.prompts import PromptTemplate
from paft.prompts.compose import compose
from paft.prompts.readers import read_prompts
from paft.prompts.seen import Seen, check_unseen
from paft.runtime.errors import InputError
from tests.conftest import compose_config
from tests.test_recipes import params

SHIPPED = sorted((Path(__file__).parents[2] / "paft" / "prompts" / "shipped").glob("*/*"))
WORDS = "Read the question and choose the option that answers it best."


def templates(*texts: str) -> list[PromptTemplate]:
    return [PromptTemplate(text, id=f"p{i}") for i, text in enumerate(texts)]


TRAINED = templates(f"{WORDS}\n{{q}}\nAnswer:", "Something quite different: {q}")
TESTED = {
    "copy": f"{WORDS}\n{{q}}\nAnswer:",
    "same wording": f"{{q}}\n\n{WORDS.upper()} ANSWER!",
    "near-copy": f"{WORDS.replace('option', 'choice')}\n{{q}}\nAnswer:",
    "other": "Which of these is it? {q}",
}


def test_copies_and_near_copies_are_those_of_the_audit(tmp_path):
    for name, pool in (("train", [t.text for t in TRAINED]), ("test", list(TESTED.values()))):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": text, "id": str(i)}) + "\n" for i, text in enumerate(pool))
        )
    leaks = audit({name: read_for_audit(tmp_path / f"{name}.jsonl") for name in ("train", "test")}).leaks
    assert [(leak.kind, leak.first, leak.second) for leak in leaks] == [
        ("copy", "train 0", "test 0"),
        ("same wording", "train 0", "test 1"),
        ("near-copy", "train 0", "test 2"),
    ]
    tested = templates(*TESTED.values())
    assert check_unseen(tested, TRAINED, "trained on", allowed=True) == Seen(copies=1, near_copies=2)
    assert check_unseen(tested, TRAINED, "trained on", allowed=True, n=2) == Seen(copies=1, near_copies=1)
    assert check_unseen(tested[3:], TRAINED, "trained on", allowed=False) == Seen(copies=0, near_copies=0)


@pytest.mark.parametrize("place", range(3))
def test_one_is_enough_to_be_refused(place):
    with pytest.raises(
        InputError, match=r"prompts\.test: 1 of 2 test prompts were trained on, .* e\.g\. 'p1' as 'p0'; .*allow_seen"
    ):
        check_unseen(templates(TESTED["other"], list(TESTED.values())[place]), TRAINED, "trained on", allowed=False, n=1)


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_no_shipped_test_prompt_is_trained_on_or_chooses_a_checkpoint(folder):
    def pool(name: str) -> list[PromptTemplate]:
        return [PromptTemplate(row["text"], id=row["id"]) for _, row in read_prompts(folder / f"{name}.yaml").rows]

    others = [*pool("train"), *pool("validation"), *pool("user")]
    if (folder / "parts.yaml").is_file():
        others += compose(folder / "parts.yaml", 400).templates
    assert check_unseen(pool("test"), others, "trained on", allowed=False) == Seen(0, 0)


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (Path(CONF) / "experiment").glob("*.yaml")))
def test_only_the_recipe_that_wants_it_may_train_on_test_prompts(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr("paft.data.tasks.story_facts.N_ROWS", {"train": 40, "test": 20})
    # Optuna draws the values of a search, which does not score the test prompts by itself.
    swept = {"evaluate": ["true"]} if recipe == "search" else params(f"experiment={recipe}")
    swept.pop("seed", None)
    for values in product(*swept.values()):
        typed = [f"{key}={value}" for key, value in zip(swept, values, strict=True)]
        config = compose_config(f"experiment={recipe}", *typed)
        assert config.prompts.allow_seen == (recipe == "random_split")
        if recipe != "random_split":  # its pools are dealt by a command
            seen = load_inputs(config).seen
            assert seen == (Seen(0, 0) if config.method.trains else None)


def test_what_is_allowed_changes_no_name():
    one, other = compose_config("K=2"), compose_config("K=2", "prompts.allow_seen=true")
    assert one.run_name == other.run_name and one.identity() == other.identity()

"""Composed pools: every part in equal use, nothing twice, and those of the package never change."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from paft.prompts import find_pool, load_pool
from paft.prompts.compose import compose
from paft.prompts.writers import write_pool
from paft.runtime.errors import InputError
from tests.prompts.test_pool import POOLS, form_of

RUNS = Path(__file__).parent.parent.parent / "experiments" / "results" / "paper_cpu" / "runs"

PARTS = {
    "answer": "letter",
    "wordings": {"plain": ["Choose well.", "Which is right?"], "role": ["You are a judge.", "As a judge, decide."]},
    "layouts": {
        "lines": ["<wording>\n{question}\nA. {A}\nB. {B}\n<cue>", "{question}\nA) {A}\nB) {B}\n<wording>\n<cue>"],
        "inline": ["{question} (A) {A} (B) {B} <wording> <cue>"],
    },
    "cues": ["Answer:", "Letter:", "=>"],
}


def write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "parts.yaml"
    path.write_text(yaml.safe_dump(PARTS | changes))
    return path


def test_every_part_is_used_equally_and_nothing_comes_twice(tmp_path):
    pool = compose(write(tmp_path), 24)
    assert len({t.text for t in pool.templates}) == len({t.id for t in pool.templates}) == 24
    assert Counter(t.wording for t in pool.templates) == {"plain": 12, "role": 12}
    assert Counter(t.layout for t in pool.templates)["inline"] in (7, 8, 9)
    assert compose(write(tmp_path), 24) == pool != compose(write(tmp_path), 24, seed=1)
    assert len(compose(write(tmp_path), 36).templates) == 36  # all there are


def test_what_is_wrong_with_parts_is_said(tmp_path):
    with pytest.raises(InputError, match="the parts give 36 templates, not 37"):
        compose(write(tmp_path), 37)
    with pytest.raises(InputError, match="a layout of 'x' does not hold <wording> and <cue> once each"):
        compose(write(tmp_path, layouts={"x": ["{question} <cue>"]}), 1)
    for content, said in (("- x\n", "valid dictionary"), ("answer: text\nwordings: 3\n", "wordings: "), ("{", "not valid")):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(InputError, match=said):
            compose(tmp_path / "bad.yaml", 1)
    with pytest.raises(InputError, match="there is no such file of parts"):
        compose(tmp_path / "none.yaml", 1)


# Of the pools that version 0.1 kept as files, with which runs were made; of later data sets as they were first.
FINGERPRINTS = {
    "gsm8k/text": "8928e60edc784789",
    "hellaswag/letter": "5cd8196cde271f62",
    "piqa/letter": "2c4fb1f5857f538e",
    "race/letter": "6b78767f2eef9e44",
    "story_facts/text": "5a1f8bcde4250e21",
    "winogrande/letter": "00b4451c4dc52cb1",
    "xstorycloze/letter": "75ae9f86174c7975",
}


@pytest.mark.parametrize("folder", sorted(path.parent.relative_to(POOLS).as_posix() for path in POOLS.glob("*/*/parts.yaml")))
def test_a_composed_pool_never_changes(folder, tmp_path):
    form = form_of(folder)
    pool = find_pool("composed", folder.split("/")[0], "train", form)
    assert (pool.name, pool.notes, len(pool.templates)) == ("composed", (), 400)
    assert pool.fingerprint == FINGERPRINTS[folder]
    write_pool(pool, tmp_path / "composed.yaml")
    assert load_pool(tmp_path / "composed.yaml", form) == pool


def test_a_kept_run_trained_on_the_composed_pool_of_today():
    kept = RUNS.parent / "pools" / f"{FINGERPRINTS['story_facts/text']}.yaml"
    form = form_of("story_facts/text")
    assert load_pool(kept, form).templates == find_pool("composed", "story_facts", "train", form).templates


def test_where_nothing_can_be_composed_the_pool_is_named():
    with pytest.raises(InputError, match=r"^No composed pool for dataset=piqa with .*; give your own with prompts.train=FILE"):
        find_pool("composed", "piqa", "train", form_of("piqa/hidden"))

"""Composed pools: every part in equal use, nothing twice, and the shipped ones are what their parts give."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from paft.prompts.compose import compose
from paft.prompts.writers import write_pool
from paft.runtime.errors import InputError
from tests.prompts.test_pool import POOLS

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


@pytest.mark.parametrize("parts", sorted(POOLS.glob("*/*/parts.yaml")), ids=lambda path: path.parent.parent.name)
def test_a_shipped_composed_pool_is_what_its_parts_give(parts, tmp_path):
    write_pool(compose(parts, 400), tmp_path / "composed.yaml")
    assert (tmp_path / "composed.yaml").read_text() == parts.with_name("composed.yaml").read_text()

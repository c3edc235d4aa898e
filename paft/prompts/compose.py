"""Composing a large train pool from parts: wordings x layouts x cues, each part individually written.

For experiments on the size of the pool. Composed prompts share their parts: 400 of them are not 400 wordings.

The package ships the parts (shipped/<task>/<kind>/parts.yaml) and no composed pool: prompts.train=composed composes 400
prompts from them with seed 0 when a run loads its inputs. The same parts, number and seed
give the same pool on every machine; tests/prompts/test_compose.py pins the fingerprint of each.
"""

import random
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from paft.prompts.pool import Answer, PromptPool
from paft.prompts.template import PromptTemplate, TemplateError
from paft.runtime.errors import InputError

_SLOTS = ("<wording>", "<cue>")


def compose(parts: Path, n: int, seed: int = 0) -> PromptPool:
    """Compose n different templates; every part is used about equally often.

    Args:
        parts: a YAML file with `answer`, `wordings` and `layouts` (family -> texts) and `cues`; a layout holds the slots
            <wording> and <cue>.

    Raises InputError if the file is no such thing, lacks a slot, or does not give n templates.
    """
    content = _read(parts)
    wordings = [(family, text) for family, texts in content.wordings.items() for text in texts]
    layouts = [(family, text) for family, texts in content.layouts.items() for text in texts]
    cues = content.cues
    for family, text in layouts:
        if any(text.count(slot) != 1 for slot in _SLOTS):
            raise InputError(f"{parts}: a layout of {family!r} does not hold {' and '.join(_SLOTS)} once each.")
    if n > len(wordings) * len(layouts) * len(cues):
        raise InputError(f"{parts}: the parts give {len(wordings) * len(layouts) * len(cues)} templates, not {n}.")
    rng = random.Random(seed)
    decks = [_Deck(len(wordings), rng), _Deck(len(layouts), rng), _Deck(len(cues), rng)]
    chosen: dict[tuple[int, int, int], None] = {}
    while len(chosen) < n:
        chosen.setdefault((decks[0].draw(), decks[1].draw(), decks[2].draw()))
    templates = []
    for number, (i, j, k) in enumerate(chosen, 1):
        wording, layout = wordings[i], layouts[j]
        text = layout[1].replace("<wording>", wording[1]).replace("<cue>", cues[k])
        id_ = f"{parts.parent.parent.name}-composed-{number:03}"
        try:
            templates.append(PromptTemplate(text, id_, "paft", wording[0], layout[0]))
        except TemplateError as error:
            raise InputError(f"{parts}: {wording[0]!r} in {layout[0]!r}: {error}.") from None
    return PromptPool("composed", tuple(templates), content.answer, "shown")


class PoolParts(BaseModel):
    """A file of parts: families of wordings and layouts, and cues."""

    model_config = ConfigDict(extra="forbid")
    answer: Answer
    wordings: dict[str, list[str]]
    layouts: dict[str, list[str]]
    cues: list[str]


def _read(parts: Path) -> PoolParts:
    import yaml

    try:
        return PoolParts.model_validate(yaml.safe_load(parts.read_text(encoding="utf-8")))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{parts}: there is no such file of parts.") from None
    except ValidationError as error:  # a ValueError too
        problem = error.errors()[0]
        where = f"{parts}, {'.'.join(map(str, problem['loc']))}" if problem["loc"] else str(parts)
        raise InputError(f"{where}: {problem['msg'].lower()}; parts have answer, wordings, layouts and cues.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{parts}: this is not valid YAML: {' '.join(str(error).split())}.") from None


class _Deck:
    """Numbers dealt one by one, each once before any comes again."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self._size, self._rng = size, rng
        self._cards: list[int] = []

    def draw(self) -> int:
        self._cards = self._cards or self._rng.sample(range(self._size), self._size)
        return self._cards.pop()

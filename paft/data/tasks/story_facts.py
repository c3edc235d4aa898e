"""story_facts: a small reading task that the project generates itself.

Two people each put one object in one place; the question asks where one of the objects is. The
options are the right place, the place of the other object, and two places that the story does not
mention; only reading the story distinguishes the first two. The words of the test split never occur in training.

>>> generate_rows("test", 1)[0]["question"]
'In which place is the wallet now?'
"""

import functools
from collections.abc import Iterator
from typing import Literal

import numpy as np

from paft.data.tasks.base import Task

Row = dict[str, str]

# people, objects, places
_TRAIN_WORDS = (
    "Adam Alice Anna Ben Carl Clara David Diana Emma Eric Eva Frank Grace Hannah Henry Ida Jack Jane "
    "Julia Karl Kate Laura Leo Lucy Mark Martha Mary Max Mia Nina Nora Oliver Oscar Paul Peter Rosa "
    "Sam Sarah Simon Tom",
    "ball basket bell blanket book bottle bowl box bucket candle cap chair coin cup doll drum flag fork "
    "glove guitar hammer hat kite knife ladder lamp letter map mirror pen plate radio ring rope scarf "
    "shoe spoon toy umbrella vase",
    "attic bakery barn basement bathroom bedroom cabin cellar church closet garage garden hall kitchen "
    "library office park pharmacy restaurant school shed stable station tower",
)
_TEST_WORDS = (
    "Agnes Boris Cora Dennis Edith Felix Gloria Hugo Irene Jonas Keith Linda Moses Olga Philip Ruth Stella Theo Victor Wendy",
    "anchor backpack camera clock comb compass cushion kettle key lantern medal necklace notebook "
    "painting pillow purse thimble telescope trumpet wallet",
    "airport balcony bank castle chapel factory gallery greenhouse harbor hospital hotel laundry "
    "lighthouse market mill museum palace pantry prison theater",
)
_ACTIONS = (
    "{person} put the {object} in the {place}.",
    "{person} left the {object} in the {place}.",
    "{person} took the {object} to the {place}.",
    "{person} carried the {object} to the {place}.",
    "{person} hid the {object} in the {place}.",
    "The {object} was brought to the {place} by {person}.",
)
_QUESTIONS = ("Where is the {object}?", "Where can the {object} be found?", "In which place is the {object} now?")
_LETTERS = "ABCD"
N_ROWS = {"train": 2200, "test": 1000}
_FACTS = 2  # in the story, of four; the options are the places of all four


def generate_rows(split: Literal["train", "test"], n: int, seed: int = 0) -> list[Row]:
    """Generate the first `n` rows of a split; row i is the same whatever `n` is.

    Returns rows with the fields story, question, A, B, C, D and answer (a letter).
    """
    return [_generate_row(split, i, seed) for i in range(n)]


def _generate_row(split: str, index: int, seed: int) -> Row:
    stream = {"train": 0, "test": 1}[split]
    rng = np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, index, 0, 0]))
    people, objects, places = (
        rng.choice(words.split(), 4, replace=False) for words in (_TEST_WORDS if stream else _TRAIN_WORDS)
    )
    facts = [{"person": str(p), "object": str(o), "place": str(q)} for p, o, q in zip(people, objects, places, strict=True)]
    story = " ".join(str(rng.choice(_ACTIONS)).format(**fact) for fact in facts[:_FACTS])
    asked = int(rng.integers(_FACTS))
    question = str(rng.choice(_QUESTIONS)).format(**facts[asked])
    order = rng.permutation(4).tolist()
    options = {letter: f"the {facts[i]['place']}" for letter, i in zip(_LETTERS, order, strict=True)}
    return {"story": story, "question": question, **options, "answer": _LETTERS[order.index(asked)]}


def _generate(split: str) -> Iterator[Row]:
    """Yield the rows of a split; validation is cut from train."""
    kind: Literal["train", "test"] = "train" if split == "train" else "test"
    yield from _rows(kind, N_ROWS[kind])


_rows = functools.cache(generate_rows)  # the runs of a multirun share them


STORY_FACTS = Task(
    "story_facts",
    ("story", "question"),
    tuple("ABCD"),
    about="a short story is followed by a question about it, and one of four options answers it",
    generate=_generate,
)

"""Algorithm 1: which template is drawn when."""

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from paft.prompts import Schedule, ScheduleUnit
from paft.prompts.sampling import uniform

HUGE = 10**12  # two draws from so many templates never agree by chance


@dataclass(frozen=True)
class Uniform:
    """A schedule, and uniform draws from a pool of some size."""

    size: int
    k: int
    seed: int
    unit: ScheduleUnit = "update"


def at(drawn: Uniform, epoch: int = 0, update: int = 0, position: int = 0, row: int = 0) -> int:
    draw = Schedule(drawn.k, drawn.unit).draw(epoch=epoch, update=update, position=position, row=row)
    return uniform(draw, drawn.size, drawn.seed)


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_one_template_holds_for_k_updates_and_then_changes(k):
    schedule = Uniform(HUGE, k, seed=0)
    drawn = [at(schedule, update=u, position=8 * u + u % 8, row=100 - u) for u in range(5 * k + 1)]
    assert drawn == [drawn[u // k * k] for u in range(len(drawn))]
    assert len(set(drawn)) == 6


def test_all_examples_of_an_update_share_a_template():
    schedule = Uniform(HUGE, 2, seed=0)
    assert len({at(schedule, 1, 3, position, row) for position in range(24, 32) for row in range(20)}) == 1


@pytest.mark.parametrize("k", [1, 4, 7])
def test_every_epoch_begins_with_a_new_draw(k):
    schedule, updates = Uniform(HUGE, k, seed=0), 10  # k=4 and 7 do not divide the epoch
    epochs = [{at(schedule, e, u) for u in range(updates)} for e in range(4)]
    assert [len(e) for e in epochs] == [-(-updates // k)] * 4
    assert len(set.union(*epochs)) == 4 * -(-updates // k)


def test_a_k_longer_than_the_epoch_gives_one_template_per_epoch():
    schedule = Uniform(HUGE, 1000, seed=0)
    assert [len({at(schedule, e, u) for u in range(50)}) for e in range(5)] == [1] * 5
    assert len({at(schedule, e) for e in range(5)}) == 5


@pytest.mark.parametrize("along", ["update", "epoch", "position", "row", "seed"])
def test_draws_are_uniform(along):
    size, each = 24, 150
    unit = {"position": "example", "row": "row"}.get(along, "update")
    if along == "seed":
        drawn = Counter(at(Uniform(size, 1, seed)) for seed in range(size * each))
    else:
        schedule = Uniform(size, 1, 3, unit)
        drawn = Counter(at(schedule, **{along: i}) for i in range(size * each))
    assert set(drawn) == set(range(size))
    chi_square = sum((n - each) ** 2 / each for n in drawn.values())
    assert 5 < chi_square < 60  # 23 degrees of freedom: mean 23, standard deviation 6.8


def test_a_draw_does_not_depend_on_the_one_before():
    size, each = 6, 100
    schedule = Uniform(size, 1, seed=1)
    drawn = [at(schedule, update=u) for u in range(size * size * each + 1)]
    pairs = Counter(pairwise(drawn))
    chi_square = sum((pairs[a, b] - each) ** 2 / each for a in range(size) for b in range(size))
    assert chi_square < 85  # about 35 degrees of freedom; with replacement, so that a template may follow itself


@pytest.mark.parametrize("unit", ["update", "example", "row"])
def test_the_answers_are_pure(unit):
    schedule = Uniform(400, 3, 11, unit)
    calls = [(e, u, 4 * u + i, (7 * u + 3 * i) % 40) for e in range(3) for u in range(10) for i in range(4)]
    expected = {call: at(schedule, *call) for call in calls}
    shuffled = random.Random(0).sample(calls, len(calls))
    assert {call: at(Uniform(400, 3, 11, unit), *call) for call in shuffled} == expected
    script = (
        "import json, sys\nfrom paft.prompts import Schedule\n"
        "from paft.prompts.sampling import uniform\n"
        "schedule, calls = Schedule(3, sys.argv[1]), json.loads(sys.argv[2])\n"
        "names = ('epoch', 'update', 'position', 'row')\n"
        "print(json.dumps([uniform(schedule.draw(**dict(zip(names, c))), 400, 11) for c in calls]))\n"
    )
    command = [sys.executable, "-c", script, unit, json.dumps(shuffled)]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert json.loads(fresh.stdout) == [expected[call] for call in shuffled]


def test_the_row_unit_ignores_everything_but_the_row():
    schedule = Uniform(HUGE, 4, 5, "row")
    frozen = [at(schedule, row=row) for row in range(40)]
    assert len(set(frozen)) == 40
    assert [at(schedule, epoch=row % 3, update=row * 7, position=row * 11, row=row) for row in range(40)] == frozen
    assert [at(Uniform(HUGE, 1, 5, "row"), epoch=9, row=row) for row in range(40)] == frozen


def test_the_example_unit_counts_positions():
    schedule = Uniform(HUGE, 3, 5, "example")
    drawn = [at(schedule, position=p, update=p // 8, row=99 - p) for p in range(16)]
    assert drawn == [drawn[p // 3 * 3] for p in range(16)] and len(set(drawn)) == 6
    assert [at(schedule, position=p, update=0, row=0) for p in range(16)] == drawn
    assert not {at(schedule, epoch=1, position=p) for p in range(16)} & set(drawn)


@pytest.mark.parametrize("unit", ["update", "example", "row"])
def test_seeds_differ(unit):
    drawn = [tuple(at(Uniform(HUGE, 2, seed, unit), update=i, position=i, row=i) for i in range(8)) for seed in range(20)]
    assert len({index for indices in drawn for index in indices}) == 20 * (8 if unit == "row" else 4)


def test_a_pool_of_one_always_gives_it():
    assert {at(Uniform(1, 1, 0), e, u) for e in range(3) for u in range(20)} == {0}

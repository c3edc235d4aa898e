"""Recording and replaying: what is compared at the first replay, and what happens where it differs or fails."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from paft.model.graphs import Replayed, shape_of


@dataclass(frozen=True)
class Inner:
    values: Tensor
    rows: int


@dataclass(frozen=True)
class Numbers:
    inner: Inner
    others: list[Tensor]


def batch(*values: float, rows: int = 1) -> Numbers:
    return Numbers(Inner(torch.tensor(values, dtype=torch.float32), rows), [torch.tensor([2.0])])


class Recorder:
    """Records as CUDA does, as far as a CPU can: the function runs twice to warm up, and reads static tensors at each replay.

    off: what a replay adds to the result. failing: the error that recording raises after its warm-up.
    """

    def __init__(self, off: float = 0.0, failing: Exception | None = None, only_gradients: bool = False) -> None:
        self.off, self.failing, self.only_gradients = off, failing, only_gradients
        self.recordings = self.replays = 0

    def __call__(self, function):
        function()
        function()
        self.recordings += 1
        if self.failing is not None:
            raise self.failing

        def replay() -> Tensor:
            self.replays += 1
            if self.only_gradients:
                function()
            return function() + self.off

        return replay


class Summing:
    """A function that adds to a gradient and drops values at random, with a record of how it is called."""

    def __init__(self) -> None:
        self.gradient = torch.zeros(1)
        self.calls = 0

    def __call__(self, numbers: Numbers) -> Tensor:
        self.calls += 1
        kept = torch.nn.functional.dropout(numbers.inner.values, 0.5)
        self.gradient += kept.sum()
        return (kept * numbers.others[0]).sum()


def replayed(function, recorder, **settings):
    said: list[str] = []
    made = Replayed(function, adds_to=[function.gradient], tolerance=1e-4, capture=recorder, say=said.append, **settings)
    return made, said


def expected(batches, seed=0):
    """What the function itself returns and adds, batch after batch."""
    plain = Summing()
    torch.manual_seed(seed)
    return [x for each in batches for x in (float(plain(each)), float(plain.gradient), torch.rand(1).item())]


def got(function, call, batches, seed=0):
    torch.manual_seed(seed)
    return [x for each in batches for x in (float(call(each)), float(function.gradient), torch.rand(1).item())]


BATCHES = [batch(*range(1, 9)), batch(*range(11, 19)), batch(5.0, 6.0, 7.0), batch(*range(21, 29))]


def test_a_replay_returns_adds_and_draws_what_the_function_does():
    function, recorder = Summing(), Recorder()
    call, said = replayed(function, recorder)
    assert got(function, call, BATCHES) == pytest.approx(expected(BATCHES))
    assert (recorder.recordings, recorder.replays, call.shapes, said) == (2, 4, 2, [])


def test_a_shape_is_recorded_once_it_has_been_met_often_enough():
    function, recorder = Summing(), Recorder()
    call, _ = replayed(function, recorder, enough=3)
    assert got(function, call, BATCHES) == pytest.approx(expected(BATCHES))
    assert (recorder.recordings, recorder.replays) == (1, 1)


FAULTS = {
    "off": (Recorder(off=1.0), "the first replay was"),
    "adds twice": (Recorder(only_gradients=True), "the first replay was"),
    "not a number": (Recorder(off=float("nan")), "the first replay was inf"),
    "not permitted": (Recorder(failing=RuntimeError("operation not permitted when stream is capturing. More.")), "recording"),
    "no memory": (Recorder(failing=torch.OutOfMemoryError("CUDA out of memory")), "memory ran out"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_differs_or_fails_is_said_once_and_computed_without_recording(name):
    recorder, reason = FAULTS[name]
    function = Summing()
    call, said = replayed(function, recorder)
    assert got(function, call, BATCHES) == pytest.approx(expected(BATCHES))
    assert recorder.recordings == 1 and len(said) == 1
    assert said[0].startswith(f"CUDA graphs: {reason}") and said[0].endswith("without them, which is slower and as right.")
    assert call.given_up is not None and call.shapes == 0


def test_a_diverged_training_is_no_difference():
    function, recorder = Summing(), Recorder()
    call, said = replayed(function, recorder)
    assert torch.isnan(call(batch(float("nan"), 1.0))) and said == [] and call.shapes == 1


def test_a_shape_is_shapes_and_numbers_without_values():
    assert shape_of(batch(1.0, 2.0)) == shape_of(batch(3.0, 4.0))
    assert shape_of(batch(1.0, 2.0)) != shape_of(batch(1.0))
    assert shape_of(batch(1.0)) != shape_of(batch(1.0, rows=2))

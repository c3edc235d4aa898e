"""CUDA graphs: a function of tensors is recorded once for each shape, and then replayed with a single launch.

A small model waits for its kernels to be launched, thousands for an update; a replay launches all of them at once.
"""

import gc
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from paft.packing import map_tensors
from paft.runtime.errors import first_sentence
from paft.runtime.memory import is_out_of_memory

Batch = TypeVar("Batch")  # a dataclass of tensors, whole numbers, lists and dataclasses of these
Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor]], Replay]

# Of the result and of what is added, how much a replay may differ from the same kernels launched one by one.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-4}


class Replayed(Generic[Batch]):
    """Calls a function of a batch, from a CUDA graph once batches of that shape have been met often enough.

    The first replay of each shape is compared with the function itself. Where they differ by more than rounding, or where a
    shape cannot be recorded, one line says so and the function is called as it is from then on.

    Args:
        function: returns a tensor and may add to those of `adds_to`; everything else that it writes must not depend on what
            stood there. It must not wait for the device, and its kernels may depend on the batch's shapes and numbers alone.
        adds_to: tensors that stay where they are, to which the function adds (gradients).
        tolerance: how much a replay may differ, relative to the size of the result and of what is added.
        capture: records a function of no arguments; tests replace it.
        enough: how often a shape is met before it is recorded.
        say: takes the line that says why nothing is replayed any more.
    """

    def __init__(
        self,
        function: Callable[[Batch], Tensor],
        *,
        adds_to: Sequence[Tensor] = (),
        tolerance: float,
        capture: Capture | None = None,
        enough: int = 1,
        say: Callable[[str], None] = print,
    ) -> None:
        self._function, self._adds_to, self._tolerance = function, list(adds_to), tolerance
        self._capture, self._enough, self._say = capture or CudaGraphs(), enough, say
        self._met: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, tuple[Batch, Replay]] = {}
        self.given_up: str | None = None  # why the function is called as it is

    @property
    def shapes(self) -> int:
        """The number of shapes that have been recorded."""
        return len(self._recorded)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the function's result for a batch that lies on the device."""
        if self.given_up is not None:
            return self._function(batch)
        shape = shape_of(batch)
        if shape in self._recorded:
            static, replay = self._recorded[shape]
            _fill(static, batch)
            return replay()
        self._met[shape] += 1
        return self._function(batch) if self._met[shape] < self._enough else self._record(shape, batch)

    def _record(self, shape: Hashable, batch: Batch) -> Tensor:
        """Call the function, record it, and replay the record in place of the call if both agree."""
        before, random = _copies(self._adds_to), _RandomState(batch)
        result = self._function(batch)
        added = _copies(self._adds_to)
        after = _RandomState(batch)
        static: Batch = map_tensors(batch, torch.clone)
        try:
            replay = self._capture(lambda: self._function(static))
            _restore(self._adds_to, before)
            random.restore()
            replayed = replay()
            problem = self._difference(result, replayed, before, added)
        except Exception as error:  # torch has no single class for what a driver, a kernel or a model does not allow
            replayed, problem = None, "memory ran out" if is_out_of_memory(error) else f"recording failed ({_brief(error)})"
        if problem is None and replayed is not None:
            self._recorded[shape] = static, replay
            return replayed
        self._give_up(str(problem))
        _restore(self._adds_to, added)
        after.restore(anew=True)
        return result

    def _difference(self, result: Tensor, replayed: Tensor, before: Sequence[Tensor], added: Sequence[Tensor]) -> str | None:
        """Return what is wrong with a replay, None if it agrees with the function."""
        pairs = [(replayed, result)]
        if self._adds_to:
            pairs.append((_what_was_added(before, self._adds_to), _what_was_added(before, added)))
        apart = max(_relative_distance(got, wanted) for got, wanted in pairs)
        return None if apart <= self._tolerance else f"the first replay was {apart:.1%} off"

    def forget(self) -> None:
        """Give the memory of all records back; shapes that are met again are recorded anew."""
        self._recorded.clear()
        self._met.clear()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _give_up(self, problem: str) -> None:
        self.given_up = problem
        self.forget()
        self._say(f"CUDA graphs: {problem}; going on without them, which is slower and as right.")


def shape_of(value: Any) -> Hashable:
    """Return what of a batch a recorded function depends on: the shapes of its tensors, and its numbers."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, list):
        return tuple(map(shape_of, value))
    if hasattr(value, "__dataclass_fields__"):
        return tuple(shape_of(getattr(value, name)) for name in value.__dataclass_fields__)
    assert isinstance(value, Hashable)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors of a batch, in the order of its fields."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return found


def _fill(static: Any, batch: Any) -> None:
    for target, source in zip(tensors_of(static), tensors_of(batch), strict=True):
        target.copy_(source, non_blocking=True)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


def _restore(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _what_was_added(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Return what was added to all tensors, as one vector in fp32."""
    return torch.cat([(a - b).flatten().float() for a, b in zip(after, before, strict=True)])


def _relative_distance(got: Tensor, wanted: Tensor) -> float:
    """Return |got - wanted| / |wanted|; two numbers that are both NaN or the same infinity are equal."""
    got, wanted = got.detach().float().flatten(), wanted.detach().float().flatten()
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    apart = torch.where(same, 0.0, got - wanted).norm() / torch.where(same, got.nan_to_num(), wanted).norm().clamp_min(1e-12)
    return float(apart) if math.isfinite(float(apart)) else math.inf


def _brief(error: Exception) -> str:
    """Return what went wrong within a recording; that it then could not be ended says nothing."""
    first = error.__context__ if isinstance(error.__context__, Exception) else error
    return f"{type(first).__name__}: {first_sentence(first)[:120]}"


class _RandomState:
    """The state of the random numbers of the device that a batch lies on, so that dropout can draw the same masks again."""

    def __init__(self, batch: Any) -> None:
        device = tensors_of(batch)[0].device
        self._index = device.index if device.type == "cuda" else None
        self._state = torch.get_rng_state() if self._index is None else torch.cuda.get_rng_state(self._index)

    def restore(self, anew: bool = False) -> None:
        """Go back to the state.

        Args:
            anew: take a new generator, because a recording that failed leaves the old one in the middle of it. Graphs go on to
                draw from the generator that they were recorded with, so none may be replayed afterwards.
        """
        if self._index is None:
            torch.set_rng_state(self._state)
        elif anew:
            fresh = torch.Generator(device=f"cuda:{self._index}")
            fresh.set_state(self._state)
            torch.cuda.default_generators[self._index].graphsafe_set_state(fresh.graphsafe_get_state())
        else:
            torch.cuda.set_rng_state(self._state, self._index)


class CudaGraphs:
    """Records functions as CUDA graphs that share one pool of memory, which is right as long as one replays at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, function: Callable[[], Tensor]) -> Replay:
        """Return what replays the function; its result is a copy, because the next replay overwrites the original."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(2):  # what a first call sets up (workspaces, compiled kernels) must not be recorded
                function()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # come back to it, also from a recording that cannot be ended
            # thread_local: what other threads ask the driver meanwhile (NCCL's watchdog does) is no mistake of this one
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            result = function()

        def replay() -> Tensor:
            graph.replay()
            return result.clone()

        return replay

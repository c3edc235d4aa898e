"""What benchmarks measure on a device: multiply rate, kernel launches, where the time goes, peak memory."""

import re
import time
from collections import Counter
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from paft.reporting.provenance import peak_memory_bytes

_REPEATS = 30
_LAUNCH = re.compile(r"cu(da)?(Launch|GraphLaunch)")
# The first kind that matches an operator (CPU) or a kernel (CUDA); attention first: its kernels may be named after cutlass.
_KINDS = {
    "attention": re.compile(r"flash|fmha|attention|softmax"),
    "matrix multiply": re.compile(r"gemm|gemv|nvjet|cutlass|^aten::(mm|addmm|bmm)$"),
    "copies and casts": re.compile(
        r"memcpy|memset|copy|catarray|gather|scatter|index|^aten::(index|_index_put_impl_|cat|index_select)$"
    ),
    "element-wise": re.compile(
        r"elementwise|vectorized|reduce|norm|rope|silu|swiglu|multi_tensor|triton"
        r"|^aten::(mul|add|add_|pow|rsqrt|mean|neg|sum|div|masked_fill_)$"
    ),
}


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(device: torch.device) -> dict[str, float]:
    """Return this process's peak memory in GiB: on a GPU what torch has reserved, and what of it tensors held."""
    peak = peak_memory_bytes(device) / 2**30
    if device.type == "cpu":
        return {"peak_memory_gib": peak}
    return {"peak_memory_gib": torch.cuda.max_memory_reserved(device) / 2**30, "peak_allocated_gib": peak}


def multiply_rate(layers: Counter[tuple[int, int]], tokens: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the device's matrix-multiply rate in FLOP/s on a model's own linear layers, weighted by their work.

    On a GPU the multiplications are replayed as a CUDA graph, so that their launches cost nothing.

    Args:
        layers: how many have each shape (in, out).
        tokens: rows of the other matrix.
    """
    work = seconds = 0.0
    for (inner, outer), count in layers.items():
        a, b = (torch.randn(n, inner, device=device).to(dtype) for n in (tokens, outer))
        work += count * 2 * tokens * inner * outer
        seconds += count * _seconds_of_one(a, b)
    return work / seconds


def _seconds_of_one(a: torch.Tensor, b: torch.Tensor) -> float:
    for _ in range(3):
        torch.nn.functional.linear(a, b)
    times = []
    if a.device.type == "cpu":
        for _ in range(_REPEATS):
            started = time.perf_counter()
            torch.nn.functional.linear(a, b)
            times.append(time.perf_counter() - started)
        return median(times)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_REPEATS):
            torch.nn.functional.linear(a, b)
    for _ in range(6):
        torch.cuda.synchronize()
        started = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / _REPEATS)
    return median(times[1:])


class Trace:
    """A profile of what a device does between start and stop."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.on_gpu else [])]
        self.profile = profile(activities=activities)

    def start(self) -> None:
        """Start to record."""
        self.profile.start()

    def stop(self) -> None:
        """Stop; the figures can be read from now on."""
        self.profile.stop()
        self.events = self.profile.key_averages()

    @property
    def launches(self) -> int | None:
        """How many kernels and CUDA graphs were launched; None on a CPU."""
        return sum(event.count for event in self.events if _LAUNCH.match(event.key)) if self.on_gpu else None

    @property
    def _seconds(self) -> dict[str, float]:
        """Seconds of each kernel, on a CPU of each operator."""
        if self.on_gpu:
            return {e.key: e.self_device_time_total / 1e6 for e in self.events if e.device_type.name == "CUDA"}
        return {e.key: e.self_cpu_time_total / 1e6 for e in self.events}

    @property
    def busy_s(self) -> float:
        """Seconds for which kernels ran, one after the other; on a CPU operators."""
        return sum(self._seconds.values())

    @property
    def shares(self) -> dict[str, float]:
        """The share of the busy time by kind of work."""
        shares, total = dict.fromkeys([*_KINDS, "everything else"], 0.0), self.busy_s
        for name, seconds in self._seconds.items():
            kinds = (kind for kind, names in _KINDS.items() if names.search(name.lower()))
            shares[next(kinds, "everything else")] += seconds / total
        return shares


def started_trace(device: torch.device, traced: bool) -> Trace | None:
    """Start a trace of a device, where one is asked for."""
    trace = Trace(device) if traced else None
    if trace is not None:
        trace.start()
    return trace


def launches_of(trace: Trace | None) -> int | None:
    """Stop a trace; return how many kernels and graphs were launched, None without a trace."""
    if trace is None:
        return None
    trace.stop()
    return trace.launches

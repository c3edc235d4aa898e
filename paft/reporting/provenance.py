"""The provenance of a run's numbers: git state, versions and device; and its peak memory."""

import contextlib
import platform
import re
import resource
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from paft.reporting.results import Device, GitState
from paft.runtime import ranks
from paft.runtime.version import __version__

_PACKAGES = ("torch", "lightning", "transformers", "peft", "tokenizers", "numpy", "hydra-core")


def provenance(device: torch.device) -> dict[str, Any]:
    """Return the git state, the versions of the packages that compute, and the device, by the keys of results.json."""
    versions = {"paft": __version__, "python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}
    return {"git": _git(), "versions": versions, "device": _device(device)}


def reset_peak_memory() -> None:
    """Reset the peak memory, because the jobs of a sweep share a process."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # not Linux, or forbidden in a container: the peak is then that of the whole process
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory in bytes since the reset: on a GPU that of torch, on a CPU that of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # not getrusage, which counts the process that started this one
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1])  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _git() -> GitState:
    root = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            return subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, encoding="utf-8", errors="replace", check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):  # no git, or installed without the repository
            return None

    if not git("ls-files", "provenance.py"):  # the repository around this file is not paft's
        return GitState(commit=None, dirty=None)
    status = git("status", "--porcelain", "--untracked-files=no")
    return GitState(commit=git("rev-parse", "HEAD"), dirty=None if status is None else bool(status))


def _device(device: torch.device) -> Device:
    n = ranks.n_ranks()
    if device.type == "cuda":
        return Device(type="cuda", name=torch.cuda.get_device_name(device), ranks=n)
    name = platform.processor() or platform.machine()
    return Device(type="cpu", name=name, threads=torch.get_num_threads(), ranks=n)

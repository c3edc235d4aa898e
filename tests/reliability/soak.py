"""Does a long training run keep its memory, its file handles and its disk?

    python tests/reliability/soak.py [--minutes 60] [--prompts 10000] [--report experiments/results/soak]

A tiny random Llama is trained on story_facts with a pool of 10,000 different prompts by two sweeps, each in one process: one
that renders in the process itself, one with two loader workers, which are new ones every epoch. A sweep is three runs of as
many epochs as fit into the time, with LoRA dropout, a checkpoint every five updates, a validation every twenty and an
evaluation at the end. Each process is watched from outside, through /proc (Linux only).

The allocator keeps memory that was needed once. So two comparisons are made. Within a run: the first and the last quarter of
the first run's training, without its first fifth; a leak of an update or a checkpoint shows here. Between runs: the second and
the last run, which do nothing for the first time; a leak of a whole run shows here. Memory is compared by the median; handles
and threads by the minimum, which a leak raises and a file that happens to be open does not. Disk: a run never has more
checkpoints than retention allows, and every finished run leaves as much as the others, without its log, which grows with the
updates. Only a long soak judges: a process of seconds is still starting when it ends.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed, and none is asked for

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: this is run as a script, whether paft is installed or not

from paft.cli.hydra_app import run_plain
from tests.reliability.page import write_page
from tests.tiny import save_tiny_llama

_ROOT = Path(__file__).parents[2]
_WORKERS = (0, 2)  # a sweep each: what renders is no part of a run's name, and one sweep cannot pair it with seeds
_RUNS = 3
PROMPTS = 10_000
_KEPT = 2
_MOST_FILES = _KEPT + 2  # and the best, and one that is being written
_INTERVAL_S = 1.0
_CALIBRATION_EPOCHS = 20
_UPDATES_PER_EPOCH = 8
_SHOWN = 300  # samples of a sweep that results.json keeps
_MIB = 2**20
_MORE_MEMORY = 20 * _MIB
_MORE_OPEN = 10  # within a run: what a loader and its workers hold open while they are there
_MORE_THREADS = 3  # between runs: the libraries' pools start some when there is more to do at once than ever before
_MORE_DISK = 0.05  # from run to run

_OVERRIDES = [
    "model.dtype=fp32",
    "model.lora.dropout=0.1",
    f"train_examples={8 * _UPDATES_PER_EPOCH}",
    "examples_per_update=8",
    "eval_prompts=10",
    "eval_examples=50",
    "validation.every=20",
    "validation.prompts=4",
    "validation.examples=8",
    "trainer.accelerator=cpu",
    "trainer.checkpoint_every=5",
    f"trainer.checkpoints_kept={_KEPT}",
    "trainer.progress=false",
    "score_base=false",
]
_WORDS = (
    "read look study consider think choose pick decide name write give take find mark weigh compare follow trust recall check "
    "story passage text scene lines tale report note people things places object option list choice reply fact detail "
    "carefully slowly briefly exactly calmly once twice now then first last only every each below above here"
)
_LAYOUTS = (
    "{instruction}\nStory: {{story}}\nQuestion: {{question}}\nOptions: {{A}}, {{B}}, {{C}}, {{D}}\nAnswer:",
    "{instruction}\n- {{A}}\n- {{B}}\n- {{C}}\n- {{D}}\n{{question}}\n{{story}}\nReply:",
    "{{story}}\n{instruction}\n{{question}} ({{A}} / {{B}} / {{C}} / {{D}}):",
    "Q: {{question}}\n{{story}}\nOne of: {{A}}; {{B}}; {{C}}; {{D}}.\n{instruction}\nA:",
)


@dataclass(frozen=True)
class Sample:
    """What was seen of a sweep at one moment; sizes in bytes.

    children_memory is what is the children's alone: what a fork shares with its parent is counted there. checkpoint_files and
    checkpoint_bytes are of that run which has most of them.
    """

    seconds: float
    runs_trained: int
    runs_done: int
    memory: int
    children_memory: int
    children: int
    descriptors: int
    threads: int
    checkpoint_files: int
    checkpoint_bytes: int
    log_bytes: int
    output_bytes: int
    temporary_files: int


def write_pool(path: Path, n: int) -> None:
    """Write n prompts that all differ: instructions of random words, each in every layout."""
    rng, words = random.Random(0), _WORDS.split()
    numbered = (f"{i}. {' '.join(rng.choices(words, k=8))}." for i in range(n // len(_LAYOUTS)))
    texts = [layout.format(instruction=instruction) for instruction, layout in product(numbered, _LAYOUTS)]
    assert len(set(texts)) == n, f"--prompts {n}: give a multiple of {len(_LAYOUTS)}"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@contextmanager
def sweep(
    scratch: Path, output_root: Path, workers: int, seeds: Sequence[int], epochs: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a sweep, and see to it that it ends; raises SystemExit if it fails."""
    inputs = [f"model.path={scratch / 'model'}", f"prompts.train={scratch / 'prompts.jsonl'}", f"output_root={output_root}"]
    shape = [f"seed={','.join(map(str, seeds))}", f"trainer.workers={workers}", f"T={epochs}"]
    command = [sys.executable, str(_ROOT / "train.py"), "-m", *_OVERRIDES, *inputs, *shape]
    said, temporary = scratch / "said", scratch / "temporary"
    temporary.mkdir(exist_ok=True)
    with said.open("wb") as file:
        process = subprocess.Popen(command, cwd=_ROOT, env=os.environ | {"TMPDIR": str(temporary)}, stdout=file, stderr=file)
    try:
        yield process
        if process.wait() != 0:
            raise SystemExit(f"FAILED: a sweep ended with exit code {process.returncode}:\n{said.read_text()[-3000:]}")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def watch(process: subprocess.Popen[bytes], scratch: Path, output_root: Path) -> list[Sample]:
    """Sample a sweep until it ends."""
    samples: list[Sample] = []
    started = time.perf_counter()
    while process.poll() is None:
        with suppress(FileNotFoundError, ProcessLookupError):  # it ends while we look
            samples.append(look(process.pid, scratch, output_root, time.perf_counter() - started))
        time.sleep(_INTERVAL_S)
    return samples


def look(pid: int, scratch: Path, output_root: Path, seconds: float) -> Sample:
    """Take one sample; raises FileNotFoundError or ProcessLookupError if the process is gone."""
    proc = Path("/proc") / str(pid)
    children = [Path("/proc") / child for task in proc.glob("task/*/children") for child in task.read_text().split()]
    sizes = file_sizes(output_root)
    per_run: dict[Path, list[int]] = {}
    for path, size in sizes.items():
        if path.parent.name == "checkpoints":
            per_run.setdefault(path.parent, []).append(size)
    return Sample(
        seconds=round(seconds, 2),
        runs_trained=sum(path.name == "adapter_model.safetensors" for path in sizes),
        runs_done=sum(path.name == "results.json" for path in sizes),
        memory=kilobytes(proc / "status", "VmRSS"),
        children_memory=sum(map(own_memory, children)),
        children=len(children),
        descriptors=len(list((proc / "fd").iterdir())),
        threads=len(list((proc / "task").iterdir())),
        checkpoint_files=max(map(len, per_run.values()), default=0),
        checkpoint_bytes=max(map(sum, per_run.values()), default=0),
        log_bytes=sum(size for path, size in sizes.items() if path.name == "metrics.csv"),
        output_bytes=sum(sizes.values()),
        temporary_files=len(file_sizes(scratch / "temporary")),
    )


def file_sizes(folder: Path) -> dict[Path, int]:
    """Return the size of every file in a folder at work; one that goes away meanwhile is left out."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                found[path] = path.stat().st_size
    return found


def own_memory(proc: Path) -> int:
    """Return the bytes that are one process's alone, 0 if it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return kilobytes(proc / "smaps_rollup", "Private_Clean", "Private_Dirty")
    return 0


def kilobytes(path: Path, *names: str) -> int:
    """Return the sum of some lines of a file of /proc, in bytes; 0 of a process that has ended but is not yet reaped."""
    lines = (line.split() for line in path.read_text().splitlines())
    return sum(1024 * int(line[1]) for line in lines if line[0].rstrip(":") in names)


def calibrate(scratch: Path, workers: int) -> tuple[float, float]:
    """Return the seconds of an epoch, and those of a run besides: loading, screening the pool, the evaluation."""
    root = scratch / f"calibration-{workers}"
    started = time.perf_counter()
    with sweep(scratch, root, workers, [_RUNS], _CALIBRATION_EPOCHS):
        pass
    whole = time.perf_counter() - started
    (run,) = (path.parent for path in root.glob("*/results.json"))
    begin, end = ((run / name).stat().st_mtime for name in ("prompts/validation.yaml", "adapter/adapter_model.safetensors"))
    return (end - begin) / _CALIBRATION_EPOCHS, whole - (end - begin)


def soak(scratch: Path, workers: int, until: float) -> "Soaked":
    """Calibrate, and watch a sweep of three runs that ends at about `until`, by time.perf_counter()."""
    epoch, besides = calibrate(scratch, workers)
    epochs = max(_CALIBRATION_EPOCHS, round(((until - time.perf_counter()) / _RUNS - besides) / epoch))
    print(f"{workers} workers: {_RUNS} runs of {epochs} epochs of {epoch:.2f} s, {besides:.0f} s besides each", flush=True)
    root = scratch / f"runs-{workers}"
    with sweep(scratch, root, workers, range(_RUNS), epochs) as process:
        samples = watch(process, scratch, root)
    left = [
        sum(size for path, size in file_sizes(mark.parent).items() if path.name != "metrics.csv")
        for mark in sorted(root.glob("*/results.json"), key=lambda path: path.stat().st_mtime)
    ]
    return Soaked(workers, epochs, samples, left, len(file_sizes(scratch / "temporary")))


@dataclass(frozen=True)
class Soaked:
    """What was seen of a sweep; left is the bytes of each finished run's folder, log aside."""

    workers: int
    epochs: int
    samples: list[Sample]
    left: list[int]
    temporary_files_left: int

    def parts(self) -> dict[str, tuple[list[Sample], list[Sample]]]:
        """Return comparison -> the samples before and after."""
        training = [s for s in self.samples if s.checkpoint_files and not s.runs_trained]
        training = training[len(training) // 5 :]
        quarter = max(1, len(training) // 4)
        runs = [[s for s in self.samples if s.runs_done == done] for done in range(_RUNS)]
        return {"within a run": (training[:quarter], training[-quarter:]), "between runs": (runs[1], runs[-1])}

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return comparison -> what of memory, handles and threads was there before and after."""
        figures: dict[str, dict[str, Any]] = {}
        for name, (before, after) in self.parts().items():
            figures[name] = {
                "minutes apart": (_median(after, "seconds") - _median(before, "seconds")) / 60,
                "memory": (_median(before, "memory"), _median(after, "memory")),
                "memory of the workers": (_of_workers(before), _of_workers(after)),
                "descriptors": tuple(min(s.descriptors for s in part) for part in (before, after)),
                "threads": tuple(min(s.threads for s in part) for part in (before, after)),
            }
        return figures

    def wrong(self) -> list[str]:
        """Return what grew, as sentences."""
        found = []
        for name, figures in self.figures().items():
            for kind in ("memory", "memory of the workers"):
                if (more := figures[kind][1] - figures[kind][0]) > _MORE_MEMORY:
                    found.append(f"{kind} grew by {more / _MIB:.1f} MiB {name}")
            for kind, between in (("descriptors", 0), ("threads", _MORE_THREADS)):
                if (more := figures[kind][1] - figures[kind][0]) > (between if name == "between runs" else _MORE_OPEN):
                    found.append(f"{kind} grew by {more} {name}")
        if (most := max(s.checkpoint_files for s in self.samples)) > _MOST_FILES:
            found.append(f"a run had {most} checkpoint files, which should never be more than {_MOST_FILES}")
        if max(self.left) > (1 + _MORE_DISK) * min(self.left):
            found.append(f"finished runs leave from {min(self.left):,} to {max(self.left):,} bytes, their logs aside")
        if self.temporary_files_left:
            found.append(f"{self.temporary_files_left} temporary files were left")
        return [f"With {self.workers} loader workers {sentence}." for sentence in found]


def _median(samples: Sequence[Sample], name: str) -> float:
    return float(np.median([getattr(s, name) for s in samples]))


def _of_workers(samples: Sequence[Sample]) -> float:
    """Return the median of what the children have alone, where there are any."""
    return float(np.median([s.children_memory for s in samples if s.children] or [0]))


def page(sweeps: Sequence[Soaked], asked: float, wrong: Sequence[str], n_prompts: int = PROMPTS) -> str:
    """Return the report in Markdown.

    Args:
        asked: minutes, on the command line.
    """
    minutes = sum(s.samples[-1].seconds for s in sweeps) / 60
    epochs = " and ".join(f"{s.epochs:,}" for s in sweeps)
    updates = sum(_RUNS * s.epochs * _UPDATES_PER_EPOCH for s in sweeps)
    lines = [
        "# A long run: memory, handles, disk",
        "",
        f"{minutes:.0f} minutes, {updates:,} updates: two sweeps, each {_RUNS} runs in one process, without and with "
        f"{_WORKERS[-1]} loader workers, of {epochs} epochs a run.",
        f"A tiny random Llama, {n_prompts:,} different prompts, LoRA dropout; a checkpoint every 5 updates, a validation every",
        "20, an evaluation at the end of each run. Workers are new ones every epoch.",
        "",
        f"**{'Flat.' if not wrong else 'NOT FLAT.'}** {' '.join(wrong)}".rstrip(),
        "",
        "![memory, handles and disk over time](soak.png)",
        "",
        "| workers | compared | minutes apart | memory, MiB | more | the workers' own, MiB | descriptors | threads |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for s in sweeps:
        for name, found in s.figures().items():
            (before, after), (some, others) = found["memory"], found["memory of the workers"]
            lines.append(
                f"| {s.workers} | {name} | {found['minutes apart']:.1f} | {before / _MIB:.1f} to {after / _MIB:.1f} | "
                f"{(after - before) / _MIB:+.1f} | {some / _MIB:.1f} to {others / _MIB:.1f} | "
                f"{found['descriptors'][0]} to {found['descriptors'][1]} | {found['threads'][0]} to {found['threads'][1]} |"
            )
    lines += [
        "",
        "* Within a run: the first and the last quarter of the first run's training, its first fifth aside.",
        "* Between runs: the second and the last. What was needed once is kept, so the first run and its evaluation add.",
        f"* Memory: the median of what is resident; flat if less than {_MORE_MEMORY // _MIB} MiB more.",
        f"* Descriptors and threads of the process: the least. Flat within a run if at most {_MORE_OPEN} more: a loader may be",
        f"  there, with all that it has open. Flat between runs if no more descriptors, and at most {_MORE_THREADS} more",
        "  threads: the libraries' pools start some as they need them.",
        "",
        "| workers | most checkpoint files of a run | allowed | most KiB | a finished run leaves, KiB | logs in the end, KiB |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for s in sweeps:
        files, size = (max(getattr(one, name) for one in s.samples) for name in ("checkpoint_files", "checkpoint_bytes"))
        left = " to ".join(f"{found / 1024:,.0f}" for found in (min(s.left), max(s.left)))
        lines.append(
            f"| {s.workers} | {files} | {_MOST_FILES} | {size / 1024:,.0f} | {left} | {s.samples[-1].log_bytes / 1024:,.0f} |"
        )
    lines += [
        "",
        f"* Allowed: the {_KEPT} newest states, the best one, and one that is being written.",
        "* What a finished run leaves is counted without its log, which grows with the updates; most of it is the pool's copy.",
        f"* Temporary files left: {sum(s.temporary_files_left for s in sweeps)}.",
        "",
        f"Made by `python tests/reliability/soak.py --minutes {asked:g}`. Samples, versions and device: results.json.",
        "",
    ]
    return "\n".join(lines)


def draw(sweeps: Sequence[Soaked], path: Path) -> None:
    """Draw memory, handles and disk over time, a column for each sweep."""
    figure, rows = plt.subplots(
        3, len(sweeps), figsize=(8, 6.5), sharex="col", sharey="row", layout="constrained", squeeze=False
    )
    panels = (
        ("memory, MiB", _MIB, {"process": "memory", "workers' own": "children_memory"}),
        ("open", 1, {"descriptors": "descriptors", "threads": "threads", "checkpoint files": "checkpoint_files"}),
        (
            "disk, KiB",
            1024,
            {"all runs": "output_bytes", "their logs": "log_bytes", "checkpoints of a run": "checkpoint_bytes"},
        ),
    )
    styles = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", ":"))  # Okabe-Ito, and told apart in print
    for column, soaked in enumerate(sweeps):
        minutes = [s.seconds / 60 for s in soaked.samples]
        for axes, (label, unit, curves) in zip(rows[:, column], panels, strict=True):
            for (name, field), (colour, style) in zip(curves.items(), styles, strict=False):
                values = [getattr(s, field) / unit for s in soaked.samples]
                axes.plot(minutes, values, style, color=colour, linewidth=1.3, label=name)
            for done in range(1, _RUNS):
                end = next((s.seconds / 60 for s in soaked.samples if s.runs_done == done), None)
                if end is not None:
                    axes.axvline(end, color="0.6", linewidth=0.8, zorder=0)
            axes.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axes.set_ylabel(label)
                axes.legend(frameon=False, fontsize=8, loc="best")
        rows[0, column].set_title(f"{soaked.workers} loader workers", fontsize=10)
        rows[-1, column].set_xlabel("minutes (a grey line ends a run)")
    for axes in rows[:2, 0]:  # the others share it, so it waits for what they show
        axes.set_ylim(bottom=0)
    rows[2, 0].set_yscale("log")  # a checkpoint is small beside the pool's copy
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Soak, judge, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--report", type=Path, default=Path("outputs/soak"))
    arguments = parser.parse_args()
    started = time.perf_counter()
    sweeps: list[Soaked] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        save_tiny_llama(scratch / "model")
        write_pool(scratch / "prompts.jsonl", arguments.prompts)
        for i, workers in enumerate(_WORKERS):
            now, end = time.perf_counter(), started + 60 * arguments.minutes
            sweeps.append(soak(scratch, workers, now + (end - now) / (len(_WORKERS) - i)))
    wrong = [sentence for s in sweeps for sentence in s.wrong()]
    text = page(sweeps, arguments.minutes, wrong, arguments.prompts)
    print(text)
    content = {
        "minutes": (time.perf_counter() - started) / 60,
        "wrong": wrong,
        "sweeps": [
            asdict(s) | {"figures": s.figures(), "samples": [asdict(one) for one in s.samples[:: 1 + len(s.samples) // _SHOWN]]}
            for s in sweeps
        ],
    }
    write_page(arguments.report, [text], content)
    draw(sweeps, arguments.report / "soak.png")
    if wrong:
        raise SystemExit(" ".join(wrong))


if __name__ == "__main__":
    run_plain(main)

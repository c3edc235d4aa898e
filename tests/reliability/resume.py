"""kill -9 at random moments of training runs, each of which is started again: do they end as an undisturbed one does?

    python tests/reliability/resume.py [--kills 20] [--report experiments/results/resume] [overrides of train.py]

By default SmolLM2-135M on story_facts with LoRA dropout, two loader workers, updates split into micro-batches, validation
across epochs and a checkpoint every update. Each run is killed once, at a random moment of a random update, and then started
again. Compared bit for bit: adapter, score matrix, accuracy per prompt, which families of prompts were drawn how often, and of
every update the loss, gradient norm, prompt (where it has one), and whatever its sampler and its loss log of themselves. If
these do the same throughout the undisturbed run, nothing would be tested, and that is said.
"""

import argparse
import csv
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: this is run as a script, whether paft is installed or not

from paft.cli.hydra_app import run_plain
from paft.reporting.logged import ACTED
from paft.reporting.results import read_results
from paft.training.checkpoints import states
from tests.reliability.page import write_page

_ROOT = Path(__file__).parents[2]
_SMALL = ["train_examples=44", "T=2", "eval_prompts=4", "eval_examples=8", "validation.prompts=2", "validation.examples=4"]
_HARD = [
    "model.lora.dropout=0.1",
    "trainer.workers=2",
    "trainer.micro_batch_tokens=256",
    "trainer.checkpoint_every=1",
    "validation.every=5",
    "score_base=false",
]
_LOGGED = ("loss", "grad_norm", "lr", "template", *ACTED)
_FILES = ("adapter/adapter_model.safetensors", "matrix.parquet", "per_prompt.csv")


def start(output_root: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    """Start the run."""
    command = [sys.executable, str(_ROOT / "train.py"), *_SMALL, *_HARD, *overrides, "trainer.progress=false"]
    return subprocess.Popen(
        [*command, f"output_root={output_root}"], cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def finish(output_root: Path, overrides: list[str]) -> Path:
    """Let the run come to its end; return its folder."""
    if start(output_root, overrides).wait() != 0:
        raise SystemExit(f"The run in {output_root} failed; give the same command by hand to see why.")
    (results,) = output_root.glob("*/results.json")
    return results.parent


def log(folder: Path) -> dict[int, tuple[str, ...]]:
    """Return what was logged of every update, by update; where it was done twice, what the last process logged."""
    found = {}
    for path in sorted(folder.glob("log/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1])):
        for row in csv.DictReader(path.open()):
            if row.get("loss"):
                found[int(row["step"])] = tuple(row.get(name, "") for name in _LOGGED)
    return found


def compare(whole: Path, killed: Path) -> None:
    """Check that two runs ended alike."""
    for name in _FILES:
        if (whole / name).read_bytes() != (killed / name).read_bytes():
            raise SystemExit(f"DIFFERENT: {name} of {killed} is not that of the undisturbed run.")
    if log(whole) != log(killed):
        raise SystemExit(f"DIFFERENT: losses or prompts of {killed} are not those of the undisturbed run.")
    a, b = (read_results(folder).training for folder in (whole, killed))
    assert a is not None and b is not None
    if (a.drawn, a.acted, a.probe_tokens) != (b.drawn, b.acted, b.probe_tokens):
        raise SystemExit(f"DIFFERENT: what training drew in {killed} is not what it drew in the undisturbed run.")


def _check_acts(acted: dict[str, list[float | None]]) -> None:
    """Raise SystemExit if a sampler or a loss did the same throughout, so that a lost state would not be seen."""
    idle = [name for name, parts in acted.items() if len({*parts}) == 1]
    if idle:
        raise SystemExit(f"{', '.join(idle)}: the same throughout, so that nothing would be tested; take other overrides.")


def _says(acted: dict[str, list[float | None]]) -> str:
    """Return the figures of each part in words."""
    parts = {name: ", ".join("-" if value is None else f"{value:.3g}" for value in own) for name, own in acted.items()}
    return "; ".join(f"{ACTED[name]}: {own}" for name, own in parts.items()) or "nothing besides"


def main() -> None:
    """Kill, start again, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("outputs/resume"))
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    generator = random.Random(arguments.seed)
    kills: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        whole = finish(Path(scratch) / "whole", arguments.overrides)
        undisturbed = time.perf_counter() - started
        updates = log(whole)
        results = read_results(whole)
        record, workers = results.training, results.config["trainer"]["workers"]
        assert record is not None
        _check_acts(record.acted)
        an_update = record.seconds / len(updates)
        print(f"undisturbed: {len(updates)} updates, {undisturbed:.1f} s", flush=True)
        attempts = count()
        while len(kills) < arguments.kills:
            root = Path(scratch) / f"killed-{next(attempts)}"
            after, delay = generator.choice(sorted(updates)), generator.uniform(0, 2 * an_update)
            process = start(root, arguments.overrides)
            while process.poll() is None and not any(after in log(folder.parent) for folder in root.glob("*/log")):
                time.sleep(0.005)
            time.sleep(delay)
            if process.poll() is not None:
                continue  # it was done before the blow
            process.send_signal(signal.SIGKILL)
            process.wait()
            (folder,) = (path.parent for path in root.glob("*/run.json"))
            kept = [int(path.stem.split("-")[1]) for path in states(folder / "checkpoints")[:1]]
            kills.append({"after update": after + 1, "went on from update": kept[0] if kept else 0})
            print(kills[-1], flush=True)
            compare(whole, finish(root, arguments.overrides))
    command = " ".join(["python tests/reliability/resume.py", f"--kills {arguments.kills}", *arguments.overrides])
    lines = [
        "# kill -9 at random moments of a training run",
        "",
        f"{len(kills)} runs of {len(updates)} updates, each killed once and started again; undisturbed one takes "
        f"{undisturbed:.0f} s. LoRA dropout, {workers} loader workers, several micro-batches an update.",
        "Adapter, score matrix, accuracy per prompt, losses, gradient norms, prompts, and what sampler and loss did are",
        f"bit for bit those of the undisturbed run. What they did, by fifth of the updates: {_says(record.acted)}.",
        "",
        f"| {' | '.join(kills[0])} |",
        "|---:|---:|",
        *(f"| {' | '.join(map(str, kill.values()))} |" for kill in kills),
        "",
        f"Made by `{command}`. Versions and device: results.json.",
        "",
    ]
    print("\n".join(lines))
    write_page(arguments.report, lines, {"undisturbed s": undisturbed, "updates": len(updates), "kills": kills})


if __name__ == "__main__":
    run_plain(main)

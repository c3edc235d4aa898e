"""How long screening takes, and that its memory does not grow with the candidates.

    python -m experiments.benchmarks.screening [--report experiments/results/screening]

500 prompts are kept; 10,000 and 100,000 candidates, put together from random words, are judged against them. Each is near
one of those kept, so that every comparison is made and none is added.
"""

import argparse
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from paft.cli.hydra_app import run_plain
from paft.pools.screening import Candidate, screen
from paft.prompts.pool import Form
from paft.reporting.page import table, write, write_json
from paft.reporting.provenance import provenance

FORM = Form(frozenset({"question"}), frozenset({"A", "B"}), "letter")
TAIL = "\nQuestion: {question}\nA. {A}\nB. {B}\nAnswer:"


def texts(n: int, words: list[str], seed: int) -> Iterator[str]:
    """Yield instructions of forty random words."""
    rng = random.Random(seed)
    for _ in range(n):
        yield " ".join(rng.choices(words, k=40))


def main() -> None:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("outputs/screening"))
    arguments = parser.parse_args()
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 9))) for _ in range(2000)]
    kept = list(texts(500, words, 1))
    rows = []
    for n in (10_000, 100_000):
        new = texts(n, words, 2)
        # A word of a kept prompt changed: a near-copy of one, compared with all.
        candidates = (
            Candidate(f"{kept[i % 500].rsplit(' ', 1)[0]} {text.split(' ', 1)[0]}{TAIL}", str(i), "random")
            for i, text in enumerate(new)
        )
        started = time.perf_counter()
        copies = sum(verdict.reason == "near-copy" for _, verdict in screen(candidates, FORM, 200, [k + TAIL for k in kept]))
        seconds = time.perf_counter() - started
        rows.append((n, copies, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    page = ["# Screening candidates against 500 kept prompts", ""]
    shown = [[f"{n:,}", f"{copies:,}", f"{s:.1f}", f"{mib:.0f}"] for n, copies, s, mib in rows]
    page += table(["candidates", "near-copies found", "seconds", "peak memory, MiB"], shown)
    page += ["Made by `python -m experiments.benchmarks.screening`. Versions and device: results.json."]
    print("\n".join(page))
    write(arguments.report, page)
    write_json(arguments.report, {"rows": rows, **provenance(torch.device("cpu"))})


if __name__ == "__main__":
    run_plain(main)

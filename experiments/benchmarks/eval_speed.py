"""Scoring speed: our engine beside lm-evaluation-harness, in turn on this machine.

    python -m experiments.benchmarks.eval_speed --data DIR [--report experiments/results/eval_speed]
    python -m experiments.benchmarks.eval_speed --data DIR --accelerator cuda --model 135m --examples 250

The same model, precision, templates and examples; the harness gets all templates in one `simple_evaluate`, at the fastest of
its settings that a probe finds (batch size, attention). Each side has processes of its own, set up as it sets itself up; they
take turns, round by round, and the ratio is the median over rounds. On a GPU each side first scores the whole workload once, so
that first use (kernels, graphs) is not counted but said. Without an adapter and with one (unmerged in the harness, whose own
way that is; merged here, its time apart). Predictions are compared in the benchmark's precision, log-probabilities in fp32.
Needs `pip install lm-eval==0.4.13`.
"""

import argparse
import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from experiments.benchmarks.harness_scores import Harness, probe, run_theirs
from experiments.benchmarks.measuring import multiply_rate
from experiments.benchmarks.models import add_model_arguments, command_of, label_of, linear_layers, overrides_of, weights_of
from experiments.benchmarks.scores import (
    WORKLOADS,
    Pass,
    Workload,
    floor_tokens,
    fresh_process,
    load,
    load_ours,
    our_log_probs,
    run_ours,
)
from paft.cli.hydra_app import run_plain
from paft.model.base import device_of, dtype_of
from paft.reporting.page import bullets, number, table, write, write_json
from paft.reporting.provenance import provenance

MODULE = "experiments.benchmarks.eval_speed"


def measure(work: Workload, adapter: bool, rounds: int) -> dict[str, Any]:
    """Run both sides in turn, each in a fresh process."""
    print(f"{work.name}, {'with' if adapter else 'without'} adapter", flush=True)
    work = work.some(len(work.pool.templates) // 2, len(work.examples)) if adapter else work  # half says as much
    with fresh_process(huge_pages=True) as ours, fresh_process(huge_pages=False) as theirs:
        return _measure(ours, theirs, work, adapter, rounds)


def _measure(
    ours: ProcessPoolExecutor, theirs: ProcessPoolExecutor, work: Workload, adapter: bool, rounds: int
) -> dict[str, Any]:
    def our_pass(some: Workload, traced: bool = False) -> Pass:
        return ours.submit(run_ours, some, traced).result()

    def their_pass(some: Workload, with_: Harness, traced: bool = False) -> Pass:
        return theirs.submit(run_theirs, some, adapter, with_, traced).result()

    harness = probe(theirs, work, adapter)
    merging = ours.submit(load_ours, work, adapter).result()
    part = work.some(4, 20)
    alike = their_pass(part, harness).predicted == their_pass(part, replace(harness, batch_size=1)).predicted
    first = {"ours": our_pass(work), "theirs": their_pass(work, harness)} if work.device.type == "cuda" else {}
    our_pass(part)
    passes = []
    for _ in range(rounds):
        passes.append((our_pass(work), their_pass(work, harness)))
        o, t = passes[-1]
        same = float((o.predicted == t.predicted).mean())
        print(f"  ours {o.seconds:.1f} s, theirs {t.seconds:.1f} s, same predictions {100 * same:.2f}%", flush=True)
    our_s, their_s = [o.seconds for o, _ in passes], [t.seconds for _, t in passes]
    last, their_last = passes[-1]
    launches = [our_pass(part, traced=True).launches, their_pass(part, harness, traced=True).launches]
    done, floor, layers = last.work, floor_tokens(work), linear_layers(work.model)
    assert done is not None
    dtype = dtype_of(work.model, work.device)
    rate = ours.submit(multiply_rate, layers, work.batch_tokens, work.device, dtype).result()
    return {
        "workload": work.name,
        "adapter": adapter,
        "cells": work.n_cells,
        "batch tokens": work.batch_tokens,
        "harness batch size": harness.batch_size,
        "harness attention": harness.attention,
        "our seconds": our_s,
        "their seconds": their_s,
        "first pass, seconds": {side: each.seconds for side, each in first.items()},
        "ratio": median(t / o for o, t in zip(our_s, their_s, strict=True)),
        "our tokens/s": done.unshared / median(our_s),
        "same predictions": min(float((o.predicted == t.predicted).mean()) for o, t in passes),
        "harness with itself at batch size 1": float(alike.mean()),
        "part": part.n_cells,
        "computed over floor": (done.tokens - done.filler) / floor,
        "filler": done.filler / done.tokens,
        "without sharing": done.unshared / floor,
        "multiply rate": rate,
        "share of multiply rate": 2 * weights_of(layers) * done.tokens / median(our_s) / rate,
        "launches per cell": [None if n is None else n / part.n_cells for n in launches],
        "peak memory": [last.memory, their_last.memory],
        "merging": merging,
    }


def exactness(work: Workload, prompts: int, examples: int) -> dict[str, Any]:
    """Compare log-probabilities in fp32 on a part of the workload."""
    part = work.some(prompts, examples).in_dtype("fp32")
    harness = Harness("eager" if work.device.type == "cpu" else "sdpa", 8)
    with fresh_process(huge_pages=True) as process:
        process.submit(load_ours, part, False).result()
        ours = process.submit(our_log_probs, part).result()
    with fresh_process(huge_pages=False) as process:
        theirs = process.submit(run_theirs, part, False, harness).result().log_probs
    assert theirs is not None
    difference = np.abs(ours - theirs)
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    return {
        "workload": work.name,
        "largest difference": float(difference.max()),
        "same predictions": float(same),
        "cells": part.n_cells,
    }


def main() -> None:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with <dataset>/<split>.jsonl")
    add_model_arguments(parser)
    parser.add_argument("--rounds", type=int, default=3, help="0: no timing, only whether predictions are the same in fp32")
    parser.add_argument(
        "--exact", type=int, nargs=2, default=(4, 12), metavar="N", help="prompts and examples compared in fp32"
    )
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--examples", type=int, help="of each workload; default: 100 of PIQA, 60 of RACE")
    parser.add_argument("--batch-tokens", type=int, help="of ours; default: as conf/evaluate.yaml has it")
    parser.add_argument("--only", choices=tuple(WORKLOADS), nargs="+", default=tuple(WORKLOADS))
    parser.add_argument("--adapter", choices=("both", "with", "without"), default="both")
    parser.add_argument("--report", type=Path, default=Path("outputs/eval_speed"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    device = device_of(arguments.accelerator)
    settings = [*overrides_of(arguments), f"model.dtype={arguments.dtype}"]
    kinds = {"both": (False, True), "with": (True,), "without": (False,)}[arguments.adapter]
    works = [load(name, arguments.data, settings, arguments.examples, arguments.batch_tokens) for name in arguments.only]
    exact = [exactness(work, *arguments.exact) for work in works]
    for found in exact:
        print(found, flush=True)
    timed = [(work, adapter) for work in works for adapter in kinds] if arguments.rounds else []
    rows = [measure(work, adapter, arguments.rounds) for work, adapter in timed]
    model = label_of(arguments.model, works[0].model)
    content = {"model": model, "dtype": arguments.dtype, "rows": rows, "exactness": exact, **provenance(device)}
    page = page_of(content, command_of(MODULE))
    print("\n".join(page))
    write(arguments.report, page)
    write_json(arguments.report, content)


def page_of(content: dict[str, Any], command: str) -> list[str]:
    """Lay the measurements out."""
    rows, exact, device = content["rows"], content["exactness"], content["device"]
    where = device.name if device.type == "cuda" else f"{device.threads} CPU threads"
    lines = [f"# Scoring beside lm-evaluation-harness 0.4.13, {content['model']}", ""]
    if rows:
        lines += [
            f"{content['dtype']}, {where}; seconds are medians over the rounds, the ratio is the median of the rounds' ratios.",
            "",
            *table(_HEADINGS, map(_row, rows)),
        ]
    notes = [
        *map(_note, rows),
        *(
            f"{e['workload']} in fp32, {e['cells']} cells: log-probabilities differ by at most {e['largest difference']:.1e}, "
            f"{100 * e['same predictions']:.1f}% of the predictions are the same."
            for e in exact
        ),
    ]
    lines += bullets(notes)
    if rows:
        lines += [
            "*rate* is the share of the matrix-multiply rate, measured on the model's own linear layers, that they reach;",
            "*floor* counts the distinct prefixes of the stream, the tokens that any engine must compute.",
            "",
        ]
    return [*lines, f"Made by `{command}`. Versions, device, rounds: results.json."]


_HEADINGS = [
    "workload", "adapter", "cells", "ours, s", "harness, s", "ratio", "same predictions", "computed/floor", "filler", "rate",
    "launches a cell, ours", "harness", "GPU memory reserved, GiB, ours", "harness",
]  # fmt: skip


def _row(row: dict[str, Any]) -> list[Any]:
    ours, theirs = median(row["our seconds"]), median(row["their seconds"])
    figures = [row["workload"], "yes" if row["adapter"] else "no", f"{row['cells']:,}", f"{ours:.1f}", f"{theirs:.1f}"]
    figures += [f"**{row['ratio']:.2f}**", f"{100 * row['same predictions']:.2f}%", f"{row['computed over floor']:.3f}"]
    figures += [f"{100 * row['filler']:.1f}%", f"{100 * row['share of multiply rate']:.0f}%"]
    reserved = [peak["peak_memory_gib"] if "peak_allocated_gib" in peak else None for peak in row["peak memory"]]
    return [*figures, *(number(n, ".1f") for n in (*row["launches per cell"], *reserved))]


def _note(row: dict[str, Any]) -> str:
    note = (
        f"{row['workload']}, {'with' if row['adapter'] else 'without'} adapter: the harness at batch size "
        f"{row['harness batch size']}, {row['harness attention']}; at batch size 1 it agrees with itself on "
        f"{100 * row['harness with itself at batch size 1']:.1f}% of {row['part']} cells. "
        f"Ours, in batches of at most {row['batch tokens']:,} tokens: {row['our tokens/s']:,.0f} tokens/s as if nothing were "
        "shared"
    )
    if first := row["first pass, seconds"]:
        note += f"; the first pass took {first['ours']:.1f} s, the harness's {first['theirs']:.1f}"
    if (merging := row["merging"]) is not None:
        note += f"; adapter {'merged' if merging['merged'] else 'not merged'} in {merging['seconds']} s, which is not counted"
    return f"{note}."


if __name__ == "__main__":
    run_plain(main)

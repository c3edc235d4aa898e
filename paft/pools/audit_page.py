"""Showing an audit of prompt pools: on the terminal, as a page, as JSON and as a figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from paft.pools.audit import Audit, Audited
from paft.pools.mmd import Mmd, curve, mmd, ngram_embeddings
from paft.prompts.similarity import Vectors, bandwidth
from paft.reporting.page import bullets, table, write
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically

_SHOWN = 12  # leaks and defects on the terminal
_SIZES = (2, 5, 10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400)
_ROWS = {
    "prompts": "prompts",
    "wordings": "different wordings",
    "blank_rows": "blank rows",
    "repeated": "repeated",
    "literal_newlines": "with literal \\n",
    "near_copies_within": "near-copies within",
    "defects": "defects",
    "review": "to be looked at",
    "mean_distance": "mean distance",
    "field_order": "field orders",
    "layouts": "layouts",
    "cues": "answer cues",
}
_BETWEEN = {
    "near_copies": "with a near-copy there",
    "same_wording": "with the same wording there",
    "arrangements_of_options_unseen": "with options set out as nowhere there",
    "nearest": "distance to the nearest",
    "mean_distance": "mean distance",
}


# By kind of embedding: the distance of two pools, and by size that of sub-pools of train (squared, root of the biased, null).
Distances = dict[str, tuple[Mmd, dict[int, tuple[float, float, float]]]]


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value if isinstance(value, int) else len(value):,}"


def _tables(audit: Audit) -> list[tuple[list[str], list[list[str]]]]:
    """Return the headings and rows of the table of pools and, if there are several, of the table between them."""
    pools = (
        ["", *audit.files],
        [[title, *(_figure(facts[key]) for facts in audit.files.values())] for key, title in _ROWS.items()],
    )
    between = (
        ["", *audit.between],
        [[title, *(_figure(facts[key]) for facts in audit.between.values())] for key, title in _BETWEEN.items()],
    )
    return [pools, between] if audit.between else [pools]


def print_audit(audit: Audit) -> None:
    """Print the tables of an audit, its leaks and its defects."""
    console = Console()
    for headings, rows in _tables(audit):
        shown = Table()
        for heading in headings:
            shown.add_column(heading, justify="left" if not heading else "right")
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
    lines = [*_leaks(audit), *_defects(audit)]
    for line in lines[:_SHOWN]:
        console.print(line, markup=False, highlight=False)
    if len(lines) > _SHOWN:
        console.print(f"... and {len(lines) - _SHOWN} more; --report DIR writes them all.", highlight=False)
    console.print(f"{len(audit.leaks)} leaks." if audit.leaks else "No leak.", highlight=False)
    if audit.between and audit.unnamed:
        console.print(
            f"Not every prompt of {', '.join(audit.unnamed)} names its families: these were not compared.", highlight=False
        )


def _leaks(audit: Audit) -> list[str]:
    return [
        f"leak: {leak.kind}: {leak.first} / {leak.second}" + ("" if leak.similarity is None else f" ({leak.similarity:.2f})")
        for leak in audit.leaks
    ]


def _defects(audit: Audit) -> list[str]:
    return [
        f"{kind}: {name}, {item['where']}: " + (f"{item['reason']}: {item['detail']}" if kind == "defect" else item["detail"])
        for name, facts in audit.files.items()
        for kind, key in (("defect", "defects"), ("look at", "review"))
        for item in facts[key]
    ]


def print_distances(distances: Distances) -> None:
    """Print the distances of train and test as a table."""
    shown = Table("MMD, train to test", "MMD²", "null, 95%", "p", "biased", "bandwidth")
    for kind, (m, _) in distances.items():
        shown.add_row(kind, f"{m.squared:.4f}", f"{m.null:.4f}", f"{m.p:.3f}", f"{m.biased:.3f}", f"{m.bandwidth:.3f}")
    Console().print(shown)


def save_audit(folder: Path, audit: Audit, pools: Mapping[str, Audited], distances: Distances | None) -> None:
    """Write audit.json, README.md and, if there are distances, the figure of their dependence on pool size."""
    folder.mkdir(parents=True, exist_ok=True)
    content = audit.as_json()
    page = ["# Audit of prompt pools", "", *(f"* {name}: `{pool.path}`" for name, pool in pools.items()), ""]
    for headings, rows in _tables(audit):
        page += table(headings, rows)
    if distances:
        content["mmd"] = {kind: {**asdict(whole), "curve": by_size} for kind, (whole, by_size) in distances.items()}
        save_curve(folder / "mmd.png", distances)
        page += [*distance_table({"train, test": distances}), "", "![MMD over pool size](mmd.png)", ""]
    page += bullets([*_leaks(audit), *_defects(audit)]) or ["No leak, no defect."]
    write_atomically(folder / "audit.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write(folder, page)


def distances(train: Audited, test: Audited, model: str | None, others: Sequence[Audited] = ()) -> Distances:
    """Return, for each kind of embedding, the distance of train and test, and those of sub-pools of train to test.

    An embedding under which all prompts are the same is left out.

    Args:
        model: whose mean hidden states embed the prompts, in addition to character n-grams; None: n-grams alone.
        others: pools of the same task whose distances are to be compared with these; bandwidth and centre are then those of
            the prompts of all pools.

    Raises InputError if a pool has fewer than two prompts, or the model cannot be loaded.
    """
    first, second, *more = ([e.text for e in pool.entries] for pool in (train, test, *others))
    for pool, prompts in ((train, first), (test, second)):
        if len(prompts) < 2:
            raise InputError(f"{pool.path}: a distance needs two prompts at least, this pool has one.")
    texts = [*first, *second, *(text for pool in more for text in pool)]
    embeddings: dict[str, Vectors] = {"character n-grams": ngram_embeddings(texts)}
    if model is not None:
        import torch
        from transformers import AutoModel

        from paft.model.embeddings import load_pretrained, mean_hidden_states

        loaded = load_pretrained(AutoModel, model, torch.float32)
        embeddings[f"mean hidden state, {model}"] = mean_hidden_states(texts, *loaded)
    by_kind: Distances = {}
    for kind, vectors in embeddings.items():
        x, y, width = vectors[: len(first)], vectors[len(first) : len(first) + len(second)], bandwidth(vectors)
        if not width:
            continue
        sizes = sorted({size for size in _SIZES if size < len(first)} | {len(first)})
        by_kind[kind] = mmd(x, y, width), curve(x, y, width, sizes)
    return by_kind


def distance_table(by_pools: Mapping[str, Distances]) -> list[str]:
    """Return the lines of a Markdown table of distances, with an explanation of its columns.

    Args:
        by_pools: distances by the names of the two pools, which are the first column.
    """
    rows = [
        [names, kind, f"{m.bandwidth:.3f}", f"{m.squared:.4f}", f"{m.null:.4f}", f"{m.p:.3f}", f"{m.biased:.3f}"]
        for names, distances in by_pools.items()
        for kind, (m, _) in distances.items()
    ]
    return [
        *table(["pools", "embedding", "bandwidth", "MMD²", "null", "p", "biased MMD"], rows),
        "*MMD²*: unbiased, Gaussian kernel, whose *bandwidth* is the median distance of all prompts of both pools; *null*: its",
        "95% quantile when prompts are dealt to train and test at random, *p*: the share of such deals that are as far apart.",
        "*biased*: the root of the biased estimate, as a plot like the paper's Figure 9 shows it; it falls with the size of",
        "the pools even where nothing differs.",
    ]


def save_curve(path: Path, distances: Distances) -> None:
    """Draw the distance to the test prompts over the number of training prompts (paper, Figure 9)."""
    figure, panels = plt.subplots(1, len(distances), figsize=(5 * len(distances), 3.4), layout="constrained", squeeze=False)
    for axes, (kind, (_, by_size)) in zip(panels[0], distances.items(), strict=True):
        sizes = list(by_size)
        unbiased = [np.sign(squared) * abs(squared) ** 0.5 for squared, _, _ in by_size.values()]
        axes.plot(sizes, unbiased, marker="o", markersize=4, color="#0072B2", label="unbiased")
        axes.plot(sizes, [b for _, b, _ in by_size.values()], color="0.6", linestyle="--", label="biased, as usually plotted")
        nulls = [max(null, 0.0) ** 0.5 for *_, null in by_size.values()]
        axes.plot(sizes, nulls, color="#D55E00", linewidth=1, label="95% null")
        axes.set_title(kind, fontsize=10)
        axes.set_xlabel("training prompts")
        axes.set_xscale("log")
        axes.set_xticks(
            sizes[:: max(1, len(sizes) // 6)], [str(size) for size in sizes[:: max(1, len(sizes) // 6)]], minor=False
        )
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("MMD to the test prompts (signed root)")
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)

"""Showing what an audit of prompt pools found: on the terminal, as a page, as JSON and as a figure."""

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


# kind of embedding -> the distance, and that of ever larger parts of train (squared, biased root, null)
Distances = dict[str, tuple[Mmd, dict[int, tuple[float, float, float]]]]


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value if isinstance(value, int) else len(value):,}"


def _tables(found: Audit) -> list[tuple[list[str], list[list[str]]]]:
    """Return headings and rows of both tables."""
    pools = (
        ["", *found.files],
        [[title, *(_figure(facts[key]) for facts in found.files.values())] for key, title in _ROWS.items()],
    )
    between = (
        ["", *found.between],
        [[title, *(_figure(facts[key]) for facts in found.between.values())] for key, title in _BETWEEN.items()],
    )
    return [pools, between] if found.between else [pools]


def print_audit(found: Audit) -> None:
    """Print tables, leaks and defects."""
    console = Console()
    for headings, rows in _tables(found):
        shown = Table()
        for heading in headings:
            shown.add_column(heading, justify="left" if not heading else "right")
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
    said = [*_leaks(found), *_defects(found)]
    for line in said[:_SHOWN]:
        console.print(line, markup=False, highlight=False)
    if len(said) > _SHOWN:
        console.print(f"... and {len(said) - _SHOWN} more; --report DIR writes them all.", highlight=False)
    console.print(f"{len(found.leaks)} leaks." if found.leaks else "No leak.", highlight=False)
    if found.between and found.unnamed:
        console.print(
            f"Not every prompt of {', '.join(found.unnamed)} names its families: these were not compared.", highlight=False
        )


def _leaks(found: Audit) -> list[str]:
    return [
        f"leak: {leak.kind}: {leak.first} / {leak.second}" + ("" if leak.similarity is None else f" ({leak.similarity:.2f})")
        for leak in found.leaks
    ]


def _defects(found: Audit) -> list[str]:
    return [
        f"{kind}: {name}, {item['where']}: " + (f"{item['reason']}: {item['detail']}" if kind == "defect" else item["detail"])
        for name, facts in found.files.items()
        for kind, key in (("defect", "defects"), ("look at", "review"))
        for item in facts[key]
    ]


def print_distances(apart: Distances) -> None:
    """Print how far train and test are apart."""
    shown = Table("MMD, train to test", "MMD²", "null, 95%", "p", "biased", "bandwidth")
    for kind, (w, _) in apart.items():
        shown.add_row(kind, f"{w.squared:.4f}", f"{w.null:.4f}", f"{w.p:.3f}", f"{w.biased:.3f}", f"{w.bandwidth:.3f}")
    Console().print(shown)


def save_audit(folder: Path, found: Audit, pools: Mapping[str, Audited], apart: Distances | None) -> None:
    """Write audit.json, README.md and, where there are distances, their course over pool size as a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    content = found.as_json()
    page = ["# Audit of prompt pools", "", *(f"* {name}: `{pool.path}`" for name, pool in pools.items()), ""]
    for headings, rows in _tables(found):
        page += table(headings, rows)
    if apart:
        content["mmd"] = {name: {**asdict(whole), "curve": along} for name, (whole, along) in apart.items()}
        save_curve(folder / "mmd.png", apart)
        page += [*distance_table({"train, test": apart}), "", "![MMD over pool size](mmd.png)", ""]
    page += bullets([*_leaks(found), *_defects(found)]) or ["No leak, no defect."]
    write_atomically(folder / "audit.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write(folder, page)


def distances(train: Audited, test: Audited, model: str | None, others: Sequence[Audited] = ()) -> Distances:
    """Return, for each kind of embedding, the distance of the pools and that of ever larger parts of train to test.

    An embedding is left out that cannot tell the prompts apart.

    Args:
        model: embeds prompts with its mean hidden state too; None: with character n-grams alone.
        others: pools of the same task whose distances will stand beside these: bandwidth and centre are those of all prompts.

    Raises InputError if a pool has fewer than two prompts, or the model cannot be loaded.
    """
    first, second, *more = ([e.text for e in pool.entries] for pool in (train, test, *others))
    for pool, prompts in ((train, first), (test, second)):
        if len(prompts) < 2:
            raise InputError(f"{pool.path}: a distance needs two prompts at least, this pool has one.")
    texts = [*first, *second, *(text for pool in more for text in pool)]
    both: dict[str, Vectors] = {"character n-grams": ngram_embeddings(texts)}
    if model is not None:
        import torch
        from transformers import AutoModel

        from paft.model.embeddings import load_pretrained, mean_hidden_states

        loaded = load_pretrained(AutoModel, model, torch.float32)
        both[f"mean hidden state, {model}"] = mean_hidden_states(texts, *loaded)
    found: Distances = {}
    for name, vectors in both.items():
        x, y, width = vectors[: len(first)], vectors[len(first) : len(first) + len(second)], bandwidth(vectors)
        if not width:
            continue
        sizes = sorted({size for size in _SIZES if size < len(first)} | {len(first)})
        found[name] = mmd(x, y, width), curve(x, y, width, sizes)
    return found


def distance_table(apart: Mapping[str, Distances]) -> list[str]:
    """Lay out distances, by the name of their pools, as a Markdown table with its reading."""
    rows = [
        [name, kind, f"{w.bandwidth:.3f}", f"{w.squared:.4f}", f"{w.null:.4f}", f"{w.p:.3f}", f"{w.biased:.3f}"]
        for name, found in apart.items()
        for kind, (w, _) in found.items()
    ]
    return [
        *table(["pools", "embedding", "bandwidth", "MMD²", "null", "p", "biased MMD"], rows),
        "*MMD²*: unbiased, Gaussian kernel, whose *bandwidth* is the median distance of all prompts of both pools; *null*: its",
        "95% quantile when prompts are dealt to train and test at random, *p*: the share of such deals that are as far apart.",
        "*biased*: the root of the biased estimate, as a plot like the paper's Figure 9 shows it; it falls with the size of",
        "the pools even where nothing differs.",
    ]


def save_curve(path: Path, apart: Distances) -> None:
    """Draw the distance to the test prompts over the number of training prompts (paper, Figure 9)."""
    figure, panels = plt.subplots(1, len(apart), figsize=(5 * len(apart), 3.4), layout="constrained", squeeze=False)
    for axes, (name, (_, along)) in zip(panels[0], apart.items(), strict=True):
        sizes = list(along)
        unbiased = [np.sign(squared) * abs(squared) ** 0.5 for squared, _, _ in along.values()]
        axes.plot(sizes, unbiased, marker="o", markersize=4, color="#0072B2", label="unbiased")
        axes.plot(sizes, [b for _, b, _ in along.values()], color="0.6", linestyle="--", label="biased, as usually plotted")
        nulls = [max(null, 0.0) ** 0.5 for *_, null in along.values()]
        axes.plot(sizes, nulls, color="#D55E00", linewidth=1, label="95% null")
        axes.set_title(name, fontsize=10)
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

"""Figures: the distribution of accuracy over prompts."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # works without a display

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe-Ito: safe for the colour-blind
_GREY = "0.4"


def save_distribution(
    path: Path,
    accuracies: Mapping[str, NDArray[np.float64]],
    chance: float,
    threshold: float | None = None,
    unseen: bool = True,
    called: str = "accuracy",
) -> None:
    """Draw one row per run: a dot per prompt, the mean, and the range from worst to best prompt.

    Args:
        accuracies: label -> accuracy (P,) per prompt, as fractions.
        threshold: of Top (paper, section 4.1), a fraction.
        unseen: whether the test prompts may be called so.
        called: what the numbers are called.
    """
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.75 * len(accuracies)), layout="constrained")
    jitter = np.random.default_rng(0)
    labels = list(accuracies)
    for row, label in enumerate(labels):
        percent, y = 100 * np.asarray(accuracies[label]), len(labels) - 1 - row
        colour = _COLOURS[row % len(_COLOURS)]
        axes.plot([percent.min(), percent.max()], [y, y], color=colour, linewidth=1.5, alpha=0.5, zorder=1)
        axes.scatter(
            percent,
            y + jitter.uniform(-0.16, 0.16, len(percent)),
            color=colour,
            s=22,
            alpha=0.65,
            linewidths=0,
            zorder=2,
            clip_on=False,  # so that a dot at 0 is drawn whole
        )
        axes.scatter([percent.mean()], [y], marker="|", s=420, color="black", linewidths=2, zorder=3)
    axes.set_yticks(range(len(labels)), labels[::-1])
    axes.set_ylim(-0.5, len(labels) - 0.5)
    axes.set_xlim(0, 102)
    _draw_references(axes, chance, threshold)
    # Below the whole figure: long labels of rows leave little width to the axes.
    figure.supxlabel(f"{called} on {_prompt(unseen)} (%): a dot per prompt, the bar is their mean", fontsize="medium")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save_overlay(
    path: Path,
    accuracies: Mapping[str, NDArray[np.float64]],
    chance: float,
    threshold: float | None = None,
    unseen: bool = True,
    called: str = "accuracy",
) -> None:
    """Draw several runs over each other (paper, Figure 3): for each run a smoothed density of the accuracy over prompts.

    Every density is scaled to its own peak, so that a run whose prompts are equally good does not flatten the others. The
    ticks below are the prompts. A run whose prompts all have the same accuracy is drawn as a vertical line.

    Args:
        accuracies: label -> accuracy (P,) per prompt, as fractions.
        threshold: of Top (paper, section 4.1), a fraction.
        unseen: whether the test prompts may be called so.
        called: what the numbers are called.
    """
    percents = {label: 100 * np.asarray(values) for label, values in accuracies.items()}
    low, high = _view(np.concatenate(list(percents.values())))
    grid = np.linspace(max(low, 0), min(high, 100), 2000)
    figure, axes = plt.subplots(figsize=(7, 3.4 + 0.3 * len(percents)), layout="constrained")
    for row, (label, percent) in enumerate(percents.items()):
        colour = _COLOURS[row % len(_COLOURS)]
        name = f"{label}: {percent.mean():.1f} ± {percent.std():.1f}"
        if np.ptp(percent) == 0:
            axes.vlines(percent[0], 0, 1, color=colour, linewidth=2.5, label=name)
        else:
            density = _density(percent, grid, least_bandwidth=(high - low) / 200)
            axes.fill_between(grid, density, color=colour, alpha=0.25, linewidth=0)
            axes.plot(grid, np.where(density > 0.002, density, np.nan), color=colour, linewidth=1.8, label=name)
        rug = -0.055 - 0.07 * row
        axes.vlines(percent, rug - 0.025, rug + 0.025, color=colour, alpha=0.6, linewidth=1.2)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.04 - 0.07 * len(percents), 1.08)
    axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
    _draw_references(axes, chance, threshold)
    axes.set_yticks([])
    axes.set_ylabel("density over prompts,\neach scaled to its peak")
    axes.set_xlabel(f"{called} on {_prompt(unseen)} (%): a tick per prompt; mean ± std over prompts")
    axes.spines[["top", "right", "left"]].set_visible(False)
    columns = max(1, min(len(percents), 80 // max(len(label) + 14 for label in percents)))  # about 80 characters fit on a line
    figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _prompt(unseen: bool) -> str:
    return "an unseen prompt" if unseen else "a test prompt"


def _draw_references(axes: Axes, chance: float, threshold: float | None) -> None:
    """Draw lines at chance (unless it is 0) and at the Top threshold where they are in view, labelled on opposite sides."""
    low, high = axes.get_xlim()
    references = [("chance", chance, ":", "right")] if chance else []
    references += [("Top", threshold, "--", "left")] if threshold is not None else []
    for label, accuracy, style, side in references:
        x = 100 * accuracy
        if low <= x <= high:
            axes.axvline(x, color="0.5", linestyle=style, linewidth=1, zorder=0)
            # A label that would leave the picture is centred over its line.
            align = side if 0.1 < (x - low) / (high - low) < 0.92 else "center"
            axes.text(x, 1.01, label, transform=axes.get_xaxis_transform(), ha=align, va="bottom", fontsize=8, color=_GREY)


def _view(percent: NDArray[np.float64]) -> tuple[float, float]:
    """Return the range of percents to show: that of the data with a margin, ten points wide at least."""
    centre, half = (percent.min() + percent.max()) / 2, max(5.0, 0.65 * np.ptp(percent))
    return max(-1.0, float(centre - half)), min(101.0, float(centre + half))


def _density(percent: NDArray[np.float64], grid: NDArray[np.float64], least_bandwidth: float) -> NDArray[np.float64]:
    """Return a Gaussian kernel density (grid points,) with its peak at 1 and no mass below 0 or above 100.

    The bandwidth is Silverman's (Density Estimation for Statistics and Data Analysis, 1986, equation 3.31). The mass beyond
    either end is reflected.
    """
    quartiles = np.quantile(percent, [0.25, 0.75])
    width = min(float(percent.std()), float(np.ptp(quartiles)) / 1.34)
    bandwidth = max(0.9 * width * len(percent) ** -0.2, least_bandwidth)
    reflected = np.concatenate([percent, -percent, 200 - percent])
    density = np.exp(-0.5 * ((grid[:, None] - reflected) / bandwidth) ** 2).sum(axis=1)
    return np.asarray(density / density.max())

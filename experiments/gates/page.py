"""The page of the gates, and what they decide."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.gates.measure import Gates
from experiments.gates.persistence import BY_FAMILY, EVERY, FLOOR, LEAST, PERSISTS
from experiments.gates.probe import ROWS
from experiments.gates.signal import HARDLY, SHUFFLES
from experiments.gates.transfer import BETTER, DRAWS, Transfer
from paft.evaluation.statistics import Array
from paft.model.base import device_of
from paft.reporting.collect import without_places
from paft.reporting.page import bullets, percent, table, write, write_json
from paft.reporting.provenance import provenance
from paft.reporting.results import Results
from paft.reporting.runs import commits


def write_page(found: Sequence[Gates], results: Sequence[Results], out: Path, n_rows: int, command: str) -> None:
    """Write README.md and results.json."""
    page = ["# Gates before any learnt sampler", "", *bullets(says(found)), "## Persistence", ""]
    headings = ["seed", "updates", "mean loss", "templates", "at the same update", "wordings", "layouts", "by family"]
    rows = []
    for gates in found:
        figures = zip(gates.persistence, gates.same_state, gates.of_wordings, gates.of_layouts, strict=False)
        for i, own in enumerate(figures):
            numbers = [f"{value:.2f}" for value in own]
            pair = f"{gates.updates[i]} to {gates.updates[i + 1]}"
            rows.append([str(gates.seed), pair, f"{gates.by_half[i].mean():.3f}", *numbers, percent(gates.families[i])])
    page += table(headings, rows)
    page += [
        f"Rank correlations of losses on half of {n_rows} validation rows with those on the other half, {EVERY} updates later, "
        f"and at the same update (the most that can be expected); {found[0].by_half.shape[1]} training templates, the loss of "
        "an answer token. By family: the share of the spread over templates, in percent, that wording and layout explain at "
        "the first of both updates (additive, adjusted for how many there are).",
        "",
        "## Transfer",
        "",
    ]
    rows = [
        [str(gates.seed), str(update), f"{one.hardest:.3f}", f"{one.at_random.mean():.3f}", *_ends(one), percent(one.rank)]
        for gates in found
        for update, one in gates.transfer.items()
    ]
    headings = ["seed", "update", "hardest", "at random", "2.5%", "97.5%", "better than"]
    page += table(headings, rows)
    page += [
        "Cosine with the gradient on the worst tenth of the validation prompts, of the hardest tenth of the training templates "
        f"and of {DRAWS} sets of as many at random, all on the same {ROWS} training rows. Better than: percent of the sets, "
        "which are drawn from two fifths of the templates, so that a single state comes out more extreme than it is.",
        "",
        "## Signal",
        "",
    ]
    rows = [[str(g.seed), str(g.signal.pool), f"{g.signal.fewest:.1f}", f"{g.signal.shuffled.min():.1f} to "
             f"{g.signal.shuffled.max():.1f}"] for g in found]  # fmt: skip
    page += table(["seed", "templates", "drawn from", "with shuffled templates"], rows)
    page += [
        "From how many templates `sampler=by_loss` would have drawn, at its defaults: the effective number (1 / sum of squared "
        f"probabilities) in the block of updates where it is smallest; the same for {SHUFFLES} shuffles.",
        "",
        f"Made by `{command}` at {commits(run.git for run in results)}. Configs, versions and device: results.json.",
    ]
    out.mkdir(parents=True, exist_ok=True)
    write(out, page)
    runs = [without_places(run).model_dump(mode="json") for run in results]
    origin = provenance(device_of(results[0].config["trainer"]["accelerator"]))
    write_json(out, {"gates": [_plain(gates) for gates in found], "runs": runs, **origin})
    print("\n".join(page))


def says(found: Sequence[Gates]) -> list[str]:
    """Say what the gates decide."""
    gains = [one.advantage for gates in found for one in gates.transfer.values()]
    ranks = [one.rank for gates in found for one in gates.transfer.values()]
    helps = float(np.mean(ranks)) >= BETTER
    return [
        *_lasting(found),
        "The cosine of the gradient of the hardest training templates with that of the worst validation prompts is "
        f"{np.mean(gains):+.3f} from that of templates at random, and above {percent(float(np.mean(ranks)))} percent of theirs "
        f"(bound {percent(BETTER)}): hard mining {'may' if helps else 'is not shown to'} help prompts of other "
        "families.",
        _drawn(found),
        f"Seeds: {', '.join(str(gates.seed) for gates in found)}."
        + ("" if len(found) > 2 else " Fewer than three: exploratory."),
    ]


def _drawn(found: Sequence[Gates]) -> str:
    """Say whether draws by loss depart from uniform ones, and whether that is more than noise."""
    fewest = float(np.mean([gates.signal.fewest / gates.signal.pool for gates in found]))
    differ = [gates.signal.fewest < gates.signal.shuffled.min() for gates in found]
    says = "they tell templates apart" if all(differ) else "they are not shown to tell templates apart"
    hardly = f", but draws hardly change (bound {percent(HARDLY)})" if all(differ) and fewest > HARDLY else ""
    return (
        "By training's own losses `sampler=by_loss` would have drawn, where it departs most from uniform draws, as if from "
        f"{percent(fewest)} percent of the templates, fewer than under shuffled ones in {sum(differ)} of {len(differ)} runs: "
        f"{says}{hardly}."
    )


def _lasting(found: Sequence[Gates]) -> list[str]:
    """Say whether losses of templates and of families last, and whether families can stand for templates."""
    begins = [gates.left_to_gain for gates in found]
    if not any(own.any() for own in begins):
        return [f"The loss was below {FLOOR:g} at the first state: whether losses persist is not known."]

    def mean(of: Callable[[Gates], Array]) -> float:
        return float(np.concatenate([of(gates)[own] for gates, own in zip(found, begins, strict=True)]).mean())

    lasting, ceiling = mean(lambda g: g.persistence), mean(lambda g: np.array(g.same_state[:-1]))
    by_seed = [
        float(gates.persistence[own].mean() / np.array(gates.same_state[:-1])[own].mean())
        for gates, own in zip(found, begins, strict=True)
        if own.any()
    ]
    share = mean(lambda g: np.array(g.families[:-1]))
    families = (
        "Whether families can stand for templates is not known: too few templates were measured."
        if np.isnan(share)
        else f"Wording and layout explain {percent(share)} percent of the spread over templates (bound {percent(BY_FAMILY)}): "
        f"families {'can' if share >= BY_FAMILY else 'cannot'} stand for templates. Their own losses correlate "
        f"{mean(lambda g: g.of_wordings):.2f} (wordings) and {mean(lambda g: g.of_layouts):.2f} (layouts) over {EVERY} updates."
    )
    return [_persists(lasting, ceiling, by_seed), families]


def _persists(lasting: float, ceiling: float, by_seed: Sequence[float]) -> str:
    """Say whether losses of templates last, as far as the rows tell templates apart at all.

    Args:
        ceiling: the correlation of both halves of the rows at the same update.
        by_seed: the ratio of both.
    """
    figures = f"rank correlation {lasting:.2f} on other rows {EVERY} updates later, {ceiling:.2f} at the same update"
    if not ceiling >= LEAST:  # not a number, too
        return f"Whether losses of templates persist is not known: the rows hardly tell templates apart ({figures})."
    seeds = f"; by seed {', '.join(f'{ratio:.2f}' for ratio in by_seed)}" if len(by_seed) > 1 else ""
    figures += f", a ratio of {lasting / ceiling:.2f} (bound {PERSISTS}{seeds})"
    while_it_can = f"over {EVERY} updates, while there is something to gain (loss above {FLOOR:g})"
    above = {ratio >= PERSISTS for ratio in by_seed}
    if len(above) > 1:
        return f"Whether losses of templates persist {while_it_can}, is not decided, because seeds differ: {figures}."
    persists = above == {True}
    can = "A sampler that learns them can work." if persists else "No sampler that learns them can work; only stateless ones."
    return f"Losses of templates {'persist' if persists else 'do not persist'} {while_it_can}: {figures}. {can}"


def _ends(one: Transfer) -> list[str]:
    return [f"{float(np.quantile(one.at_random, share)):.3f}" for share in (0.025, 0.975)]


def _plain(gates: Gates) -> dict[str, Any]:
    """Return the numbers in plain types."""
    second = {
        str(update): {"hardest": one.hardest, "at_random": one.at_random.tolist(), "advantage": one.advantage, "rank": one.rank}
        for update, one in gates.transfer.items()
    }
    arrays = {name: getattr(gates, name).tolist() for name in ("by_half", "persistence", "of_wordings", "of_layouts")}
    third = {"pool": gates.signal.pool, "fewest": gates.signal.fewest, "shuffled": gates.signal.shuffled.tolist()}
    return {"seed": gates.seed, "updates": gates.updates, **arrays, "same_state": gates.same_state, "by_family": gates.families,
            "transfer": second, "signal": third}  # fmt: skip

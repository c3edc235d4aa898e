"""The page of the gates, and what they decide."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.gates.measure import Gates
from experiments.gates.persistence import BY_FAMILY, EVERY, FLOOR, LEAST, PERSISTS, Lasting
from experiments.gates.probe import ROWS
from experiments.gates.signal import HARDLY, SHUFFLES
from experiments.gates.transfer import BETTER, DRAWS, Transfer
from paft.evaluation.statistics import Array
from paft.reporting.collect import without_places
from paft.reporting.page import bullets, percent, table, write, write_json
from paft.reporting.results import Results
from paft.reporting.runs import commits

_KINDS = ("templates", "wordings", "layouts")


def write_page(found: Sequence[Gates], results: Sequence[Results], out: Path, origin: Mapping[str, Any]) -> None:
    """Write README.md and results.json.

    Args:
        origin: the command that measured, the number of validation rows that losses are measured on (rows), and the
            provenance.
    """
    page = ["# Gates before any learnt sampler", "", *bullets(says(found)), "## Persistence", ""]
    headings = ["seed", "updates", "mean loss", *_KINDS, "by family"]
    rows = []
    for gates in found:
        for i in range(len(gates.updates) - 1):
            numbers = [f"{own.later[i]:.2f} of {own.at_once[i]:.2f}" for own in _kinds(gates).values()]
            pair = f"{gates.updates[i]} to {gates.updates[i + 1]}"
            rows.append([str(gates.seed), pair, f"{gates.by_half[i].mean():.3f}", *numbers, percent(gates.families[i])])
    page += table(headings, rows)
    page += [
        f"Rank correlations of losses on half of {origin['rows']} validation rows with those on the other half, {EVERY} "
        "updates later, of those at the same update (about the most that can be expected); the bound is for the ratio, because "
        f"few rows lower both. {found[0].by_half.shape[1]} training templates, the loss of an answer token; wordings and "
        "layouts are means over their templates. By family: the share of the spread over templates, in percent, that wording "
        "and layout explain at the first of both updates (additive, adjusted for how many there are).",
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
        f"Made by `{origin['command']}` at {commits(run.git for run in results)}. Configs, versions and device: results.json.",
    ]
    out.mkdir(parents=True, exist_ok=True)
    write(out, page)
    runs = [without_places(run).model_dump(mode="json") for run in results]
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
    share = float(np.concatenate([np.array(g.families[:-1])[own] for g, own in zip(found, begins, strict=True)]).mean())
    families = (
        "Whether families can stand for templates is not known: too few templates were measured."
        if np.isnan(share)
        else f"Wording and layout explain {percent(share)} percent of the spread over templates (bound {percent(BY_FAMILY)}): "
        f"families {'can' if share >= BY_FAMILY else 'cannot'} stand for templates."
    )
    lasting = [_persists(kind, [_kinds(gates)[kind] for gates in found], begins) for kind in _KINDS]
    return [lasting[0], families, *lasting[1:]]


def _kinds(gates: Gates) -> dict[str, Lasting]:
    """Return how far losses last, by what they are of."""
    return dict(zip(_KINDS, (gates.templates, gates.wordings, gates.layouts), strict=True))


def _persists(kind: str, found: Sequence[Lasting], begins: Sequence[Array]) -> str:
    """Say whether losses of templates or families last, as far as the rows tell them apart at all.

    Args:
        found: by seed.
        begins: by seed, which pairs of states count (S - 1,).
    """
    seen = [(own.later[which], own.at_once[:-1][which]) for own, which in zip(found, begins, strict=True) if which.any()]
    lasting, ceiling = (float(np.concatenate(own).mean()) for own in zip(*seen, strict=True))
    by_seed = [float(later.mean() / at_once.mean()) for later, at_once in seen]
    figures = f"rank correlation {lasting:.2f} on other rows {EVERY} updates later, {ceiling:.2f} at the same update"
    if not ceiling >= LEAST:  # not a number, too
        return f"Whether losses of {kind} persist is not known: the rows hardly tell {kind} apart ({figures})."
    seeds = f"; by seed {', '.join(f'{ratio:.2f}' for ratio in by_seed)}" if len(by_seed) > 1 else ""
    figures += f", a ratio of {lasting / ceiling:.2f} (bound {PERSISTS}{seeds})"
    while_it_can = f"over {EVERY} updates, while there is something to gain (loss above {FLOOR:g})"
    above = {ratio >= PERSISTS for ratio in by_seed}
    if len(above) > 1:
        return f"Whether losses of {kind} persist {while_it_can}, is not decided, because seeds differ: {figures}."
    persists = above == {True}
    can = "A sampler that learns them can work." if persists else "No sampler that learns them can work; only stateless ones."
    follows = f" {can}" if kind == "templates" else ""  # families must stand for templates besides
    return f"Losses of {kind} {'persist' if persists else 'do not persist'} {while_it_can}: {figures}.{follows}"


def _ends(one: Transfer) -> list[str]:
    return [f"{float(np.quantile(one.at_random, share)):.3f}" for share in (0.025, 0.975)]


def _plain(gates: Gates) -> dict[str, Any]:
    """Return the numbers in plain types."""
    second = {
        str(update): {"hardest": one.hardest, "at_random": one.at_random.tolist(), "advantage": one.advantage, "rank": one.rank}
        for update, one in gates.transfer.items()
    }
    lasting = {kind: {"later": own.later.tolist(), "at_once": own.at_once.tolist()} for kind, own in _kinds(gates).items()}
    third = {"pool": gates.signal.pool, "fewest": gates.signal.fewest, "shuffled": gates.signal.shuffled.tolist()}
    return {"seed": gates.seed, "updates": gates.updates, "by_half": gates.by_half.tolist(), "persistence": lasting,
            "by_family": gates.families, "transfer": second, "signal": third}  # fmt: skip

"""The page of a run, report.html: a single HTML file that loads nothing else, and whose size is bounded."""

import datetime
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, Template, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from paft.data.encode import Encoder
from paft.data.render import render
from paft.data.tasks.base import Example
from paft.evaluation.disagreement import Answers
from paft.evaluation.evaluator import Scored
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.robustness import Robustness
from paft.evaluation.tail import FEWEST_OF_A_TAIL
from paft.prompts import PromptPool, PromptTemplate
from paft.reporting.described import facts_of, title_of
from paft.reporting.drawn import drawn_tables
from paft.reporting.logged import ACTED
from paft.reporting.page import percent
from paft.reporting.renderings import Reader, Trained
from paft.reporting.results import Results
from paft.reporting.run_tables import (
    family_tables,
    position,
    prompt_rows,
    some_renderings,
    split_rows,
    strip_of,
    worst_renderings,
)
from paft.reporting.table import answers_given, beware, certainty, coverage, given_by, remarks
from paft.reporting.terms import Terms
from paft.runtime.files import write_atomically

_LONERS = 5  # prompts that answer unlike the others
_MOST_PROMPTS = 300  # rows of the table of prompts
_LONGEST = 2_000  # characters of a text from a row or a template
_LONGEST_RECORD = 20_000  # characters of a record of provenance
_ORIGIN = {"git", "versions", "device", "dtype", "fingerprints"}  # keys of the results


class Figure(NamedTuple):
    """A number of the page's head, with what is to be said in smaller type."""

    name: str
    value: str
    note: str = ""


def write_run_page(
    path: Path,
    results: Results,
    scored: Scored,
    answers: Answers,
    pool: PromptPool,
    examples: Sequence[Example],
    encoder: Encoder | None,
    trained: Sequence[Trained] = (),
    prompt: Callable[[PromptTemplate, Example], str] = render,
) -> None:
    """Write the page of a run, with or without labels.

    Args:
        answers: of the matrix.
        encoder: what tokenised the renderings; None: a server did.
        trained: examples of the training, each with the template that it was shown under, and its shots.
        prompt: the text that a server was sent.
    """
    matrix, labelled = scored.matrix, results.robustness is not None
    date = datetime.datetime.fromtimestamp(scored.path.stat().st_mtime, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    terms, reader = Terms(), Reader(encoder, prompt)
    prompts = prompt_rows(scored, answers, pool, labelled)
    letters = pool.answer == "letter"
    wrong = 1 - matrix.correct.astype(float) if labelled else (answers.codes != answers.majority).astype(float)
    page = _template().render(
        results=results,
        title=title_of(results),
        facts=facts_of(results, matrix.correct.shape[1], date),
        labelled=labelled,
        called=results.scoring.called,
        generated=results.scoring.scoring == "generate",
        letters=letters,
        decoded=encoder is not None,
        main=_figures(results) if labelled else _figures_without_labels(matrix, answers),
        lesser=_lesser_figures(results, answers),
        over=_over(results),
        certainty=certainty(results.uncertainty) if labelled else "",
        warnings=beware(results),
        remarks=_other_remarks(results),
        strip=strip_of(np.array([position(row) for row in prompts])),
        references=_references(results),
        comparison=_comparison(results),
        curve=_curve(results),
        families=family_tables(results, matrix, pool),
        drawn=(drawn := None if results.training is None else results.training.drawn),
        mutated=bool(results.config.get("sampler", {}).get("mutations")),
        drawn_families=[] if drawn is None else drawn_tables(drawn),
        acted=[] if results.training is None else [(ACTED[name], own) for name, own in results.training.acted.items()],
        saw=[*(reader.trained(*pair) for pair in trained)] if encoder is not None else [],
        tested=some_renderings(scored, pool, examples, reader),
        split=split_rows(answers, pool, examples, letters),
        loners=sorted((row for row in prompts if row.majority < 100), key=lambda row: row.majority)[:_LONERS],
        worst=worst_renderings(scored, prompts, wrong, pool, examples, reader),
        prompts=(shown := sorted(prompts, key=position)[:_MOST_PROMPTS]),
        linked={row.place for row in shown},
        n_prompts=len(prompts),
        templates=pool.templates,
        wordings=any(template.wording for template in pool.templates),
        layouts=any(template.layout for template in pool.templates),
        origin=results.model_dump_json(include=_ORIGIN | ({"served"} if results.served else set()), indent=2),
        config=results.model_dump_json(include={"config"}, indent=2),
        terms=terms,
        longest_record=_LONGEST_RECORD,
    )
    write_atomically(path, page)


def cut(text: str, longest: int = _LONGEST) -> str:
    """Return a text, or its beginning and how much is missing."""
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text) - longest:,} more characters)"


@functools.cache  # compiling it takes longer than rendering it
def _template() -> Template:
    environment = Environment(loader=PackageLoader("paft", "reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"explain": _explain, "cut": cut, "percent": "{:.1f}".format, "signed": "{:+.1f}".format}
    return environment.get_template("run_page.html.jinja")


@pass_context
def _explain(context: Context, text: str) -> Markup:
    """Mark the terms of a text: by the page's own Terms, which know what the page has explained so far."""
    terms: Terms = context["terms"]
    return terms.explain(text)


def _figures(results: Results) -> list[Figure]:
    robust, sure = results.robustness, results.uncertainty
    assert robust is not None
    note = ""
    if sure is not None and sure.mean.low is not None and sure.mean.high is not None:
        note = f"{100 * sure.mean.low:.1f} to {100 * sure.mean.high:.1f}"
    figures = [
        Figure("mean", percent(robust.mean), note),
        Figure("std over prompts", percent(robust.std)),
        Figure("worst prompt", percent(robust.min)),
        Figure("best prompt", percent(robust.max)),
    ]
    return [*figures, *([] if robust.top is None else [Figure("Top", percent(robust.top))])]


def _figures_without_labels(matrix: ScoreMatrix, answers: Answers) -> list[Figure]:
    n_prompts, n_rows = matrix.correct.shape
    figures = [Figure("rows", f"{n_rows:,}"), Figure("prompts", f"{n_prompts:,}")]
    if n_prompts == 1:
        return figures
    alike = float(((answers.entropy == 0) & (answers.majority >= 0)).mean())
    return [
        *figures,
        Figure("two prompts agree", percent(answers.agreement)),
        Figure("all prompts agree", percent(alike)),
    ]


def _lesser_figures(results: Results, answers: Answers) -> list[Figure]:
    """Return the figures of the second line: the tail, the agreement of prompts, and how sensitive the answers are."""
    figures = []
    if results.tail is not None and _has_tail(results):
        figures.append(Figure("worst tenth (CVaR10)", percent(results.tail.cvar10)))
        figures.append(Figure("fifth percentile", percent(results.tail.p5)))
    if results.robustness is not None and len(answers.codes) > 1:
        figures.append(Figure("two prompts agree", percent(answers.agreement)))
    if results.consensus is not None and results.consensus.majority is not None:
        figures.append(Figure("majority vote", percent(results.consensus.majority)))
    if (adversarial := results.extra_measures.adversarial) is not None:
        figures.append(Figure("Con", percent(adversarial.mean), f"worst {percent(adversarial.worst)}"))
    if (found := results.sensitivity) is not None:
        figures.append(Figure("flips", percent(found.flip_rate)))
        figures += [] if found.posix is None else [Figure("POSIX", f"{found.posix:.3f}")]
        figures += [] if found.pss is None else [Figure("PSS", f"{found.pss:.3f}")]
        if (sure := found.calibration) is not None:
            figures.append(Figure("ECE", percent(sure.ece), f"worst prompt {percent(sure.worst_ece)}"))
    if results.given:
        figures.append(Figure(given_by(results.labels), answers_given(results.given, results.labels)))
    return figures


def _over(results: Results) -> str:
    if results.robustness is None or results.chance is None:
        return "Percent of the rows, which have no labels: what is right is not known, only where the prompts agree."
    return coverage(results)


def _other_remarks(results: Results) -> list[str]:
    """Return the remarks without those that are figures on the page."""
    no_con = results.extra_measures.model_copy(update={"adversarial": None})
    return remarks(results.model_copy(update={"consensus": None, "extra_measures": no_con}))


def _has_tail(results: Results) -> bool:
    return results.robustness is not None and results.robustness.n_prompts >= FEWEST_OF_A_TAIL


def _curve(results: Results) -> list[tuple[str, float]]:
    """Return the mean accuracy of the worst share of the prompts, for each share below all that holds one prompt at least."""
    if results.tail is None or results.robustness is None or not _has_tail(results):
        return []
    n = results.robustness.n_prompts
    return [(f"{100 * share:.0f}%", 100 * mean) for share, mean in results.tail.curve if 1 <= share * n < n]


def _comparison(results: Results) -> list[tuple[str, Robustness]]:
    """Return the run, the parts of its data set, and its answers written out."""
    if results.robustness is None:
        return []
    rows = [("this run", results.robustness), *results.parts.items()]
    written = results.extra_measures.generate
    if written is not None and written.robustness is not None:
        rows.append(("answers written out", written.robustness))
    return rows


def _references(results: Results) -> list[tuple[float, str]]:
    """Return the lines of the strip, (x in percent, name): chance, if anything can be guessed, and the threshold of Top."""
    known = (results.chance, "chance"), (results.threshold if results.robustness is not None else None, "Top")
    return [(100 * share, name) for share, name in known if share]

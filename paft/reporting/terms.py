"""The words of a page, each explained where it first stands in a sentence (a tooltip), and once more at the page's end."""

import re

from markupsafe import Markup, escape

_TERMS = {
    "accuracy": "The share of the rows that are answered rightly.",
    "chance": "The accuracy that guessing has.",
    "one choice throughout": "The accuracy of giving the same choice to every row: that whose place holds the right answer "
    "most often. A model that answers every row with one letter gets no more.",
    "answers by place": "The share of the answers that are each choice, in percent: A is the first choice of a row.",
    "answers by label": "The share of the answers that are each label, in percent.",
    "mean": "The mean of the prompts' accuracies: what an average wording gets.",
    "std": "The standard deviation of the prompts' accuracies: how far the accuracy of a prompt is from the mean, typically. "
    "0: the wording does not matter.",
    "worst prompt": "The accuracy of the prompt that is answered worst: what the unluckiest user gets.",
    "best prompt": "The accuracy of the prompt that is answered best.",
    "Top": "The share of the prompts whose accuracy reaches the threshold of the data set.",
    "95% interval": "Intervals made in this way hold the true value 95 times in 100, for other prompts and rows of the kind.",
    "CVaR10": "The mean accuracy of the worst tenth of the prompts: what an unlucky user gets. It depends less on luck than "
    "the single worst prompt does.",
    "fifth percentile": "Nineteen of twenty prompts have at least this accuracy.",
    "two prompts agree": "How often two prompts give a row the same answer, be it right or wrong.",
    "majority vote": "The accuracy of the answer that most prompts give to a row.",
    "as the majority": "The share of the rows to which a prompt gives the answer that most prompts give.",
    "all prompts agree": "The share of the rows to which every prompt gives the same answer.",
    "flips": "How often another prompt changes the answer to a row.",
    "POSIX": "By how much another prompt changes the log-probability of an answer, per token (arXiv 2410.02185).",
    "PSS": "How often an answer is right under one prompt and wrong under another (PromptSensiScore, arXiv 2410.12405).",
    "ECE": "Expected calibration error: how far the model's confidence is from its accuracy. 0: they agree.",
    "Con": "The accuracy on adversarial prompts, whose wording was disturbed on purpose.",
    "wording": "Prompts of a wording family say the same thing in nearly the same words.",
    "layout": "Prompts of a layout family put question, options and answer cue in the same order and form.",
    "K": "How many updates share a prompt template before another is drawn.",
    "T": "How many times training goes through all of its rows.",
    "learning rate": "The size of the steps of training, at its highest.",
    "LoRA": "Low-rank adapters: a few new weights are trained, and the model's own stay as they are.",
    "likelihood": "The model's probabilities of all choices are compared; it writes nothing.",
    "entropy": "How evenly prompts are split over the answers to a row, in bits. 0: they all agree.",
}
_SPELLINGS = {"worst prompt": r"worst\s+prompt", "std": r"stds?", "flips": r"flips", "K": r"K(?==\d)", "T": r"T(?==\d)"}
_PATTERNS = {
    term: re.compile(rf"(?<![\w-]){_SPELLINGS.get(term, re.escape(term))}(?![\w-])")
    for term in sorted(_TERMS, key=len, reverse=True)
}


class Terms:
    """Marks the terms in the sentences of a page, and remembers which ones there were."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def explain(self, text: str) -> Markup:
        """Return a text as HTML; the first place of each term in it has the explanation as a tooltip."""
        places: list[tuple[int, int, str]] = []
        for term, pattern in _PATTERNS.items():
            found = next((m for m in pattern.finditer(text) if all(m.end() <= a or m.start() >= b for a, b, _ in places)), None)
            if found:
                places.append((found.start(), found.end(), term))
        pieces, end = [], 0
        for start, stop, term in sorted(places):
            self._used.add(term)
            pieces += [escape(text[end:start]), Markup('<abbr title="{}">{}</abbr>').format(_TERMS[term], text[start:stop])]
            end = stop
        return Markup("").join([*pieces, escape(text[end:])])

    @property
    def used(self) -> dict[str, str]:
        """The terms that were marked so far, each with its explanation."""
        return {term: meaning for term, meaning in _TERMS.items() if term in self._used}

"""TopAccuracy: the search for the training prompt with which the base model is most accurate (paper, section 4.1)."""

from paft.selection.scorer import Scorer, Selection, Trial


def top_accuracy(score: Scorer) -> Selection:
    """Spend the budget evenly on all prompts of the pool and choose the most accurate; of equals the first."""
    templates = score.pool.templates
    n = score.share(len(templates))
    accuracies = score(templates, n)
    trace = tuple(Trial(t.id, float(accuracy), n) for t, accuracy in zip(templates, accuracies, strict=True))
    return Selection(templates[int(accuracies.argmax())], trace)

"""Whether a run has its results, and the scores that it left."""

from pathlib import Path
from typing import Any

from paft.config.schema import DatasetConfig
from paft.evaluation.evaluator import Scored
from paft.evaluation.matrix import read_matrix
from paft.evaluation.metrics import metric_of
from paft.evaluation.store import MatrixStore
from paft.reporting.results import read_results
from paft.runtime import ranks
from paft.runtime.run_folder import RunFolder

# What a training run says once its texts are scored by a function that was changed after the run had finished.
CHOSEN_BEFORE = (
    "The checkpoint was chosen by an earlier version of the function that is dataset.metric; only the test is scored anew."
)


def has_results(folder: RunFolder, dataset: DatasetConfig) -> bool:
    """Return whether a run has its results, which one that another version of its metric's function has scored has not.

    The first rank decides for all, because another process may finish the run right now.
    """
    return ranks.gather(folder.results.is_file() and not outdated(folder.results, dataset))[0]


def outdated(results: Path, dataset: DatasetConfig) -> bool:
    """Return whether a run has finished, but another version of the function that is its metric has scored it.

    Args:
        results: the path of the run's results.json, which may be missing.
    """
    function = metric_of(dataset).function
    if function is None or not results.is_file():
        return False
    recorded = read_results(results).scoring.metric
    return recorded is None or recorded.source != function.source


def scored_before(folder: Path, settings: dict[str, Any]) -> Scored:
    """Return the score matrix that a finished run left in its folder; raises InputError if it is missing or damaged.

    Args:
        settings: by which it was scored, in plain types.
    """
    store = MatrixStore(folder, {})
    return Scored(read_matrix(store.path), store.path, store.seconds(), settings)

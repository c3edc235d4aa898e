"""The search for one training prompt, from config to selection.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from paft.config.schema import TrainConfig
from paft.data.encode import Encoder
from paft.data.inputs import Inputs
from paft.evaluation.evaluator import Evaluator
from paft.evaluation.metrics import metric_of
from paft.model.base import switch_attention
from paft.model.embeddings import mean_hidden_states
from paft.prompts import PromptPool
from paft.runtime import ranks
from paft.runtime.files import write_atomically
from paft.selection.robust import robust
from paft.selection.scorer import Scorer, Selection, Trial
from paft.selection.top_accuracy import top_accuracy
from paft.selection.zopo import zopo


def _read_selection(path: Path, pool: PromptPool) -> Selection | None:
    """Return the selection that an earlier process wrote, None if there is none of a prompt of this pool."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        chosen = next(t for t in pool.templates if t.text == content["chosen"]["text"])
        return Selection(chosen, tuple(Trial(**trial) for trial in content["trace"]))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


def search(
    config: TrainConfig, base: PreTrainedModel, encoder: Encoder, inputs: Inputs, folder: Path, identity: Mapping[str, Any]
) -> Selection:
    """Choose one prompt of the training pool by the search of config.method.

    Writes selection.json, and the score matrices of the search into selection/. An interrupted search resumes, and a finished
    one is read, so that the choice does not change.

    Args:
        base: the base model; the search leaves it with the attention of training.
        folder: the run's.
        identity: what identifies the run, in plain types.
    """
    assert inputs.train is not None and config.method.budget is not None
    if (earlier := _read_selection(folder / "selection.json", inputs.train)) is not None:
        return earlier
    evaluator = Evaluator(base, encoder, config.model, None, identity, config.trainer)
    examples, metric = inputs.examples.validation, metric_of(config.dataset)
    score = Scorer(evaluator, inputs.train, examples, metric, folder / "selection", config.method.budget)
    match config.method.name:
        case "top_accuracy":
            selection = top_accuracy(score)
        case "robust":
            selection = robust(score, config.seed)
        case _:
            embeddings = mean_hidden_states([t.text for t in inputs.train.templates], encoder.tokenizer, base)
            # The first rank's embeddings for all: a rank that rounds differently would test other prompts.
            selection = zopo(score, ranks.gather(embeddings)[0], config.seed)
    switch_attention(base, config.model, backward=True)
    if ranks.rank() == 0:
        write_atomically(folder / "selection.json", json.dumps(selection.as_json(), indent=1, ensure_ascii=False) + "\n")
    return selection

"""One search, from config to the chosen prompt."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from paft.config.schema import TrainConfig
from paft.data.encode import Encoder
from paft.data.inputs import Inputs
from paft.evaluation.evaluator import Evaluator
from paft.model.attention import NAMES
from paft.model.base import kernel_of
from paft.model.embeddings import mean_hidden_states
from paft.prompts import PromptPool
from paft.runtime import ranks
from paft.runtime.files import write_atomically
from paft.selection.robust import robust
from paft.selection.scorer import Scorer, Selection, Trial
from paft.selection.top_accuracy import top_accuracy
from paft.selection.zopo import zopo


def _found(path: Path, pool: PromptPool) -> Selection | None:
    """Return what was chosen before, if anything was."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        chosen = next(t for t in pool.templates if t.text == found["chosen"]["text"])
        return Selection(chosen, tuple(Trial(**trial) for trial in found["trace"]))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


def search(
    config: TrainConfig, base: PreTrainedModel, encoder: Encoder, inputs: Inputs, folder: Path, identity: Mapping[str, Any]
) -> Selection:
    """Choose one prompt of the training pool as config.method says.

    Writes selection.json, and the score matrices that it rests on into selection/: a search that was cut off goes on, and what
    was chosen stays chosen.

    Args:
        base: the base model; its attention is afterwards again that of training.
        identity: what the run is, in plain types.
    """
    assert inputs.train is not None and config.method.budget is not None
    if (found := _found(folder / "selection.json", inputs.train)) is not None:
        return found
    trainer = config.trainer
    evaluator = Evaluator(base, encoder, config.model, None, identity, trainer.micro_batch_tokens, trainer.progress)
    examples, metric = inputs.examples.validation, config.dataset.metric
    score = Scorer(evaluator, inputs.train, examples, metric, folder / "selection", config.method.budget)
    match config.method.name:
        case "top_accuracy":
            found = top_accuracy(score)
        case "robust":
            found = robust(score, config.seed)
        case _:
            embeddings = mean_hidden_states([t.text for t in inputs.train.templates], encoder.tokenizer, base)
            found = zopo(score, ranks.gather(embeddings)[0], config.seed)  # ranks that rounded otherwise would ask for others
    base.set_attn_implementation(NAMES[kernel_of(config.model, base.device, backward=True)])
    if ranks.rank() == 0:
        write_atomically(folder / "selection.json", json.dumps(found.as_json(), indent=1, ensure_ascii=False) + "\n")
    return found

"""Making the encoder of a run or an evaluation: tokenizer, chat template and cut-off."""

from paft.config.schema import EvaluateConfig, TrainConfig
from paft.data.encode import Encoder
from paft.data.inputs import answer_kind
from paft.data.tasks.base import Task
from paft.model.base import load_config, load_tokenizer, window_of


def make_encoder(config: TrainConfig | EvaluateConfig, task: Task) -> Encoder:
    """Return the encoder of a task's rows; raises InputError if the tokenizer cannot be loaded or used."""
    return Encoder(
        load_tokenizer(config.model),
        answer_kind(config.dataset, task),
        min(config.cutoff, window_of(load_config(config.model), config.cutoff)),
        config.model.chat_template,
        config.model.system_prompt,
    )

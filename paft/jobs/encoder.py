"""Making the encoder of a run or an evaluation: tokenizer, chat template and cut-off."""

from collections.abc import Sequence

from paft.config.adapter import Adapter, find_adapter
from paft.config.schema import EvaluateConfig, ModelConfig, TrainConfig
from paft.data.chat import Chat, ChatSettings
from paft.data.encode import Encoder
from paft.data.inputs import answer_kind
from paft.data.tasks.base import Example, Task
from paft.model.adapter import differences, own_tokenizer
from paft.model.base import load_config, load_tokenizer, window_of
from paft.runtime.errors import InputError


def make_encoder(config: TrainConfig | EvaluateConfig, task: Task, shots: Sequence[Example] = ()) -> Encoder:
    """Return the encoder of a task's rows; raises InputError if the tokenizer cannot be loaded or used.

    The tokenizer is that of the base model, or the one beside an adapter that PEFT or TRL made, which it was trained with.

    Args:
        shots: examples that are shown before each one that is scored.
    """
    adapter = _with_own_tokenizer(config)
    tokenizer = load_tokenizer(config.model) if adapter is None else own_tokenizer(adapter, config.model)
    architecture = load_config(config.model)
    chat = Chat(tokenizer, chat_settings(config.model)) if config.model.chat_template else None
    if chat is not None and chat.opens_reasoning and _answers_follow_the_prompt(config):
        raise InputError(
            "model.chat_template=true: this template opens a reasoning block before the answer; close it with "
            "'model.chat_template_args={enable_thinking: false}' if the template has that, or evaluate with scoring=generate."
        )
    return Encoder(
        tokenizer,
        answer_kind(config.dataset, task),
        min(config.cutoff, window_of(architecture, config.cutoff)),
        chat,
        config.dataset.answer_space,
        getattr(architecture.get_text_config(), "vocab_size", None),
        shots,
    )


def own_tokenizer_notes(config: EvaluateConfig) -> list[str]:
    """Say that the tokenizer beside an adapter is used, where it is another one than that of the base model."""
    if (adapter := _with_own_tokenizer(config)) is None:
        return []
    parts = differences(own_tokenizer(adapter, config.model), load_tokenizer(config.model))
    if not parts:
        return []
    return [f"tokenizer: the adapter's own, which differs from its base model's in its {' and its '.join(parts)}"]


def _with_own_tokenizer(config: TrainConfig | EvaluateConfig) -> Adapter | None:
    """Return the adapter that is evaluated, if a tokenizer of its own lies beside it."""
    adapter = find_adapter(config.adapter) if isinstance(config, EvaluateConfig) and config.adapter is not None else None
    return adapter if adapter is not None and adapter.has_tokenizer else None


def chat_settings(model: ModelConfig) -> ChatSettings:
    """Return the settings of a model's chat template."""
    return ChatSettings(model.system_prompt, model.chat_template_args, model.chat_template_date)


def _answers_follow_the_prompt(config: TrainConfig | EvaluateConfig) -> bool:
    """Return whether answers are trained on, or scored, right behind the prompt."""
    if isinstance(config, EvaluateConfig):
        return config.scored_by == "likelihood"
    return config.method.trains or config.dataset.metric == "choice"

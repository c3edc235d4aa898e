"""Settings that need less memory, for where it runs out, and whether what was computed is kept."""

from paft.config.schema import EvaluateConfig, ModelConfig, TrainConfig
from paft.model.base import device_of

_FREE = "end what else uses this device and give the same command again, which resumes"


def less_for_training(config: TrainConfig) -> str:
    """Return, as a clause, what makes a run need less memory.

    A micro-batch is not halved by itself: gradients would be added up in another order, and dropout would draw other masks, so
    that the numbers of a run would depend on what else the device did.
    """
    more = [f"lower cutoff={config.cutoff}"]
    if config.loss.compares:  # what is compared is in one micro-batch, however small trainer.micro_batch_tokens is
        if config.sampler.paired:
            more.append(f"lower sampler.templates_per_update={config.sampler.templates_per_update}")
        else:
            more.append(f"lower examples_per_update={config.examples_per_update}")
    if config.method.trains and not config.model.activation_checkpointing:
        more.append("give model.activation_checkpointing=true")
    whole = config.method.trains and config.model.lora is None
    more += ["give lora@model.lora=paper"] if whole else _quantised(config.model, config.trainer.accelerator)
    return (
        f"{_FREE}, as it does with a smaller trainer.micro_batch_tokens={config.trainer.micro_batch_tokens}; or, which is "
        f"another run, {', '.join(more)}"
    )


def less_for_evaluation(config: EvaluateConfig) -> str:
    """Return, as a clause, what makes an evaluation need less memory, whose batches were halved down to single texts."""
    more = [f"lower cutoff={config.cutoff}"]
    if config.scored_by == "generate":
        more.append(f"lower max_new_tokens={config.max_new_tokens}")
    more += _quantised(config.model, config.trainer.accelerator)
    return f"smaller batches were tried; {_FREE}; or, which is another evaluation, {', '.join(more)}"


def _quantised(model: ModelConfig, accelerator: str) -> list[str]:
    possible = model.quantization is None and device_of(accelerator).type == "cuda"
    return ["give model.quantization=4bit"] if possible else []

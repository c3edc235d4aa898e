"""What a training run is shown beside, as configs: the base model, and one fixed prompt, trained with the same settings.

Both are ordinary runs, of method=base and method=user, in folders of their own, so that all runs of a sweep share them.
Nothing heavy is imported here, so that what one of them lacks shows at once.
"""

import os
from typing import Any

from paft.config.schema import PAPER_LORA, FailUnderConfig, LoggerConfig, LossConfig, MethodConfig, TrainConfig
from paft.data.inputs import Inputs
from paft.runtime.errors import InputError


def base_run_of(config: TrainConfig) -> TrainConfig:
    """Return the config of the base model's run: that of method=base, which is the same whatever adapter is trained.

    It goes into no log but its folder; `method=base logger=wandb` sends it.
    """
    # All weights are trained, and so loaded, in fp32.
    dtype = "fp32" if config.model.lora is None and config.model.dtype == "auto" else config.model.dtype
    model = config.model.model_copy(update={"lora": PAPER_LORA, "dtype": dtype})
    return _alone(config, MethodConfig(name="base")).model_copy(update={"model": model, "logger": LoggerConfig()})


def user_run_of(config: TrainConfig, inputs: Inputs) -> TrainConfig:
    """Return the config of the same run under one fixed prompt: that of method=user.

    The prompt is the shipped plain one. Rows of one's own have none; theirs is the first training prompt.
    """
    assert inputs.train is not None
    prompt = inputs.train.templates[0].text if config.dataset.own_rows else None
    if prompt is not None and "\\n" in prompt:
        raise InputError(
            "compare_with=[user]: the first training prompt holds a backslash before an n, which method.prompt reads as a line "
            "break; put another prompt first."
        )
    user = _alone(config, MethodConfig(name="user", prompt=prompt))
    if os.environ.get("WANDB_SWEEP_ID"):  # an agent waits for one W&B run, which is that of the run itself
        user = user.model_copy(update={"logger": config.logger.model_copy(update={"wandb": False})})
    return user


def _alone(config: TrainConfig, method: MethodConfig) -> TrainConfig:
    """Return the config of a run of another method that is shown beside nothing and measures nothing more."""
    # One prompt has nothing to be compared with: its loss is the mean.
    loss = LossConfig() if config.loss.compares or not method.trains else config.loss
    unused: dict[str, Any] = {"compare_with": [], "extra_measures": [], "rerun": None, "loss": loss}
    score_base = config.score_base or not method.trains
    return config.model_copy(update={**unused, "method": method, "score_base": score_base, "fail_under": FailUnderConfig()})

"""What a training run is shown beside, as configs: the base model, and one fixed prompt, trained with the same settings.

Both are ordinary runs, of method=base and method=user, in folders of their own, so that all runs of a sweep share them.
Nothing heavy is imported here, so that what one of them lacks shows at once.
"""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from paft.config.compose import CONF
from paft.config.schema import FailUnderConfig, LoggerConfig, LoraConfig, MethodConfig, TrainConfig
from paft.data.inputs import Inputs


def base_of(config: TrainConfig) -> TrainConfig:
    """Return the config of the base model's run: that of method=base, which is the same whatever adapter is trained.

    It goes into no log but its folder; `method=base logger=wandb` sends it.
    """
    lora = LoraConfig.model_validate(OmegaConf.to_container(OmegaConf.load(Path(CONF) / "lora" / "paper.yaml")))
    model = config.model.model_copy(update={"lora": lora})
    return _alone(config, MethodConfig(name="base")).model_copy(update={"model": model, "logger": LoggerConfig()})


def user_of(config: TrainConfig, inputs: Inputs) -> TrainConfig:
    """Return the config of the same run under one fixed prompt: that of method=user.

    The prompt is the shipped plain one. Rows of one's own have none; theirs is the first training prompt.
    """
    assert inputs.train is not None
    prompt = inputs.train.templates[0].text if config.dataset.own_rows else None
    return _alone(config, MethodConfig(name="user", prompt=prompt))


def _alone(config: TrainConfig, method: MethodConfig) -> TrainConfig:
    """Return the config of a run of another method that is shown beside nothing and measures nothing more."""
    unused: dict[str, Any] = {"compare_with": [], "extra_measures": [], "rerun": None}
    score_base = config.score_base or not method.trains
    return config.model_copy(update={**unused, "method": method, "score_base": score_base, "fail_under": FailUnderConfig()})

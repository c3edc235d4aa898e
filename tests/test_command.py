"""The command that a page gives is the one that repeats the run."""

import shlex

import pytest

from paft.config.command import command, literal
from paft.config.schema import EvaluateConfig, TrainConfig
from tests.conftest import compose_config, compose_evaluation

OWN = ["dataset=jsonl", "dataset.path='my rows'", "dataset.choices=[A,B]", "dataset.gold=answer", "prompts.train=mine.yaml"]


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ([], "paft train dataset=story_facts"),
        (["dataset=piqa", "K=8", "optim.lr=1e-3"], "paft train dataset=piqa K=8 optim.lr=0.001"),
        (["model=llama3_8b", "method=user"], "paft train dataset=story_facts model=llama3_8b method=user"),
        (["model.path=Qwen/Qwen2.5-0.5B"], "paft train dataset=story_facts model.path=Qwen/Qwen2.5-0.5B"),
        (["experiment=table1", "scale=cpu", "dataset=race_middle"], None),
        (["sampler=mutated", "prompts=v2", "logger=wandb"], None),
        (["model.chat_template=true", "+model.chat_template_args={enable_thinking: false}"], None),
        (["model.chat_template=true", "model.system_prompt='You are brief, \"good\" and (one) \\'letter\\''"], None),
        (["method=user", "method.prompt='{story}\nQ: {question}'"], None),
        (["method=base", "seed=3", "train_examples=null"], None),
        (OWN, None),
    ],
)
def test_a_training_is_repeated(typed, shown):
    config = compose_config(*typed)
    again = command(config)
    assert again is not None and shown in (None, again)
    assert compose_config(*arguments(again, "train")).identity() == config.identity()


@pytest.mark.parametrize(
    "typed",
    [
        ["dataset=story_facts", "model=smollm2_135m", "eval_examples=5"],
        [
            "dataset=jsonl",
            "dataset.path=rows.jsonl",
            "dataset.gold=a",
            "model=smollm2_135m",
            "model.path=x",
            "scoring=generate",
        ],
    ],
)
def test_an_evaluation_is_repeated(typed):
    config = compose_evaluation(*typed)
    again = command(config)
    assert again is not None and compose_evaluation(*arguments(again, "evaluate")) == config


def test_where_it_logs_is_no_part_of_it():
    assert command(compose_config("logger=wandb", "rerun=results.json")) == command(compose_config())


def test_a_config_that_no_command_gives_has_none():
    """As one of a version whose conf/ said something else."""
    config = compose_config()
    odd = config.model_copy(update={"dataset": config.dataset.model_copy(update={"name": "forgotten"})})
    assert isinstance(odd, TrainConfig) and command(odd) is None
    evaluation = compose_evaluation("dataset=story_facts", "model=smollm2_135m")
    gone = evaluation.model_copy(update={"adapter": "/no/such/adapter"})
    assert isinstance(gone, EvaluateConfig) and command(gone) is None


def test_arguments_of_a_chat_template_are_read_back():
    args = {"enable_thinking": False, "depth": 2}
    config = compose_config("model.chat_template=true", f"model.chat_template_args={literal(args)}")
    assert config.model.chat_template_args == args


def arguments(line: str, verb: str) -> list[str]:
    """What a shell makes of a command."""
    paft, given, *typed = shlex.split(line)
    assert (paft, given) == ("paft", verb)
    return typed

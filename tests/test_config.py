"""The config: every YAML composes and parses, names are stable, and nothing heavy is imported to find out."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from paft.config.compose import CONF, from_dict
from paft.config.schema import EvaluateConfig, TrainConfig
from paft.runtime.errors import InputError
from tests.conftest import compose_config, compose_evaluation

REPOSITORY = Path(CONF).parent
# Those that conf/train.yaml may name: conf/evaluate.yaml has an adapter's and served models, and defaults are of every model.
PAGES = [
    (p.parent.name, p.stem) for p in sorted(Path(CONF).glob("*/*.yaml")) if p.stem not in ("adapter", "defaults", "served")
]
EVALUATED = [page for page in PAGES if page[0] in ("dataset", "model")]
NEEDS = {
    ("dataset", "jsonl"): ["dataset.path=rows"],
    ("model", "any"): ["model.path=some/model"],
    ("loss", "tilted"): ["sampler.templates_per_update=4"],
    ("loss", "consistent"): ["sampler.templates_per_update=2", "sampler.paired=true"],
}


def composed(*overrides: str) -> dict[str, Any]:
    """conf/train.yaml with overrides in plain types, not yet checked."""
    with initialize_config_dir(CONF, version_base="1.3"):
        content: Any = OmegaConf.to_container(compose("train", list(overrides)))
        return content


def test_the_groups_are_those_of_the_page():
    assert {group for group, _ in PAGES} == {
        "dataset",
        "model",
        "method",
        "sampler",
        "loss",
        "prompts",
        "trainer",
        "logger",
        "experiment",
        "scale",
        "debug",
        "lora",
        "preset",
    }


@pytest.mark.parametrize(("group", "name"), PAGES, ids=["/".join(page) for page in PAGES])
def test_every_yaml_composes_and_parses(group, name):
    choice = f"lora@model.lora={name}" if group == "lora" else f"{group}={name}"
    config = compose_config(choice, *NEEDS.get((group, name), []))
    if group in ("dataset", "method"):
        assert getattr(config, group).name == name
    if group == "logger":
        assert config.logger.names == ([] if name == "csv" else [name])


def test_every_dataset_works_with_every_method():
    methods = {name: compose_config(f"method={name}").method.model_dump() for group, name in PAGES if group == "method"}
    for dataset in (name for group, name in PAGES if group == "dataset"):
        page = compose_config(f"dataset={dataset}", *NEEDS.get(("dataset", dataset), [])).model_dump()
        for name, method in methods.items():
            assert from_dict(page | {"method": method}).run_name.startswith(f"{dataset}-smollm2-135m-{name}-")


@pytest.mark.parametrize(("group", "name"), EVALUATED, ids=["/".join(page) for page in EVALUATED])
def test_every_dataset_and_model_is_evaluated(group, name):
    choices = {"dataset": "piqa", "model": "smollm2_135m"} | {group: name}
    overrides = [f"{key}={value}" for key, value in choices.items()]
    config = compose_evaluation(*overrides, *NEEDS.get((group, name), []))
    assert config.adapter is None and config.dataset.name


def test_a_path_alone_names_a_model_and_a_data_set():
    """The settings are those of any.yaml and jsonl.yaml, which may be typed; a file that is typed is the one that is taken."""
    paths = ["model.path=some/model", "dataset.path=rows"]
    more = ["model.dtype=fp32", "model.chat_template=true", "dataset.gold=label", "dataset.options=shown"]
    for compose_it in (compose_config, compose_evaluation):
        named = compose_it("model=any", "dataset=jsonl", *paths, *more)
        implied = compose_it(*paths, *more)
        assert implied == named and (implied.model.chat_template, implied.dataset.gold) == (True, "label")
        assert compose_it(*(f"++{override}" for override in (*paths, *more))) == named  # as from Python
        assert compose_it("model=llama3_8b", "dataset=jsonl", *paths).model.path == "some/model"
        lora = compose_it(*paths, "++model.lora.r=2").model.lora
        assert (lora.r, lora.alpha) == (2, named.model.lora.alpha)
    assert compose_evaluation("dataset=piqa", "model.path=m", "++dataset.path=r.jsonl").dataset.name == "piqa"
    assert compose_config("scale=paper", "model.path=some/model").model.activation_checkpointing
    assert (
        compose_config("model.path=some/model").run_name
        == compose_config("model=smollm2_135m", "model.path=some/model").run_name
    )


def test_what_an_evaluation_leaves_open_can_be_typed():
    """The pages of what an adapter decides hold every key of those that take their place without one."""
    for group, file in (("dataset", "jsonl"), ("model", "any")):
        named = composed(f"{group}={file}")[group]
        with initialize_config_dir(CONF, version_base="1.3"):
            page: Any = OmegaConf.to_container(compose("evaluate"))
        assert {*named} - {*page[group]} <= {"lora", "activation_checkpointing"}  # which change no score


def test_a_model_takes_any_adapter():
    config = compose_config("model=qwen2_5_7b", "lora@model.lora=all_linear", "model.lora.r=4")
    assert (config.model.path, config.model.lora.r, len(config.model.lora.target_modules)) == ("Qwen/Qwen2.5-7B", 4, 7)


@pytest.mark.parametrize(
    ("name", "r", "use_dora", "use_rslora"), [("paper", 8, False, False), ("dora", 8, True, False), ("rslora", 64, False, True)]
)
def test_the_kinds_of_adapter(name, r, use_dora, use_rslora):
    lora = compose_config(f"lora@model.lora={name}").model.lora
    assert lora is not None and (lora.r, lora.use_dora, lora.use_rslora) == (r, use_dora, use_rslora)


def test_no_adapter_at_all():
    config = compose_config("lora@model.lora=none", "model=qwen3_0_6b")
    assert config.model.lora is None and config.model.path == "Qwen/Qwen3-0.6B"
    assert from_dict(config.model_dump()).run_name == config.run_name  # as `rerun` reads it


def test_a_model_brings_an_adapter_that_fits_it_and_takes_another():
    assert compose_config("model=phi4_mini").model.lora.target_modules == ["qkv_proj"]
    assert len(compose_config("model=phi4_mini", "lora@model.lora=all_linear").model.lora.target_modules) == 7


def test_models_that_think_are_told_not_to():
    for name in ("qwen3_0_6b", "qwen3_1_7b", "qwen3_8b", "smollm3_3b"):
        model = compose_config(f"model={name}").model
        assert (model.chat_template, model.chat_template_args) == (True, {"enable_thinking": False})


@pytest.mark.parametrize(("preset", "lr"), [("own_rows", 3e-4), ("own_rows_small", 2e-3)])
def test_a_preset_sets_values_that_the_command_line_overrides(preset, lr):
    config = compose_config(f"preset={preset}")
    assert (config.K, config.T, config.optim.lr) == (1, 6, lr)
    assert config.run_name == compose_config("K=1", "T=6", f"optim.lr={lr}").run_name
    config = compose_config("T=2", f"preset={preset}", "optim.lr=1e-3")
    assert (config.K, config.T, config.optim.lr) == (1, 2, 1e-3)


@pytest.mark.parametrize("other", ["scale=cpu", "experiment=demo"])
def test_a_preset_never_goes_with_a_recipe_or_a_scale(other):
    with pytest.raises(InputError, match=rf"^preset=own_rows: {other} has settings of its own"):
        compose_config("preset=own_rows", other)


def test_an_evaluation_uses_the_machine_as_training_does():
    config = compose_evaluation("dataset=piqa", "model=smollm2_135m", "trainer=ddp")
    assert (config.trainer.devices, config.trainer.micro_batch_tokens) == (2, 4096)


@pytest.mark.parametrize("override", ["workers=2", "checkpoint_every=10", "checkpoints_kept=1", "profiler=simple"])
def test_settings_of_training_alone_are_refused_in_an_evaluation(override):
    key = "trainer." + override.partition("=")[0]
    with pytest.raises(InputError, match=rf"^{key} does nothing with an evaluation; leave it out\.$"):
        compose_evaluation("dataset=piqa", "model=smollm2_135m", f"trainer.{override}")


def test_the_page_of_evaluate_and_its_type_have_the_same_keys():
    with initialize_config_dir(CONF, version_base="1.3"):
        page: Any = OmegaConf.to_container(compose("evaluate"))
    assert set(page) == set(EvaluateConfig.model_fields)


def test_page_and_types_have_the_same_keys():
    """Every key of conf/train.yaml has a type, and every setting has its place on the page."""
    page = composed()
    assert set(page) == set(TrainConfig.model_fields)
    for section in ("schedule", "prompts", "optim", "validation", "trainer", "fail_under"):
        fields: Any = TrainConfig.model_fields[section].annotation
        assert set(page[section]) == set(fields.model_fields), section
    for group in ("dataset", "model", "method", "logger"):  # here a page holds what applies
        fields = TrainConfig.model_fields[group].annotation
        for name in (name for g, name in PAGES if g == group):
            assert set(composed(f"{group}={name}")[group]) <= set(fields.model_fields), name


def test_defaults_are_the_papers():
    """Table 8, and the official config where it is silent."""
    config = compose_config()
    assert (config.K, config.T, config.optim.lr, config.train_examples) == (4, 3, 1e-4, 20000)
    assert (config.model.lora.r, config.model.lora.target_modules) == (8, ["q_proj", "v_proj"])
    assert config.schedule.unit == "update" and config.method.name == "paft"
    thresholds = {
        name: compose_config(f"dataset={name}").dataset.threshold for name in ("hellaswag", "piqa", "winogrande", "race")
    }
    assert thresholds == {"hellaswag": 0.9, "piqa": 0.85, "winogrande": 0.8, "race": 0.85}


def test_an_experiment_stands_on_top_of_the_page():
    recipe: Any = OmegaConf.load(Path(CONF) / "experiment" / "demo.yaml")
    assert compose_config("experiment=demo").train_examples == recipe.train_examples != compose_config().train_examples
    assert compose_config("experiment=demo", "train_examples=7").train_examples == 7


def test_the_run_name_is_stable():
    config = compose_config("seed=3")
    assert config.run_name == compose_config("seed=3").run_name
    assert config.run_name == from_dict(config.model_dump()).run_name  # as `rerun` reads it from results.json
    assert config.run_name.rsplit("-", 1)[0] == "story_facts-smollm2-135m-paft-K4-T3-seed3"
    script = "import json, sys; from paft.config.compose import from_dict; print(from_dict(json.loads(sys.argv[1])).run_name)"
    command = [sys.executable, "-c", script, config.model_dump_json()]
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == config.run_name


@pytest.mark.parametrize(
    "override",
    [
        "K=5",
        "T=4",
        "seed=1",
        "optim.lr=2e-4",
        "cutoff=512",
        "schedule.unit=example",
        "prompts.train=mine.yaml",
        "method=user",
        "dataset=piqa",
        "model.path=other/model",
        "model.lora.r=4",
        "lora@model.lora=all_linear",
        "lora@model.lora=dora",
        "model.lora.use_rslora=true",
        "lora@model.lora=none",
        "eval_prompts=3",
    ],
)
def test_what_changes_the_numbers_changes_the_name(override):
    assert compose_config(override).run_name != compose_config().run_name


@pytest.mark.parametrize(
    "override",
    [
        "output_root=elsewhere",
        "data_root=rows",
        "logger=wandb",
        "logger=[wandb,tensorboard]",
        "objective=validation.worst",
        "lora@model.lora=paper",
        "trainer.profiler=simple",
        "score_base=false",
        "compare_with=[user]",
        "fail_under.worst=80",
    ],
)
def test_what_changes_no_number_leaves_the_name(override):
    assert compose_config(override).run_name == compose_config().run_name


def test_a_rerun_stands_beside_its_original():
    assert compose_config("rerun=results.json").run_name == f"{compose_config().run_name}-rerun"


def test_a_config_that_lacks_a_key_names_it():
    content = compose_config().model_dump()
    del content["optim"]["lr"]
    with pytest.raises(InputError, match=r"^optim\.lr has no value; give one with optim\.lr=\.\.\.$"):
        from_dict(content)


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job", "dataset=piqa", "K=2"]], ids=" ".join)
def test_looking_at_the_config_imports_nothing_heavy(arguments, without_torch, tmp_path):
    command = [sys.executable, REPOSITORY / "train.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(without_torch)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert "examples_per_update: 8" in done.stdout
    assert not any(tmp_path.iterdir())


def test_the_guard_against_heavy_imports_guards(without_torch):
    environment = os.environ | {"PYTHONPATH": str(without_torch)}
    done = subprocess.run([sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "torch was imported" in done.stderr


@pytest.mark.parametrize("page", ["train", "evaluate"])
def test_two_sweeps_of_one_second_have_folders_of_their_own(page):
    content = OmegaConf.load(Path(CONF) / f"{page}.yaml")
    assert OmegaConf.to_container(content)["hydra"]["sweep"]["dir"].endswith("%S.%f}")

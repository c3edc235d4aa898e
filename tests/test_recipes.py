"""Recipes: every cell is an ordinary run, a scale changes sizes alone, more measures are added later."""

from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from paft.config.compose import CONF, from_dict, parse
from paft.config.contradictions import check_draws
from paft.config.schema import TrainConfig
from paft.evaluation.matrix import read_matrix
from paft.jobs.one_run import prepare
from paft.jobs.train import run_training
from paft.reporting.results import read_results
from paft.runtime.errors import InputError
from tests.commands import run_command
from tests.conftest import compose_config

GRIDS = sorted(path.stem for path in (Path(CONF) / "experiment").glob("*.yaml") if path.stem != "search")
SCALES = sorted(path.stem for path in (Path(CONF) / "scale").glob("*.yaml"))


def recipe_of(*overrides: str) -> tuple[TrainConfig, dict[str, list[str]]]:
    """A recipe's config, and the lists of values that it sweeps."""
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
    found = OmegaConf.to_container(config.hydra.sweeper).get("params") or {}
    with open_dict(config):
        del config.hydra
    return parse(config), {str(key): str(values).split(",") for key, values in found.items()}


def params(*overrides: str) -> dict[str, list[str]]:
    """The lists of values that a recipe sweeps."""
    return recipe_of(*overrides)[1]


def changed(one: dict[str, Any], other: dict[str, Any], before: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The values of the second config that are not those of the first, by the keys that lead to them."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(one.get(key), dict):
            found |= changed(one[key], value, (*before, key))
        elif key not in one or one[key] != value:
            found[*before, key] = value
    return found


@pytest.mark.parametrize("recipe", GRIDS)
def test_every_recipe_goes_with_every_scale(recipe):
    """Cells are composed at one scale, and what they change is laid over the others: no scale changes it, too."""
    lists, plain = {}, {}
    for scale in SCALES:
        config, lists[scale] = recipe_of(f"experiment={recipe}", f"scale={scale}")
        plain[scale] = config.model_dump()
    for key, values in lists["cpu"].items():
        for value in values:
            cell = compose_config(f"experiment={recipe}", "scale=cpu", f"{key}={value}")
            own = changed(plain["cpu"], cell.model_dump())
            for scale, content in plain.items():
                assert not {*own} & {*changed(plain["cpu"], content)}, (key, value, scale)
                laid = deepcopy(content)
                for (*sections, last), setting in own.items():
                    reduce(getitem, sections, laid)[last] = setting
                config = from_dict(laid)
                check_draws(config)
                assert config.run_name
    for scale, swept in lists.items():
        assert all({*values} <= {*lists["cpu"].get(key, ["0"])} for key, values in swept.items())  # smoke adds seed=0
        assert {*lists["cpu"]} <= {*swept} and (scale != "smoke" or swept["seed"] == ["0"])


def test_a_variant_is_a_run_that_anyone_could_type():
    variants = {"K1_T3": ["K=1", "T=3"], "K1_T6": ["K=1", "T=6"]}
    assert set(variants) <= set(params("experiment=table5")["variant"]) and len(params("experiment=table5")["variant"]) == 5
    for name, typed in variants.items():
        assert compose_config("experiment=table5", f"variant={name}") == compose_config(*typed)
    assert compose_config("experiment=pool_size", "variant=prompts_5") == compose_config("K=1", "train_prompts=5")
    assert compose_config("experiment=pool_size", "variant=prompts_60").identity() == compose_config("K=1").identity()
    composed = compose_config("K=1", "prompts.train=composed", "train_prompts=400")
    assert compose_config("experiment=pool_size", "variant=prompts_400") == composed


def test_what_is_typed_wins_over_the_cell():
    assert compose_config("experiment=table5", "variant=K1_T6", "K=2").K == 2


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_changes_sizes_and_the_model_never_the_method(scale):
    with initialize_config_dir(CONF, version_base="1.3"):
        plain, scaled = (parse(compose("train", overrides)).model_dump() for overrides in ([], [f"scale={scale}"]))
    for key in ("K", "T", "schedule", "examples_per_update", "cutoff", "prompts", "train_prompts", "seed", "extra_measures"):
        assert plain[key] == scaled[key]
    assert plain["model"]["lora"] == scaled["model"]["lora"] and plain["method"]["name"] == scaled["method"]["name"]


def test_a_part_of_the_pool_is_nested_and_follows_the_seed(tiny_overrides):
    def ids(*overrides: str) -> list[str]:
        pool = prepare(compose_config(*tiny_overrides, *overrides)).inputs.train
        assert pool is not None
        return [t.id for t in pool.templates]

    five, ten = ids("train_prompts=5"), ids("train_prompts=10")
    assert len(five) == 5 and set(five) < set(ten) and ten != ids()[:10]
    assert five != ids("train_prompts=5", "seed=1")
    assert len(ids("prompts.train=composed", "train_prompts=400")) == 400
    with pytest.raises(InputError, match="train_prompts=61: the training pool has 60 prompts"):
        ids("train_prompts=61")


def test_more_measures_are_added_to_a_finished_run_without_training_again(tiny_overrides, monkeypatch):
    overrides = [*tiny_overrides, "eval_prompts=10", "eval_examples=12"]
    first = run_training(compose_config(*overrides))
    folder = first.folder
    monkeypatch.setattr("paft.jobs.train.train", lambda *_: pytest.fail("trained again"))
    more = "extra_measures=[generate,adversarial]"
    results = run_training(compose_config(*overrides, more))
    extra = results.extra_measures
    assert results.model_copy(update={"extra_measures": first.extra_measures}) == first and read_results(folder) == results
    generated = read_matrix(folder / "generate.parquet")
    assert extra.generate.output_tokens == pytest.approx(generated.output_tokens.mean())
    assert extra.generate.robustness.mean == pytest.approx(generated.correct.mean())
    con = read_matrix(folder / "adversarial.parquet").correct.mean(axis=1)
    assert (extra.adversarial.mean, extra.adversarial.worst) == pytest.approx((con.mean(), con.min())) and len(con) == 10
    before = (folder / "results.json").stat().st_mtime_ns
    run_training(compose_config(*overrides, more))  # nothing is missing
    assert (folder / "results.json").stat().st_mtime_ns == before


def test_more_measures_of_a_fresh_run_and_of_a_base_model(tiny_overrides):
    for method in ("user", "base"):
        typed = [f"method={method}", "extra_measures=[adversarial]", "score_base=true"]
        results = run_training(compose_config(*tiny_overrides, *typed))
        con = results.extra_measures.adversarial
        assert 0 <= con.worst <= con.mean <= 1 and con.pool.prompts == 10


def test_hidden_options_are_not_written_out():
    with pytest.raises(InputError, match="a model cannot write an option that it was not shown"):
        compose_config("dataset=piqa", "dataset.options=hidden", "dataset.answer=text", "extra_measures=[generate]")


def test_a_sweep_lists_what_failed_and_goes_on_when_it_is_started_again(tiny_overrides, tmp_path):
    sweep = ["train.py", "-m", "experiment=table5", "seed=0", "variant=K1_T3,K2_T3", "train_prompts=60,61"]
    sweep += [o for o in tiny_overrides if not o.startswith("T=")]
    done = run_command(*sweep)
    assert done.returncode == 2 and "2 runs failed; the same command tries them again:" in done.stderr
    assert done.stderr.count("train_prompts=61: the training pool has 60 prompts.") >= 2
    names = {path.parent.name[:-9] for path in (tmp_path / "runs").glob("*/results.json")}
    assert {name.split("-")[-3] for name in names} == {"K1", "K2"}
    again = run_command(*sweep)
    assert again.stdout.count("Finished already") == 2

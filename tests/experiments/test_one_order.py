"""Prompts of one order and the same in all orders: pools, arms, and the page, from real runs of the tiny Llama."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import one_order
from experiments.one_order import ABOVE, ARMS, ORDER, OTHER, SAME, SEEDS, groups_of, main, order_of, overrides, write_page
from paft.config.compose import compose_training
from paft.jobs.train import run_training
from paft.prompts.readers import read_prompts
from paft.prompts.template import PromptTemplate
from paft.reporting.collect import collect
from paft.runtime.errors import InputError
from tests.conftest import small_run

KEPT = Path(one_order.__file__).parent / "results" / "race_qwen05" / "runs"
ONE, ALL = "31 prompts of one order", "60 prompts of five orders"


@pytest.fixture(scope="module")
def runs(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one_order")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(one_order, "COMMON", (*small_run(tiny_llama, root / "runs"), "eval_prompts=null", "eval_examples=3"))
        one_order.write_pools(one_order.POOLS)
        for arm in (ONE, ALL):
            for seed in SEEDS[: 3 if arm == ONE else 2]:
                run_training(compose_training(overrides(arm, seed)))
        yield root


def test_the_pools_have_one_order_or_as_many_prompts_of_all(runs):
    pools = {file.stem: [str(row["text"]) for _, row in read_prompts(file).rows] for file in (runs / one_order.POOLS).iterdir()}
    orders = {name: {order_of(PromptTemplate(text, id="a")) for text in texts} for name, texts in pools.items()}
    assert {name: len(texts) for name, texts in pools.items()} == dict.fromkeys(pools, 31) and len(pools) == 4
    assert orders["one_order"] == {ORDER} and all(len(orders[f"five_orders_{seed}"]) == 5 for seed in SEEDS)


def test_the_page_shows_each_order_apart_and_says_what_is_missing(runs, tmp_path):
    write_page(collect([runs / "runs"]), tmp_path / "out", keep=True)
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| 34 in the order of the 31 | 16 in another order | 13 of these with the options above the story |" in page
    assert f"| {ONE} | 3 |" in page and f"{ALL}: 2 of 3 seeds" in page and "the same in all six orders: 0 of 3 seeds" in page
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    own = np.array(content["arms"][ONE]["accuracy"])
    assert own.shape == (3, 50) and [*content["groups"]] == [SAME, OTHER, ABOVE]
    assert f"{100 * own[:, np.array(content['groups'][OTHER])].mean():.1f} (" in page
    groups = groups_of(collect([tmp_path / "out" / "runs"]).runs[0])  # from what was kept
    assert (groups[SAME] == ~groups[OTHER]).all() and (groups[ABOVE] <= groups[OTHER]).all()


def test_every_arm_composes_and_has_a_name_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["one_order", "commands"])
    main()
    assert len(capsys.readouterr().out.splitlines()) == len(ARMS) * len(SEEDS)
    names = {compose_training(overrides(arm, seed)).run_name for arm in ARMS for seed in SEEDS}
    assert len(names) == len(ARMS) * len(SEEDS)


def test_without_a_finished_run_there_is_no_page(tmp_path):
    with pytest.raises(InputError, match="no finished run of any arm"):
        write_page(collect([KEPT]), tmp_path, keep=False)

"""The screening of methods: every arm composes, its page compares paired seeds at their compute, and says what is missing."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from experiments import methods
from experiments.methods import FILE, Methods, main, read, shown, write_page
from experiments.worst_prompt.ablations import Compared
from experiments.worst_prompt.arms import runs_by_arm
from experiments.worst_prompt.registered import Bounds
from paft.config.compose import compose_training
from paft.evaluation.statistics import Estimate
from paft.jobs.train import run_training
from paft.reporting.collect import collect
from paft.reporting.runs import FinishedRun
from paft.runtime.errors import InputError
from tests.conftest import compose_config, small_run


@pytest.fixture(scope="module")
def small(tiny_llama, tmp_path_factory) -> tuple[Methods, Path]:
    root = tmp_path_factory.mktemp("runs")
    common = [*small_run(tiny_llama, root), "prompts=v2", "evaluate=false", "eval_prompts=null", "eval_examples=3"]
    found = Methods(
        title="Which is better",
        common=common,
        seeds=[0, 1, 2],
        arms={
            "uniform": ["K=1"],
            "perturbed": ["K=1", "loss=perturbed", "loss.warmup=0"],
            "by loss": ["K=1", "sampler=by_loss", "sampler.lag=2"],
        },
        against={"perturbed": ["uniform"], "by loss": ["uniform"]},
        equivalent={"mean": 2, "cvar10": 3},
    )
    for arm in ("uniform", "perturbed"):
        for seed in found.seeds:
            run_training(compose_config(*found.overrides(arm, seed)))
    return found, root


def arms_in(folder: Path, found: Methods) -> dict[str, list[FinishedRun]]:
    return runs_by_arm(collect([folder]), {arm: [found.overrides(arm, seed) for seed in found.seeds] for arm in found.arms})


def test_the_page_compares_arms_at_their_compute_and_names_what_is_missing(small, tmp_path):
    found, root = small
    write_page(collect([root]), found, FILE, tmp_path / "out", keep=True)
    page = (tmp_path / "out" / "README.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| perturbed minus uniform"))
    assert row.split("|")[6].strip() == "2.00, not equal", "an update computed twice costs twice as much"
    (did,) = (line for line in page.splitlines() if line.startswith("| perturbed | "))
    assert "perturbation " in did
    assert "Better at the worst prompts: none. Worse: none." in page
    assert "by loss: 0 of 3 seeds" in page and "| by loss minus" not in page and "Not swept" not in page
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["differences"][0]["seeds"] == [0, 1, 2] and len(content["arms"]["uniform"]["accuracy"][0]) == 40
    again = arms_in(tmp_path / "out" / "runs", found)
    assert {arm: len(own) for arm, own in again.items()} == {"uniform": 3, "perturbed": 3}


def test_the_page_says_what_was_not_swept_and_why_and_what_to_do(small, tmp_path):
    found, root = small
    why = {"by loss": "a gate speaks against it", "tilted": "so does it here", "uniform": "not said of what was run"}
    write_page(collect([root]), found.model_copy(update={"ruled_out": why, "advice": "Draw uniformly."}), FILE, tmp_path, False)
    page = (tmp_path / "README.md").read_text()
    assert "* by loss: a gate speaks against it\n* tilted: so does it here\n" in page and "* Draw uniformly.\n" in page
    assert "not said" not in page and "Not all runs are finished" not in page


def test_what_differences_show_and_exclude_is_said():
    def one(arm: str, low: float, high: float) -> Compared:
        return Compared(arm, "uniform", [0, 1, 2], Estimate((low + high) / 2, low, high), Estimate(0.0, -0.1, 0.1), 1.0, 1)

    said = shown([one("a", 0.01, 0.05), one("b", -0.05, -0.01), one("c", -0.04, 0.02)], Bounds(mean=2, cvar10=3))
    assert said == [
        "Better at the worst prompts: a minus uniform. Worse: b minus uniform.",
        "For the others a larger gain of CVaR10 than this is outside the 95% interval: b minus uniform -1.0; c minus uniform "
        "+2.0.",
    ]


def test_without_a_finished_run_there_is_no_page(small, tmp_path):
    with pytest.raises(InputError, match="no finished run of any arm"):
        arms_in(small[1], small[0].model_copy(update={"seeds": [7, 8, 9]}))


@pytest.mark.parametrize("file", [methods.FILE, methods.FILE.parent / "worst_prompt" / "plateau.yaml"])
def test_every_arm_composes_without_a_look_at_the_test_and_has_a_name_of_its_own(file):
    own = read(file)
    names = [compose_training(own.overrides(arm, seed)).run_name for seed in own.seeds for arm in own.arms]
    assert len({*names}) == len(names) == 3 * len(own.arms) and all(name.endswith("-validation") for name in names)


def test_its_rows_have_no_answers_and_are_none_of_the_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["methods", "rows"])
    main()
    rows = [json.loads(line) for line in methods.ROWS.read_text().splitlines()]
    assert len(rows) == 400 and all({*row} == {"story", "question", "A", "B", "C", "D"} for row in rows)
    known = {row["story"] for row in methods.generate_rows("train", 2000)}
    assert not known & {row["story"] for row in rows}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"against": {"perturbed": "nothing"}}, "names 'nothing', which is none of the arms"),
        ({"common": ["scale=cpu"]}, "needs evaluate=false"),
        ({"seeds": [0]}, "seeds"),
        ({"arm": {}}, "arm"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, change, said):
    path = tmp_path / "methods.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(methods.FILE.read_text()) | change))
    with pytest.raises(InputError, match=said):
        read(path)
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / "nowhere.yaml")

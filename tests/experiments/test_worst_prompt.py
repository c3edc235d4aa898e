"""The registered comparison: its page, and what makes it exploratory; from real runs of the tiny Llama."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.worst_prompt import selection
from experiments.worst_prompt.__main__ import main, print_budget, print_candidates, print_commands
from experiments.worst_prompt.ablations import says
from experiments.worst_prompt.arms import Arms, arms_of
from experiments.worst_prompt.composition import write_composition
from experiments.worst_prompt.few_families import SIZE, write_pools
from experiments.worst_prompt.page import verdict, write_page
from experiments.worst_prompt.registered import FILE, Ablations, Bounds, Registered, compute, exploratory, read, unregistered
from paft.cli.hydra_app import run_plain
from paft.evaluation.statistics import Estimate
from paft.jobs.evaluate import run_evaluation
from paft.jobs.train import run_training
from paft.prompts.readers import read_prompts
from paft.reporting.collect import collect, keep_runs
from paft.runtime.errors import InputError
from tests.conftest import compose_config, compose_evaluation, small_run

KINDS = ["prose", "markup", "transcript", "trailing-marks", "options-first"]


@pytest.fixture(scope="module")
def registered(tiny_llama, tmp_path_factory) -> Registered:
    root = tmp_path_factory.mktemp("runs")
    common = [*small_run(tiny_llama, root), "prompts=v2", "eval_prompts=null", "eval_examples=3"]
    found = Registered(
        common=common,
        baseline=["sampler=uniform", "K=1"],
        method=["sampler=mutated", "K=1", "optim.average=0.5"],
        seeds=[100, 101, 102],
        endpoints=[{"name": "kinds held out", "kinds": KINDS}, {"name": "sections", "kinds": ["sections"]}],
        aim=2,
        guard=0.5,
        ablations={
            "seeds": [100, 101, 102],
            "arms": {
                "K=1": ["sampler=uniform", "K=1"],
                "frozen": ["schedule.unit=row"],
                "3 layouts": ["K=1", f"prompts.train={root}/pools/few_layouts_{{seed}}.yaml"],
            },
            "against": {"frozen": "K=1", "3 layouts": "K=1"},
            "equivalent": {"mean": 2, "cvar10": 3},
        },
    )
    write_pools(found.seeds, root / "pools")
    for overrides in found.runs().values():
        run_training(compose_config(*overrides))
    (root / "registered.yaml").write_text(yaml.safe_dump(found.model_dump()))
    return found


def root_of(registered: Registered) -> Path:
    (root,) = (override.split("=")[1] for override in registered.common if override.startswith("output_root="))
    return Path(root)


def test_the_page_compares_the_arms_at_each_endpoint(registered, tmp_path):
    root = root_of(registered)
    write_page(collect([root]), registered, root / "registered.yaml", tmp_path / "out", keep=True)
    page = (tmp_path / "out" / "README.md").read_text()
    assert "EXPLORATORY" in page and "registered.yaml is in no commit" in page  # the fixture's is in none
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [*content["endpoints"]] == ["kinds held out", "sections"] and content["seeds"] == [100, 101, 102]
    for endpoint in content["endpoints"].values():
        for figure in endpoint.values():
            assert figure["low"] is None or figure["low"] <= figure["value"] <= figure["high"]
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"forest.png", "curve.png", "runs", "pools"}
    assert "| frozen | `schedule.unit=row` | 3 |" in page and "| 3 layouts minus K=1 | 3 |" in page
    assert "is not registered" not in page
    assert "| fifth percentile of the prompts |" in page and "| POSIX (nats) |" in page and "| baseline |" in page
    assert "## What such a study can find" in page and {*content["kinds"]} == {*KINDS, "sections"}
    assert [one["arm"] for one in content["ablations"]] == ["frozen", "3 layouts"]
    assert page.count("EXPLORATORY") == 2, "the ablations' commits are checked, too"
    again = arms_of(collect([tmp_path / "out" / "runs"]), registered)[1]  # from what was kept
    assert again.method.shape == (3, 200, 3) and again.kinds.count("sections") == 100


def test_evaluations_on_unseen_pairs_are_paired_by_the_seed_of_the_training(registered, tmp_path):
    def evaluate(arm: str, seed: int, examples: int = 3) -> None:
        adapter = root_of(registered) / registered.run_name(arm, seed) / "adapter"
        what = [f"adapter={adapter}", f"eval_examples={examples}", "prompts.test=v2_composition", "prompts.allow_seen=true"]
        run_evaluation(
            compose_evaluation(*what, "trainer.accelerator=cpu", f"output_root={tmp_path}", "trainer.progress=false")
        )

    for arm, seeds in {"baseline": (100, 101, 102), "method": (101, 102)}.items():
        for seed in seeds:
            evaluate(arm, seed)
    write_composition(collect([tmp_path]), registered, FILE, tmp_path / "out", keep=True)
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| CVaR10 | 40 |" in page and "2 of 3 registered pairs of seeds, 3 examples" in page
    assert len(collect([tmp_path / "out" / "runs"]).runs) == 4
    with pytest.raises(InputError, match="No seed was evaluated on v2_composition"):
        others = registered.model_copy(update={"seeds": [100, 103, 104]})
        write_composition(collect([tmp_path]), others, FILE, tmp_path / "no", False)
    evaluate("method", 100, examples=2)
    with pytest.raises(InputError, match="test examples"):
        write_composition(collect([tmp_path]), registered, FILE, tmp_path / "no", False)


def test_what_does_not_hold_makes_it_exploratory(registered):
    root = root_of(registered)
    runs, arms = arms_of(collect([root]), registered)
    assert len(arms.of_kinds(["prose"]).kinds) == 20
    problems = exploratory(registered, runs, root / "registered.yaml")
    assert problems == ["registered.yaml is in no commit"]
    missing = exploratory(registered.model_copy(update={"seeds": [100, 101, 103]}), runs, root / "registered.yaml")
    assert sum("is registered and not there" in line for line in missing) == 2
    found, unequal = compute(runs)
    assert found["method"]["updates"] == found["baseline"]["updates"] == 6
    assert bool(unequal) == (abs(found["method"]["tokens"] / found["baseline"]["tokens"] - 1) > 0.01)


def test_a_run_that_lies_in_two_folders_counts_once(registered, tmp_path):
    root = root_of(registered)
    keep_runs(collect([root]), tmp_path)
    runs, _ = arms_of(collect([root, tmp_path / "runs"]), registered)
    assert {arm: [run.seed for run in own] for arm, own in runs.items()} == dict.fromkeys(runs, registered.seeds)


def test_a_run_that_looked_at_the_test_prompts_makes_it_exploratory(registered):
    runs = collect([root_of(registered)]).runs
    assert unregistered(runs, registered) == []
    without = registered.model_copy(update={"ablations": None})
    assert len(unregistered(runs, without)) == 6
    assert all("scored the same test prompts and is not registered" in line for line in unregistered(runs, without))


def test_finished_runs_are_kept_without_a_look_at_their_scores(registered, monkeypatch, capsys, tmp_path):
    root = root_of(registered)
    (tmp_path / "registered.yaml").write_text(yaml.safe_dump(registered.model_dump()))
    command = ["keep", str(root), str(root), "--registered", str(tmp_path / "registered.yaml"), "--out", str(tmp_path / "kept")]
    monkeypatch.setattr(sys, "argv", ["worst_prompt", *command])
    main()
    said = capsys.readouterr().out
    n = len(registered.runs())
    assert said.strip() == f"{n} of {n} registered runs are in {tmp_path / 'kept'}/runs."
    assert len(collect([tmp_path / "kept" / "runs"]).runs) == n


def test_pools_of_few_families_are_of_equal_size(tmp_path):
    write_pools([0, 1], tmp_path)
    pools = {path.stem: [row for _, row in read_prompts(path).rows] for path in tmp_path.iterdir()}
    found = {name: tuple(len({row[key] for row in pool}) for key in ("wording", "layout")) for name, pool in pools.items()}
    assert len(found) == 6 and {len(pool) for pool in pools.values()} == {SIZE}
    for seed in (0, 1):
        assert found[f"few_wordings_{seed}"][0] == 5 and found[f"few_layouts_{seed}"][1] == 3
        assert found[f"many_{seed}"] == (25, 19)
    assert pools["many_0"] != pools["many_1"]


@pytest.mark.parametrize(
    ("tail", "mean", "sentence"),
    [
        (Estimate(0.0, -0.02, 0.02), Estimate(0.0, -0.01, 0.01), "equivalent"),
        (Estimate(0.0, -0.02, 0.02), Estimate(0.0, -0.03, 0.01), "not decided"),
        (Estimate(0.05, 0.02, 0.08), Estimate(0.0, -0.01, 0.01), "better at the worst prompts"),
        (Estimate(-0.05, -0.08, -0.02), Estimate(0.0, -0.01, 0.01), "worse at the worst prompts"),
        (Estimate(0.05), Estimate(0.0, -0.01, 0.01), "too few seeds or families"),
    ],
)
def test_what_a_difference_says(tail, mean, sentence):
    assert says(tail, mean, Bounds(mean=2, cvar10=3)) == sentence


def test_an_arm_is_compared_with_one_that_there_is():
    with pytest.raises(ValueError, match="against names 'K=3', which is none of the arms: K=1"):
        Ablations(seeds=[1, 2, 3], arms={"K=1": []}, against={"K=1": "K=3"}, equivalent=Bounds(mean=2, cvar10=3))


def test_a_registration_in_the_history_before_the_runs(registered, tmp_path, monkeypatch):
    """In a repository of its own: committed before the runs' commit, after it, and changed."""
    import experiments.worst_prompt.registered as module

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "other").write_text("1")
    git("add", ".")
    git("commit", "-qm", "before")
    before = git("rev-parse", "HEAD")
    file = tmp_path / "registered.yaml"
    file.write_text("x: 1\n")
    git("add", ".")
    git("commit", "-qm", "registered")
    after = git("rev-parse", "HEAD")
    monkeypatch.setattr(module, "FILE", file)
    runs, _ = arms_of(collect([root_of(registered)]), registered)

    def problems(commit: str | None, dirty: bool = False) -> list[str]:
        for own in runs.values():
            for run in own:
                git_state = run.results.git.model_copy(update={"commit": commit, "dirty": dirty})
                object.__setattr__(run, "results", run.results.model_copy(update={"git": git_state}))
        return exploratory(registered, runs, file)

    for own in runs.values():  # model_copy loses the folder, which is private
        for run in own:
            run.results._folder = run.folder
    assert problems(after) == []
    assert all(
        "was made at" in line and "whose history does not hold the commit of registered.yaml" in line
        for line in problems(before)
    )
    assert all("changes that are in no commit" in line for line in problems(after, dirty=True))
    assert all("names no commit" in line for line in problems(None))
    file.write_text("x: 2\n")
    assert problems(after) == ["registered.yaml was changed after its commit"]


def arms(gain: float) -> Arms:
    rng = np.random.default_rng(0)
    hard = 0.8 - 0.2 * rng.random(100)
    method, baseline = ((rng.random((12, 100, 60)) < (hard + g)[:, None]).astype(float) for g in (gain, 0.0))
    return Arms(method, baseline, [*range(12)], [f"w{i // 4}" for i in range(100)], ["prose"] * 100)


def test_the_verdict_says_what_is_shown_or_excluded(registered):
    assert "better at the worst prompts by the registered aim of 2 points" in verdict(arms(0.08), registered)
    said = verdict(arms(0.0), registered)
    assert "no gain at the worst prompts is shown; of the " in said and "that there are to gain, gains of more than " in said
    assert "short of the registered aim" in verdict(arms(0.08), registered.model_copy(update={"aim": 20}))
    strict = verdict(arms(0.08), registered.model_copy(update={"guard": -20}))
    assert "worse by more than the registered guard" in strict and "short of" not in strict
    assert verdict(arms(-0.08), registered).endswith(": worse at the worst prompts.")


def test_a_kind_of_layout_that_no_prompt_has_is_one_sentence(registered, tmp_path):
    misspelt = [{"name": "kinds held out", "kinds": ["prose", "mark-up"]}]
    wrong = Registered.model_validate(registered.model_dump() | {"endpoints": misspelt})
    with pytest.raises(InputError, match=r"no test prompt has a layout of the kind 'mark-up'; there are .*markup"):
        write_page(collect([root_of(registered)]), wrong, tmp_path / "registered.yaml", tmp_path / "out", keep=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"endpoints": [{"name": "a", "kinds": ["prose"]}] * 2}, "two endpoints have the same name"),
        ({"ablations": {"seeds": [1, 2, 3], "arms": {"method": []}, "against": {}, "equivalent": {"mean": 2, "cvar10": 3}}},
         "an arm is called 'method'"),
    ],
)  # fmt: skip
def test_names_are_not_given_twice(registered, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Registered.model_validate(registered.model_dump() | change)


@pytest.mark.parametrize("path", sorted(FILE.parent.glob("registered*.yaml")), ids=lambda path: path.stem)
def test_what_is_registered_composes(path):
    found = read(path)
    names = {found.run_name(arm, found.seeds[0]) for arm in ("baseline", "method")}
    assert len(names) == 2 and found.aim > 0 and len({*found.seeds}) == len(found.seeds)


def test_commands_and_budget(registered, tmp_path, capsys):
    root = root_of(registered)
    print_commands(root / "registered.yaml")
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 12 and lines[0].endswith("seed=100") and "sampler=uniform" in lines[0] and "sampler=mutated" in lines[1]
    )
    print_budget([root], 2, 12)
    assert "2 arms x 12 seeds:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "nothing is registered"), ("seeds: [1]\n", "common"), ("a: [\n", "registered.yaml: while")]
)
def test_a_registration_that_is_none_is_one_sentence(tmp_path, content, sentence, monkeypatch, capsys):
    file = tmp_path / "registered.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=sentence):
        read(file)
    monkeypatch.setattr(sys, "argv", ["worst_prompt", "commands", "--registered", str(file)])
    from experiments.worst_prompt.__main__ import main

    with pytest.raises(SystemExit) as exit_:
        run_plain(main)
    assert exit_.value.code == 2 and "error:" in capsys.readouterr().err


def test_the_candidates_that_are_kept_are_even_and_never_see_the_test(capsys):
    candidates = selection.read()
    print_candidates(selection.FILE)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(candidates.seeds) * 2 * len(candidates.baseline) and all(
        "evaluate=false" in line for line in lines
    )
    names = {
        compose_config(*candidates.overrides(side, name)).run_name for side in selection.SIDES for name in candidates.of(side)
    }
    assert len(names) == 2 * len(candidates.baseline)


def test_of_each_side_the_best_lower_bound_is_chosen(tiny_llama, tmp_path):
    common = [*small_run(tiny_llama, tmp_path), "prompts=v2", "evaluate=false", "eval_prompts=null", "eval_examples=8", "K=1"]
    baseline, method = {"K=1": [], "K=2": ["K=2"]}, {"mutated": ["sampler=mutated"], "balanced": ["sampler=balanced"]}
    candidates = selection.Candidates(note="Too few rows.", common=common, seeds=[0, 1], baseline=baseline, method=method)
    for name, overrides in (("K=1", []), ("K=2", ["K=2"]), ("mutated", ["sampler=mutated"])):
        for seed in candidates.seeds[: 1 if name == "K=2" else 2]:
            run_training(compose_config(*common, *overrides, f"seed={seed}"))
    found = selection.trials(collect([tmp_path]), candidates)
    assert [(trial.name, trial.seeds) for trial in found] == [("K=1", [0, 1]), ("K=2", [0]), ("mutated", [0, 1])]
    assert found[0].accuracy.shape == (2, 40) and found[0].kinds.count("sections") == 20
    tails = found[0].tails
    assert found[0].bound == pytest.approx(tails.mean() - abs(tails[0] - tails[1]) / 2)  # std of two, over the root of two
    assert selection.chosen(found) == {"baseline": "K=1", "method": "mutated"}
    selection.write_selection(collect([tmp_path]), candidates, selection.FILE, tmp_path / "out", keep=True)
    page = (tmp_path / "out" / "README.md").read_text()
    assert (
        "Too few rows." in page
        and "Not all runs are finished" in page
        and "| method | balanced | - |" in page
        and page.count("| yes |") == 2
    )
    first = candidates.model_copy(update={"seeds": [0, 9]})  # one seed of each is finished: nothing can be chosen yet
    selection.write_selection(collect([tmp_path]), first, selection.FILE, tmp_path / "early", keep=False)
    assert "Of 3 runs:" in (tmp_path / "early" / "README.md").read_text()
    again = selection.trials(collect([tmp_path / "out" / "runs"]), candidates)
    assert all((a.accuracy == b.accuracy).all() for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": {}}, "method"),
        ({"method": {"a": [], "b": []}}, "as many candidates"),
        ({"common": []}, "evaluate=false"),
        ({"baseline": {str(i): [] for i in range(7)}, "method": {str(i): [] for i in range(7)}}, "at most 12"),
    ],
)
def test_candidates_that_are_unfair_are_refused(tmp_path, change, sentence):
    content = {"common": ["evaluate=false"], "seeds": [0, 1], "baseline": {"a": []}, "method": {"a": []}} | change
    (tmp_path / "candidates.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=sentence):
        selection.read(tmp_path / "candidates.yaml")

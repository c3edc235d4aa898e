"""fail_under: the exit code of a command for a CI, through the command itself."""

from pathlib import Path

import pytest

import paft
from paft.reporting.results import read_results
from tests.commands import run_command
from tests.reliability.bad_inputs.files import lines


@pytest.fixture
def evaluated(tiny_llama, tmp_path) -> list[str]:
    """Overrides of an evaluation of seconds, under ten prompts."""
    return [
        "dataset=story_facts",
        "model=smollm2_135m",
        f"model.path={tiny_llama}",
        "model.dtype=fp32",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        "eval_prompts=10",
        "eval_examples=8",
        f"output_root={tmp_path / 'runs'}",
    ]


def test_a_result_below_its_bound_is_exit_code_1_and_a_sentence(evaluated, tmp_path):
    done = run_command("evaluate.py", *evaluated, "fail_under.worst=99")
    assert done.returncode == 1 and "Verdict: " in done.stdout and "Traceback" not in done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    (folder,) = (tmp_path / "runs").glob("eval-*")
    worst = read_results(folder).per_prompt().iloc[0]
    assert sentence.startswith(f"worst {100 * worst['accuracy']:.2f} is below fail_under.worst=99; the worst prompt is ")
    assert f"is {worst['prompt_id']} (" in sentence and sentence.endswith("'.")
    passed = run_command("evaluate.py", *evaluated, "fail_under.worst=0", "fail_under.mean=0")
    assert passed.returncode == 0 and "fail_under" not in passed.stderr and "Finished already" in passed.stdout
    again = run_command("evaluate.py", *evaluated, "fail_under.worst=99", "fail_under.mean=99.5", "fail_under.cvar10=98")
    assert again.returncode == 1 and "Finished already" in again.stdout
    assert all(f"is below fail_under.{name}" in again.stderr for name in ("worst=99", "mean=99.5", "cvar10=98"))
    assert [*(tmp_path / "runs").glob("eval-*")] == [folder]  # a bound is no part of what is measured


def test_the_other_evaluations_of_a_sweep_go_on(evaluated, tmp_path):
    done = run_command(
        "evaluate.py", "-m", "eval_examples=6,7", "fail_under.mean=99", *(o for o in evaluated if "eval_ex" not in o)
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "2 runs are below a bound:\n" in done.stderr and "is below fail_under.mean=99" in done.stderr
    assert len(list((tmp_path / "runs").glob("eval-*/results.json"))) == 2


def test_training_has_bounds_too(tiny_overrides):
    done = run_command("train.py", *tiny_overrides, "fail_under.mean=99")
    assert done.returncode == 1 and "is below fail_under.mean=99; the worst prompt is " in done.stderr
    assert run_command("train.py", *tiny_overrides, "fail_under.mean=0").returncode == 0


def test_in_python_a_number_is_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (paft.train, paft.evaluate):
        with pytest.raises(paft.InputError, match=r"^fail_under: that is the exit code of a command; in Python compare"):
            call(dataset="story_facts", fail_under={"worst": 80})


def test_a_value_that_equals_its_bound_is_not_below_it(tmp_path):
    from paft.config.schema import FailUnderConfig
    from paft.reporting.bounds import check_bounds
    from paft.runtime.errors import BelowBoundError
    from tests.reporting.test_run_page import written

    results, _ = written(tmp_path)  # prompt i of twelve answers i of twelve rows
    (tmp_path / "prompts").mkdir()
    texts = [{"text": f"{i} {{question}} {{A}} {{B}}", "id": f"p{i:02}", "wording": "", "layout": ""} for i in range(12)]
    (tmp_path / "prompts" / "test.yaml").write_text(lines({"prompts": texts}))
    object.__setattr__(results.fingerprints, "pools", {"test": type("Pool", (), {"fingerprint": "x"})()})
    mean = 100 * results.robustness.mean
    check_bounds(FailUnderConfig(mean=mean, worst=0), results)
    with pytest.raises(
        BelowBoundError, match=r"^mean 45\.83 is below fail_under\.mean=45\.9; the worst prompt is p00 \(0\.0\)"
    ):
        check_bounds(FailUnderConfig(mean=45.9, worst=0), results)
    assert Path(results.folder) == tmp_path

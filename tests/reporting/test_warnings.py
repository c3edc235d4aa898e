"""What a matrix shows that makes its accuracy mean less is said in one line each, and nothing is said of a sound one."""

from dataclasses import replace

import numpy as np
import pytest

from paft.data.checks import LeftOut
from paft.evaluation.matrix import ScoreMatrix
from paft.prompts.seen import Seen
from paft.reporting.compare import compare_sides, notes
from paft.reporting.results import read_results
from paft.reporting.summary import summarise
from paft.reporting.table import beware, input_remarks, print_run
from paft.reporting.warnings import few_templates
from tests.reporting.test_compare import KEPT, write_run

LIKELIHOOD = {"scoring": "likelihood", "merged": True, "prompts_with_split_letters": 0}
GENERATED = LIKELIHOOD | {"scoring": "generate", "max_new_tokens": 8, "stop_at_line_break": True}


def matrix(predicted: np.ndarray, gold: np.ndarray, choices: int, tokens: int = 0) -> ScoreMatrix:
    """A matrix of P prompts x E examples with these answers; without choices the answers are right where they equal gold."""
    n_prompts, n_examples = predicted.shape
    prompts, examples = (tuple(f"{kind}{i}" for i in range(n)) for kind, n in (("p", n_prompts), ("e", n_examples)))
    no = np.zeros(predicted.shape, bool)
    correct, shown = predicted == gold, predicted if choices else np.full(predicted.shape, -1)
    return ScoreMatrix(
        prompts, prompts, examples, examples, ("all",) * n_examples, examples, (choices,) * n_examples,
        gold if choices else np.full(gold.shape, -1), shown, correct, no, no, np.full(predicted.shape, tokens),
    )  # fmt: skip


def warnings(found: ScoreMatrix, free_form: np.ndarray | None = None, **settings) -> list[str]:
    return summarise(found, None, LIKELIHOOD | settings, free_form=free_form).warnings


GOLD = np.arange(200) % 4


def answers(share: float, prompts: int = 20, examples: int = 200) -> np.ndarray:
    """Answers to GOLD of which this share is right under every prompt, on examples that differ from prompt to prompt."""
    right = np.random.default_rng(0).random((prompts, examples)) < share
    return np.where(right, GOLD[:examples], (GOLD[:examples] + 1 + np.arange(examples) % 3) % 4)


@pytest.mark.parametrize(
    ("share", "prompts", "said"),
    [
        (0.6, 20, None),
        (0.25, 20, "cannot be told from chance"),
        (0.10, 20, "is below chance"),
        (0.30, 5, None),  # no interval: by the value alone
        (0.20, 5, "cannot be told from chance"),
        (0.0, 5, "is below chance"),
    ],
)
def test_chance_is_judged_by_the_interval_or_by_the_value(share, prompts, said):
    found = matrix(answers(share, prompts), GOLD, 4)
    lines = warnings(found)
    assert len(lines) == (said is not None) and (said is None or said in lines[0])
    assert all(f"mean {100 * found.correct.mean():.1f}, chance 25.0" in line for line in lines)


def test_an_accuracy_of_chance_exactly_is_at_chance():
    (line,) = warnings(matrix(np.where(np.arange(40) % 4 == 0, GOLD[:40], (GOLD[:40] + 1) % 4)[None], GOLD[:40], 4))
    assert "cannot be told from chance (mean 25.0, chance 25.0)" in line


def test_free_form_answers_have_no_chance_but_zero():
    gold = np.arange(30)
    assert warnings(matrix(np.stack([gold] * 3), gold, 0)) == []
    assert [line[:28] for line in warnings(matrix(np.stack([gold + 1] * 3), gold, 0))] == ["Not one answer is right: see"]


def test_rows_without_labels_are_not_judged():
    found = matrix(answers(0.25), GOLD, 4)
    assert summarise(found, None, LIKELIHOOD, labelled=False).warnings == []


@pytest.mark.parametrize(("constant", "said"), [(20, "20 of 20"), (10, "10 of 20"), (9, None)])
def test_one_choice_throughout_is_no_accuracy(constant, said):
    predicted = answers(0.9)
    predicted[:constant] = np.arange(constant)[:, None] % 2  # A under one prompt, B under the next
    predicted[:constant, :10] = 3  # 95% are enough
    lines = [line for line in warnings(matrix(predicted, GOLD, 4)) if "one choice" in line]
    assert len(lines) == (said is not None)
    assert said is None or lines[0].startswith(
        f"Under {said} prompts nearly all answers are one choice, whatever the row says (A or B"
    )
    predicted[:constant, :11] = 3
    assert not [line for line in warnings(matrix(predicted, GOLD, 4)) if "one choice" in line]


def test_a_choice_after_z_is_named_by_its_place_from_one():
    (line,) = [line for line in warnings(matrix(np.full((3, len(GOLD)), 26), GOLD, 30)) if "one choice" in line]
    assert "(27, by its place)" in line


def test_few_rows_show_no_one_choice():
    assert not [line for line in warnings(matrix(np.zeros((3, 19), int), GOLD[:19], 4)) if "one choice" in line]


@pytest.mark.parametrize(("without", "said"), [(400, None), (401, "10.0%"), (1000, "25.0%")])
def test_texts_without_an_answer_are_about_the_format(without, said):
    predicted = answers(0.9)
    predicted.T.flat[:without] = -1  # of the first rows, under every prompt
    lines = warnings(matrix(predicted, GOLD, 4, tokens=3), **GENERATED)
    assert [line.split()[0] for line in lines] == ([] if said is None else [said])
    assert said is None or "of the generated texts hold no answer and count as wrong" in lines[0]
    gold = np.arange(200)
    free = matrix(np.stack([gold] * 20), gold, 0, tokens=3)
    assert [line.split()[0] for line in warnings(free, free_form=predicted, **GENERATED)] == [line.split()[0] for line in lines]


@pytest.mark.parametrize(("without", "said"), [(100, []), (101, ["Under 1 of 20 prompts most of the generated texts hold no"])])
def test_a_prompt_whose_texts_hold_no_answer_is_named(without, said):
    """One prompt in twenty is too few to be seen in the share of all texts."""
    predicted = answers(0.9)
    predicted[7, :without] = -1
    lines = warnings(matrix(predicted, GOLD, 4, tokens=3), **GENERATED)
    assert [line[:54] for line in lines] == [line[:54] for line in said] and all("(under p7 50.5%)" in line for line in lines)


def test_chance_over_all_prompts_is_not_chance_under_each():
    predicted = np.stack([GOLD] * 3 + [answers(0.05)[0]] * 17)
    (line,) = warnings(matrix(predicted, GOLD, 4))
    assert "the accuracy over all prompts is above chance" in line and "but under 3 of 20 it is;" in line


def test_texts_that_were_cut_off_are_said_to_be():
    predicted, gold = answers(0.9), GOLD
    assert warnings(matrix(predicted, gold, 4, tokens=7), **GENERATED) == []
    (line,) = warnings(matrix(predicted, gold, 4, tokens=8), **GENERATED)
    assert line.startswith("100.0% of the generated texts were cut off at max_new_tokens=8")


@pytest.mark.parametrize(("shown", "said"), [(1, "one template"), (4, "4 templates"), (5, None), (60, None)])
def test_few_templates_are_hardly_paft(shown, said):
    lines = few_templates(shown, k=4)
    assert lines == [] if said is None else lines[0].startswith(f"Training shows {said} only")
    assert not any("lower K" in line for line in few_templates(shown, k=1))


# Where they are shown.


def test_results_of_earlier_versions_have_none():
    results = read_results(KEPT)
    assert results.warnings == [] and results.test_prompts_seen is None and results.test_rows_left_out == LeftOut()
    assert not results.unseen  # it was not looked at then
    assert input_remarks(results) == beware(results) == []


@pytest.mark.parametrize(
    ("seen", "allowed", "unseen", "said"),
    [
        (None, False, False, []),
        (Seen(copies=0, near_copies=0), False, True, []),
        (Seen(copies=2, near_copies=3), True, False, ["2 were trained on word for word, and 3 nearly"]),
        (Seen(copies=0, near_copies=0), True, False, ["0 were trained on word for word, and 0 nearly"]),
        (Seen(copies=None, near_copies=None), False, False, ["is not known"]),
    ],
)
def test_test_prompts_are_called_unseen_only_where_that_is_known(seen, allowed, unseen, said):
    results = read_results(KEPT)
    prompts = results.config["prompts"] | {"allow_seen": allowed}
    results = results.model_copy(update={"test_prompts_seen": seen, "config": results.config | {"prompts": prompts}})
    lines = input_remarks(results)
    assert results.unseen == unseen and len(lines) == len(said)
    assert all(piece in line for piece, line in zip(said, lines, strict=True))


def test_rows_that_were_left_out_are_counted():
    results = read_results(KEPT).model_copy(update={"test_rows_left_out": LeftOut(equal_choices=9, training_rows=1)})
    assert [line.rsplit(" ", 1)[1] for line in input_remarks(results)] == ["9.", "1."]
    results = results.model_copy(update={"test_rows_left_out": LeftOut(training_rows=None)})
    assert "not known" in input_remarks(results)[0]


def test_warnings_stand_below_the_table(tmp_path, capsys):
    folder = write_run(tmp_path / "run", answers(0.5) == GOLD, warnings=["this number means little."])
    (folder / "per_prompt.csv").write_text("prompt_id,accuracy,n\n")
    print_run("paft", read_results(folder), folder / "results.json")
    assert "BEWARE: this number means little." in capsys.readouterr().out


@pytest.mark.parametrize("base_first", [False, True])
@pytest.mark.parametrize(("base", "said"), [(0.3, False), (0.6, True), (0.8, True)])
def test_a_run_that_is_no_better_than_its_base_model_is_said_to_be(base, said, base_first, tmp_path):
    """The base model is the run that trained nothing; a gain counts where its interval is above zero."""
    noise = np.random.default_rng(1).random((20, 200))
    trained = write_run(tmp_path / "trained", noise < 0.6)
    untrained = write_run(tmp_path / "base", np.random.default_rng(2).random((20, 200)) < base, training=None)
    sides = [[untrained], [trained]] if base_first else [[trained], [untrained]]
    lines = [line for line in notes(compare_sides(*sides)) if "nothing shows that training" in line]
    assert len(lines) == said
    assert not said or lines[0].startswith(f"BEWARE: {'A' if base_first else 'B'} is the base model")


def test_a_gain_on_few_prompts_has_the_interval_of_its_verdict(tmp_path):
    """Few rows more that are right are noise, though three prompts promise no interval for other prompts."""
    right = np.arange(200) % 5 < 3
    better, worse = np.arange(200) % 20 == 4, np.arange(200) % 30 == 0
    trained, untrained = (right | better) & ~worse, right
    assert trained.mean() > untrained.mean()
    after = write_run(tmp_path / "after", np.tile(trained, (3, 1)))
    before = write_run(tmp_path / "before", np.tile(untrained, (3, 1)), training=None)
    sides = [after], [before]
    assert any("nothing shows that training" in line for line in notes(compare_sides(*sides)))


def test_two_trained_runs_are_not_held_against_a_base_model(tmp_path):
    one = write_run(tmp_path / "one", answers(0.5) == GOLD)
    assert not [line for line in notes(compare_sides([one], [one])) if "base model" in line]


def test_renderings_that_lost_their_beginning_are_said_from_a_tenth_on():
    whole = matrix(answers(0.6), GOLD, 4)
    for share, said in ((0.05, False), (0.2, True)):
        cut = np.zeros(whole.truncated.shape, bool)
        cut[:, : round(share * cut.shape[1])] = True
        lines = warnings(replace(whole, truncated=cut))
        assert any("20% of the renderings lost their beginning" in line for line in lines) == said

"""Few-shot: which training rows stand before a row, and how they are written."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from paft.config.schema import DatasetConfig
from paft.data.chat import Chat, ChatSettings
from paft.data.datamodule import PaftDataModule
from paft.data.encode import Encoder
from paft.data.rows import load_examples, load_test, load_unlabelled
from paft.data.shots import Shots
from paft.data.tasks import BUILT_IN
from paft.data.tasks.base import Example
from paft.data.tasks.story_facts import generate_rows
from paft.data.updates import updates_of
from paft.prompts import PromptPool, PromptTemplate
from paft.prompts.schedule import Draw
from paft.runtime.errors import InputError
from tests.conftest import compose_config, compose_evaluation
from tests.data.test_updates import same
from tests.reliability.bad_inputs.files import lines, question

TASK = BUILT_IN["story_facts"]
EXAMPLES = [TASK.example("here", row, f"{i}", "story_facts") for i, row in enumerate(generate_rows("train", 21))]


def ids(shots: list[Example]) -> list[str]:
    return [shot.id for shot in shots]


# Which.


def test_shots_are_others_and_a_function_of_seed_draw_and_row():
    shots = Shots(EXAMPLES, 3, seed=5)
    for row in range(21):
        found = ids(shots.of(Draw(1, 2), row))
        assert len({*found, str(row)}) == 4
        assert found == ids(Shots(EXAMPLES, 3, seed=5).of(Draw(1, 2), row))
    asked = [(Draw(1, 2), 0), (Draw(1, 3), 0), (Draw(0, 2), 0), (Draw(1, 2, 1), 0), (Draw(1, 2), 1)]
    assert len({tuple(ids(shots.of(*each))) for each in asked}) == len(asked)
    assert ids(Shots(EXAMPLES, 3, seed=6).of(Draw(1, 2), 0)) != ids(shots.of(Draw(1, 2), 0))
    assert Shots(EXAMPLES, 0, seed=5).of(Draw(1, 2), 0) == []


def test_every_other_row_is_a_shot_as_often():
    counts = Counter(ids([shot for n in range(1000) for shot in Shots(EXAMPLES, 4, 0).of(Draw(0, n), 7)]))
    assert len(counts) == 20 and "7" not in counts and min(counts.values()) > 140  # of 200
    whole = Shots(EXAMPLES[:4], 3, 0)
    assert {frozenset(ids(whole.of(Draw(0, n), 1))) for n in range(9)} == {frozenset({"0", "2", "3"})}


def test_shots_of_neighbouring_rows_have_no_more_in_common_than_of_others():
    many = [replace(EXAMPLES[0], id=f"{i}") for i in range(1000)]
    drawn = [{*ids(Shots(many, 16, 0).of(Draw(0, 0), row))} for row in range(1000)]
    assert sum(len(a & b) for a, b in pairwise(drawn)) / 999 < 0.35  # 16 x 16 / 999 is 0.26


def test_shots_of_one_prompt_go_by_no_setting_of_prompts_that_are_drawn():
    """A sweep over K trains method=user once."""
    pool = PromptPool("train", (PromptTemplate("{story} {question} {A} {B} {C} {D}", "p"),), "letter", "shown")
    draws = [
        [tag.draw for update in updates_of(compose_config("method=user", *own), 40, pool, TASK).of_epoch(0) for tag in update]
        for own in ([], ["K=1"], ["K=3", "schedule.unit=row"])
    ]
    assert draws[0] == draws[1] == draws[2] and len({*draws[0]}) == 5


@pytest.fixture
def own(tmp_path) -> Path:
    for split, first, n in (("train", 0, 40), ("test", 100, 30)):
        (tmp_path / f"{split}.jsonl").write_text(lines(*map(question, range(first, first + n))))
    return tmp_path


def config_of(folder: Path, *overrides: str) -> DatasetConfig:
    own = ["dataset=jsonl", f"dataset.path={folder}", "dataset.choices=[A,B]", "dataset.gold=answer"]
    return compose_config(*own, *overrides).dataset


def test_rows_that_are_scored_have_the_same_shots_in_a_run_and_in_an_evaluation(own):
    config = config_of(own, "dataset.shots=3")
    examples = load_examples(config, None, None, None)
    shots = examples.files.shots
    assert len(shots) == 3 and all(shot in examples.train for shot in shots)  # and so none is a validation row
    assert load_examples(config, None, 5, 2).files.shots == shots
    file = config.model_copy(update={"path": str(own / "test.jsonl")})
    assert load_test(config, None, 4)[2].shots == load_test(file, None, 9, trained_on=config)[2].shots == shots
    assert load_unlabelled(file, None, config)[3] == shots
    assert load_test(config_of(own), None, 4)[2].shots == ()


def test_shots_of_a_built_in_data_set():
    config = compose_config("dataset=story_facts", "dataset.shots=2").dataset
    examples = load_examples(config, None, 10, 5)
    assert load_test(config, None, 5)[2].shots == examples.files.shots == examples.train[:2]


def test_shots_need_training_rows(own):
    config = config_of(own, "dataset.shots=3").model_copy(update={"path": str(own / "test.jsonl")})
    with pytest.raises(InputError, match=r"dataset\.shots=3 needs training rows, and dataset\.path=.*test\.jsonl is a file of"):
        load_test(config, None, 4)
    (own / "train.jsonl").unlink()
    with pytest.raises(InputError, match=r"dataset\.shots=3 needs training rows, and dataset\.path=.* is without them; give a"):
        load_test(config_of(own, "dataset.shots=3"), None, 4)


@pytest.mark.parametrize(("shots", "rows"), [(36, None), (5, 5)])
def test_there_are_more_rows_than_shots(own, shots, rows):
    load_examples(config_of(own, f"dataset.shots={shots - 1}"), None, rows, None)
    with pytest.raises(InputError) as error:
        load_examples(config_of(own, f"dataset.shots={shots}"), None, rows, None)
    assert str(error.value) == (
        f"dataset.shots={shots}: there are {shots} training rows, and none is shown before itself; lower it to {shots - 1} or "
        "less."
    )


# How.


@pytest.fixture
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_llama)


def mine(text: str) -> PromptTemplate:
    return PromptTemplate(text, "t")


def free(answer: str, q: str) -> Example:
    return Example(q, {"q": q}, (), -1, answer, q, "mine")


SHOTS = [free("4", "2 + 2?"), free("5", "2 + 3?")]


@pytest.mark.parametrize(
    ("template", "space", "prompt"),
    [
        ("Q: {q}\nA:", None, "Q: 2 + 2?\nA: 4\n\nQ: 2 + 3?\nA: 5\n\nQ: 1 + 1?\nA:"),
        ("Q: {q}\nA:\n", None, "Q: 2 + 2?\nA:\n4\n\nQ: 2 + 3?\nA:\n5\n\nQ: 1 + 1?\nA:\n"),
        ("Q: {q}\nA:", False, "Q: 2 + 2?\nA:4\n\nQ: 2 + 3?\nA:5\n\nQ: 1 + 1?\nA:"),
        ("问：{q}\n答：", None, "问：2 + 2?\n答：4\n\n问：2 + 3?\n答：5\n\n问：1 + 1?\n答："),
    ],
)
def test_shots_are_written_as_the_row_is_with_their_answers(tokenizer, template, space, prompt):
    encoder = Encoder(tokenizer, "text", 1024, space=space, shots=SHOTS)
    asked = free("2", "1 + 1?")
    assert encoder.prompt(mine(template), asked) == prompt
    alone = Encoder(tokenizer, "text", 1024, space=space)
    whole = free("2", prompt.removeprefix("").rstrip("\n"))
    expected = alone.training(mine("{q}" + "\n" * prompt.endswith("\n")), whole)
    assert alone.training(mine(template), asked, SHOTS) == expected
    assert encoder.scoring(mine(template), asked).context == expected.context


def test_letters_and_options_of_shots_are_their_own(tokenizer):
    template, example = mine("{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nLetter:"), EXAMPLES[0]
    prompt = Encoder(tokenizer, "letter", 1024, shots=EXAMPLES[1:3]).prompt(template, example)
    blocks = prompt.split("\n\n")
    for block, shot in zip(blocks, EXAMPLES[1:3], strict=False):
        assert block == template.render(shot.fields) + f" {'ABCD'[shot.gold]}"
    assert blocks[2] == template.render(example.fields)
    moved = PromptTemplate("{question}\nA. {B}\nB. {A}\nC. {C}\nD. {D}\nLetter:", "t", letters="BACD")
    first = Encoder(tokenizer, "letter", 1024, shots=EXAMPLES[1:2]).prompt(moved, example).split("\n\n")[0]
    assert first.endswith(f"Letter: {'BACD'[EXAMPLES[1].gold]}")


def test_shots_of_a_chat_stand_in_the_turn_of_the_user(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    encoder = Encoder(tokenizer, "text", 1024, Chat(tokenizer, ChatSettings()), shots=SHOTS[:1])
    context = tokenizer.decode(encoder.scoring(mine("{q} ="), free("2", "1 + 1")).context)
    assert context == "<user>2 + 2? = 4\n\n1 + 1 =</user><assistant>"


def test_a_shot_is_what_the_cut_off_cuts_first(tokenizer):
    one, example = mine("{story}\n{question}\nAnswer:"), EXAMPLES[0]
    whole = Encoder(tokenizer, "text", 1024, shots=EXAMPLES[1:3]).scoring(one, example)
    short = Encoder(tokenizer, "text", len(whole.context), shots=EXAMPLES[1:3]).scoring(one, example)
    alone = Encoder(tokenizer, "text", 1024).scoring(one, example)
    assert short.truncated and not whole.truncated
    assert short.context == whole.context[-len(short.context) :] and len(short.context) > len(alone.context)


# The way to the trainer.

POOL = PromptPool("mine", tuple(mine(f"{cue} {{story}} {{question}}\n:") for cue in "abc"), "text", "shown")


def data_module(tiny_llama: Path, *, workers=0, done=0, shots=2, seed=3) -> PaftDataModule:
    """Return a data module whose trainer has done so many updates of the second epoch."""
    typed = ("examples_per_update=4", "T=3", "K=2", f"seed={seed}", f"trainer.workers={workers}", f"dataset.shots={shots}")
    encoder = Encoder(AutoTokenizer.from_pretrained(tiny_llama), "text", cutoff=1024)
    data = PaftDataModule(EXAMPLES, POOL, encoder, compose_config(*typed), TASK)
    data.trainer = SimpleNamespace(current_epoch=1, global_step=data.updates.per_epoch + done)
    return data


def test_neither_workers_nor_an_interruption_change_the_shots(tiny_llama):
    whole = list(data_module(tiny_llama).train_dataloader())
    assert same(whole, list(data_module(tiny_llama, workers=2).train_dataloader()))
    for workers in (0, 2):
        assert same(whole[4:], list(data_module(tiny_llama, workers=workers, done=4).train_dataloader())[:2])
    assert not same(whole, list(data_module(tiny_llama, seed=4).train_dataloader()))


def test_shots_stand_before_what_is_trained_on(tiny_llama):
    with_shots, without = (list(data_module(tiny_llama, shots=n).train_dataloader()) for n in (2, 0))
    for few, zero in zip(with_shots, without, strict=True):
        assert (few.templates, few.n_targets) == (zero.templates, zero.n_targets)
        assert few.n_tokens > 2 * zero.n_tokens
        targets = [sorted(t for batch in u.micro_batches for t in batch.targets.tolist() if t >= 0) for u in (few, zero)]
        assert targets[0] == targets[1]


def test_an_adapter_is_evaluated_with_as_many_shots_as_it_was_trained_with(tmp_path):
    about = compose_config("dataset.shots=2")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name, content in (("adapter_model.safetensors", ""), ("adapter_config.json", "{}")):
        (adapter / name).write_text(content)
    for dataset, shots in ((about.dataset.model_dump(), 2), ({"name": "story_facts", "answer": "text"}, 0)):
        content = {"model": about.model.model_dump(), "dataset": dataset, "method": "paft", "base": "a"}
        (adapter / "paft.json").write_text(json.dumps(content))
        assert compose_evaluation(f"adapter={adapter}").dataset.shots == shots
        assert compose_evaluation(f"adapter={adapter}", "dataset=story_facts").dataset.shots == shots
        assert compose_evaluation(f"adapter={adapter}", "dataset.shots=1").dataset.shots == 1

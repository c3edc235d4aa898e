"""What the model was given is shown as it was tokenised, chat frame and all."""

import pytest
from transformers import AutoTokenizer

from paft.data.chat import Chat, ChatSettings
from paft.data.encode import Encoder
from paft.data.inputs import load_inputs
from paft.data.tasks.base import Example
from paft.data.updates import updates_of
from paft.jobs.encoder import make_encoder
from paft.prompts import PromptTemplate
from paft.reporting.renderings import Reader, first_trained
from tests.conftest import compose_config

FRAME = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATE = PromptTemplate("{question} A {A} B {B} Answer:", "p0")
EXAMPLE = Example("e0", {"question": "Is it <b>? 答案：", "A": "yes", "B": "no"}, ("yes", "no"), 0, "yes", "g0", "all")
CELL = {"prompt": 0, "example": 0, "predicted": 1, "gold": 0, "correct": False, "log_probs": [-1.0, -0.5], "output": None}


def encoder(folder, chat: bool, cutoff: int = 512) -> Encoder:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = FRAME
    return Encoder(tokenizer, "letter", cutoff, Chat(tokenizer, ChatSettings("Be kind.")) if chat else None)


def text_of(rendering) -> str:
    return "".join(piece.text for piece in rendering.pieces)


@pytest.mark.parametrize("chat", [False, True])
def test_a_rendering_is_what_its_tokens_say(tiny_llama, chat):
    own = encoder(tiny_llama, chat)
    encoded = own.scoring(TEMPLATE, EXAMPLE)
    shown = Reader(own).tested(CELL, TEMPLATE, EXAMPLE, letters=True)
    assert text_of(shown) == own.tokenizer.decode(encoded.context + encoded.continuations[1])
    assert (shown.tokens, shown.truncated, shown.wrong) == (len(encoded.context), False, True)
    assert [piece.text.strip() for piece in shown.pieces if piece.kind == "answer"] == ["B"]
    assert [option.mark for option in shown.options if option.answered] == ["B"]
    special = [piece.text for piece in shown.pieces if piece.kind == "special"]
    frame = ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert special == (frame if chat else []) and ("Be kind." in text_of(shown)) == chat
    assert "Is it <b>? 答案：" in text_of(shown)


def test_a_rendering_of_training_shows_what_ends_the_answer(tiny_llama):
    shown = Reader(encoder(tiny_llama, chat=True)).trained(TEMPLATE, EXAMPLE, ())
    assert [piece[:2] for piece in shown.pieces[-2:]] == [("A", "answer"), ("<|im_end|>", "special")]
    plain = Reader(encoder(tiny_llama, chat=False)).trained(TEMPLATE, EXAMPLE, ())
    assert [piece[:2] for piece in plain.pieces[-2:]] == [(" A", "answer"), ("<end>", "special")]


def test_a_rendering_that_was_cut_off_shows_what_is_left(tiny_llama):
    shown = Reader(encoder(tiny_llama, chat=True, cutoff=80)).tested(CELL, TEMPLATE, EXAMPLE, letters=True)
    assert not shown.truncated
    short = Reader(encoder(tiny_llama, chat=True, cutoff=shown.tokens - 5)).tested(CELL, TEMPLATE, EXAMPLE, letters=True)
    assert short.truncated and short.tokens < shown.tokens and text_of(short).startswith("<|im_start|>system")
    assert "Answer:" in text_of(short) and "Is it" not in text_of(short)


def test_a_text_of_any_length_is_bounded(tiny_llama):
    long = Example("e0", {**EXAMPLE.fields, "question": "word " * 20_000}, ("yes", "no"), 0, "yes", "g0", "all")
    shown = Reader(encoder(tiny_llama, chat=False, cutoff=10**6)).tested(CELL, TEMPLATE, long, letters=True)
    assert len(text_of(shown)) < 21_000 and shown.pieces[0].text.endswith("characters before this]")


def test_of_many_options_the_answer_the_right_one_and_the_likeliest_are_shown():
    labels = tuple(f"label {i}" for i in range(77))
    example = Example("e0", {"q": "?"}, labels, 3, "label 3", "g0", "all")
    cell = CELL | {"log_probs": [-100.0 + i for i in range(77)], "predicted": 76, "gold": 3}
    shown = Reader(None).tested(cell, PromptTemplate("{q}", "p"), example, letters=False)
    assert [option.text for option in shown.options] == [f"label {i}" for i in (76, 3, *range(75, 67, -1))]
    assert shown.left_out == 67


def test_what_was_generated_is_the_answer(tiny_llama):
    reader, cell = Reader(encoder(tiny_llama, chat=False)), CELL | {"log_probs": [], "output": "It is A.", "predicted": 0}
    shown = reader.tested(cell | {"correct": True}, TEMPLATE, EXAMPLE, letters=True)
    assert shown.pieces[-1][:2] == ("It is A.", "answer") and not shown.wrong
    assert [option.answered for option in shown.options] == [True, False] and not shown.nothing
    free = Example("e0", EXAMPLE.fields, (), -1, "42", "g0", "all")
    wrong = reader.tested(cell | {"predicted": -1, "gold": -1}, TEMPLATE, free, letters=False)
    assert wrong.wrong and wrong.right == "42" and not wrong.options and not wrong.nothing


def test_the_renderings_of_training_are_the_first_that_it_showed(tiny_overrides):
    config = compose_config(*tiny_overrides, "K=1", "sampler=mutated")
    inputs = load_inputs(config)
    shown = first_trained(config, inputs, None, n=2)
    updates = updates_of(config, len(inputs.examples.train), inputs.train, inputs.examples.task)
    first, second = (update[0] for update, _ in zip(updates.of_epoch(0), range(2), strict=False))
    assert [(template, example) for template, example, _ in shown] == [
        (updates.sampler.template(tag.draw, tag.template), inputs.examples.train[tag.row]) for tag in (first, second)
    ]
    reader = Reader(make_encoder(config, inputs.examples.task))
    assert shown[0][1].answer in text_of(reader.trained(*shown[0]))


def test_a_rendering_that_only_losses_know_is_not_shown(tiny_overrides):
    worst = ["sampler=worst_of", "sampler.candidates=4", "sampler.adversarial=1", "K=1"]
    for warmup, known in ((0.0, 0), (0.2, 2), (0.9, 2)):  # of six updates
        config = compose_config(*tiny_overrides, *worst, f"sampler.warmup={warmup}")
        assert len(first_trained(config, load_inputs(config), None, n=2)) == known


def test_the_shots_shown_are_those_of_training_where_templates_share_them(tiny_overrides):
    paired = ["sampler.paired=true", "sampler.templates_per_update=2", "dataset.shots=2"]
    config = compose_config(*tiny_overrides, *paired)
    (_, one, shots), (_, other, same) = first_trained(config, load_inputs(config), None, n=2)
    assert one == other and len(shots) == 2 and shots == same


def test_of_a_search_the_prompt_that_was_found_is_shown(tiny_overrides):
    config = compose_config(*tiny_overrides, "method=top_accuracy")
    inputs = load_inputs(config)
    ((template, *_),) = first_trained(config, inputs, inputs.train.templates[3].id, n=2)
    assert template == inputs.train.templates[3]

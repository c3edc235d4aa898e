"""Which tokens are a template's own: none with a character of a field, whatever stands around the rendering."""

from dataclasses import replace

import pytest

from paft.data.chat import Chat, ChatSettings
from paft.data.encode import Encoder
from paft.data.spans import of_template
from tests.data.test_encode import CHAT, STORIES, free, shipped, template, tokenizer, with_begin  # noqa: F401 (fixtures)

RED = free("Rome", q="Which city is red? Answer:", place="Italy")


def marked(encoder: Encoder, one, example, shots=()) -> tuple[str, str]:
    """Return the tokens of a context that are the template's own, as a text, and the others."""
    context = encoder.training(one, example, shots).context
    marks = of_template(encoder, one, example, shots, context)
    assert len(marks) == len(context)
    texts = [
        encoder.tokenizer.decode([token for token, mark in zip(context, marks, strict=True) if mark is wanted])
        for wanted in (True, False)
    ]
    return texts[0], texts[1]


def test_the_words_of_a_template_are_its_own_and_what_fields_hold_is_not(tokenizer):  # noqa: F811
    own, fields = marked(Encoder(tokenizer, "text", 1024), template("Question about {place}: {q}\n\nAnswer:"), RED)
    assert own.split() == ["Question", "about:", "Answer:"]
    assert "Italy" in fields and "Which city is red? Answer:" in fields


def test_shots_begin_of_text_and_a_chats_frame_are_not_the_templates_own(tokenizer, with_begin):  # noqa: F811
    one = template("Say it.\n{q}\nShort:")
    alone = marked(Encoder(tokenizer, "text", 1024), one, RED)[0]
    behind_shots = marked(Encoder(tokenizer, "text", 1024), one, RED, [free("Oslo", q="And the north?", place="")])
    assert behind_shots[0] == alone and behind_shots[1].count("Say it.") == 1
    assert marked(Encoder(with_begin, "text", 1024), one, RED)[0] == alone
    tokenizer.chat_template = CHAT
    own, frame = marked(Encoder(tokenizer, "text", 1024, Chat(tokenizer, ChatSettings("Be brief."))), one, RED)
    assert own.split() == alone.split() and "Be brief." in frame and "<user>" in frame
    tokenizer.chat_template = CHAT.replace("m['content']", "m['content'] | trim")  # as Llama's and Gemma's
    spaced = template("\n\n" + one.text)
    own, frame = marked(Encoder(tokenizer, "text", 1024, Chat(tokenizer, ChatSettings("Be brief."))), spaced, RED)
    assert own.split() == alone.split() and "<user>" in frame


def test_a_context_that_was_cut_off_has_the_marks_of_its_end(tokenizer, with_begin):  # noqa: F811
    one, story = shipped("text").templates[0], STORIES[0]
    for used in (tokenizer, with_begin):
        whole = Encoder(used, "text", 1024)
        context = whole.training(one, story).context
        full = of_template(whole, one, story, (), context)
        cut = Encoder(used, "text", len(context) // 2)
        short = cut.training(one, story).context
        marks = of_template(cut, one, story, (), short)
        kept = 1 if used is with_begin and short[0] == with_begin.bos_token_id else 0
        assert marks[kept:] == full[len(full) - len(short) + kept :] and not any(marks[:kept])
        assert any(marks)


@pytest.mark.parametrize("number", range(0, 60, 7))
def test_a_token_is_the_templates_own_unless_it_holds_a_character_of_a_field(tokenizer, number):  # noqa: F811
    one, encoder = shipped("text").templates[number], Encoder(tokenizer, "text", 1024)
    assert "0" not in "".join(literal for literal, _ in one.parts)
    example = replace(STORIES[1], fields=dict.fromkeys(STORIES[1].fields, "0000"))
    context = encoder.training(one, example).context
    tokens = [tokenizer.decode([token]) for token in context]
    assert of_template(encoder, one, example, (), context) == ["0" not in token for token in tokens]


def test_an_empty_prompt_has_no_words_of_its_own(tokenizer):  # noqa: F811
    encoder = Encoder(tokenizer, "text", 1024)
    assert of_template(encoder, template("{q}"), free("yes", q=" "), (), [tokenizer.eos_token_id]) == [False]

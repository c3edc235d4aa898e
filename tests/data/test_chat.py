"""Chat templates: what they write around a prompt, what ends a turn, what they may not do."""

from datetime import date
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from paft.data.chat import Chat, ChatSettings
from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.prompts import PromptTemplate
from paft.runtime.errors import InputError

TURNS = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ONE = PromptTemplate("{q}\nAnswer:", id="t")


@pytest.fixture
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    """A tokenizer whose turns end with a token of their own, as those of Llama 3, Gemma and Phi-3 do."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = TURNS
    return tokenizer


def chat_of(tokenizer: PreTrainedTokenizerBase, template: str = TURNS, **settings: object) -> Chat:
    tokenizer.chat_template = template
    return Chat(tokenizer, ChatSettings(**settings))


def example(q: str, answer: str = "yes") -> Example:
    return Example("0", {"q": q}, (), -1, answer, "0", "mine")


def test_the_end_of_a_turn_ends_a_trained_answer(tokenizer):
    encoder = Encoder(tokenizer, "text", 1024, chat_of(tokenizer))
    (answer,) = encoder.training(ONE, example("Is it?")).continuations
    assert tokenizer.decode(answer) == "yes<|turn|>"
    plain = Encoder(tokenizer, "text", 1024).training(ONE, example("Is it?"))
    assert tokenizer.decode(plain.continuations[0]) == " yes<end>"


@pytest.mark.parametrize("template", ["{{ messages[0]['content'] }}", TURNS.replace("<|turn|>", " (over)")])
def test_a_template_without_such_a_token_leaves_it_to_end_of_text(tokenizer, template):
    encoder = Encoder(tokenizer, "text", 1024, chat_of(tokenizer, template))
    assert encoder.end_id == tokenizer.eos_token_id


def test_a_template_is_told_the_same_date_every_day(tokenizer):
    dated = "{{ strftime_now('%d %b %Y') }}: " + TURNS
    assert chat_of(tokenizer, dated).head.startswith("26 Jul 2024: ")
    assert chat_of(tokenizer, dated, date="2025-01-31").head.startswith("31 Jan 2025: ")
    assert str(date.today().year) not in chat_of(tokenizer, dated).head
    guarded = "{% if strftime_now is defined %}" + dated + "{% endif %}"
    assert chat_of(tokenizer, guarded).head.startswith("26 Jul 2024: ")
    for computed in ("{% set form = '%d' %}{{ strftime_now(form) }}", "{% set now = strftime_now %}{{ now('%d') }}"):
        with pytest.raises(InputError, match="asks for the date in a form that it computes"):
            chat_of(tokenizer, computed + TURNS)


def test_a_template_of_tokens_without_an_embedding_is_refused(tokenizer):
    n = len(tokenizer)
    tokenizer.add_tokens(["<|assistant|>"])
    with pytest.raises(InputError, match=r"the chat template or the system prompt holds a token .* no embedding"):
        Encoder(tokenizer, "text", 1024, chat_of(tokenizer), vocabulary=n)


def test_arguments_reach_the_template(tokenizer):
    thinking = TURNS.replace("<|assistant|>\n", "<|assistant|>\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}")
    assert chat_of(tokenizer, thinking, arguments={"enable_thinking": True}).tail.endswith("<|assistant|>\n")
    assert chat_of(tokenizer, thinking, arguments={"enable_thinking": False}).tail.endswith("</think>\n\n")
    with pytest.raises(
        InputError, match=r"model\.chat_template_args: this chat template reads no 'enable_thinkin'; leave it out"
    ):
        chat_of(tokenizer, thinking, arguments={"enable_thinkin": False})
    with pytest.raises(InputError, match=r"model\.chat_template_args: tokenize is not for the template"):
        chat_of(tokenizer, thinking, arguments={"tokenize": True})


@pytest.mark.parametrize(
    ("template", "settings", "sentence"),
    [
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system messages') }}{% endif %}" + TURNS,
            {"system_prompt": "Be brief."},
            r"model\.system_prompt: this chat template refuses it \(no system messages\); leave it out\.",
        ),
        (
            "{% for m in messages %}",
            {},
            r"model\.chat_template=true: this chat template fails \(TemplateSyntaxError: .*; mend it",
        ),
        ("{{ messages[0]['content']['text'] + 1 }}", {}, r"this chat template fails \(UndefinedError: "),
        ("Say it.", {}, "does not write the prompt once, as it is"),
        ("{{ messages[0]['content'] }} {{ messages[0]['content'] }}", {}, "does not write the prompt once"),
    ],
)
def test_a_template_that_fails_is_one_sentence(tokenizer, template, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        chat_of(tokenizer, template, **settings)


def test_a_system_prompt_that_is_dropped_is_refused(tokenizer):
    user_only = TURNS.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    with pytest.raises(InputError, match=r"model\.system_prompt: this chat template leaves it out; .*"):
        chat_of(tokenizer, user_only, system_prompt="Be brief.")


def test_a_long_prompt_keeps_the_frame_of_the_chat(tokenizer):
    chat = chat_of(tokenizer, system_prompt="Be brief.")
    long = example("one two three " * 40 + "last")
    whole = Encoder(tokenizer, "text", 1024, chat).training(ONE, long)
    frame = len(
        tokenizer(chat.head, add_special_tokens=False).input_ids + tokenizer(chat.tail, add_special_tokens=False).input_ids
    )
    for cutoff in range(frame + len(whole.continuations[0]), 120):
        short = Encoder(tokenizer, "text", cutoff, chat).training(ONE, long)
        assert short.truncated and len(short.context) + len(short.continuations[0]) == cutoff
        text = tokenizer.decode(short.context)
        assert text.startswith("<|system|>\nBe brief.<|turn|>\n<|user|>\n") and text.endswith("<|turn|>\n<|assistant|>\n")
    with pytest.raises(InputError, match=r"has no room for .* the chat template.*; (raise it|set cutoff) above"):
        Encoder(tokenizer, "text", frame, chat).check([ONE], [long])
    with pytest.raises(InputError, match=rf"cutoff={frame} has no room for the chat template and an answer; raise it above"):
        Encoder(tokenizer, "text", frame, chat).training(ONE, long)


def test_a_template_that_opens_a_reasoning_block(tokenizer):
    opening = TURNS.replace("<|assistant|>\n{% endif %}", "<|assistant|>\n<think>\n{% endif %}")
    assert chat_of(tokenizer, opening).opens_reasoning and not chat_of(tokenizer).opens_reasoning

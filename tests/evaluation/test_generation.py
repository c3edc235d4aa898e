"""What ends a generated text, and the reasoning before an answer, on a model that writes what a script says."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from paft.data.chat import Chat, ChatSettings
from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.generation import Generation, Stop
from paft.evaluation.metrics import Metric
from paft.evaluation.scoring import Scoring, answering_by
from paft.prompts import PromptPool, PromptTemplate

CHAT = "{{ messages[0]['content'] }}\n{% if add_generation_prompt %}Assistant:{% endif %}"
THINKING = CHAT.replace("Assistant:", "Assistant:<think>\n")
MARKS = ["<think>", "</think>", "<|turn|>", "<|end|>"]


@pytest.fixture
def setting(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that returns what a model "writes" that would write `script`, a text or token ids, and never stop."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)

    def written(
        script: str,
        at_line_break: bool = False,
        chat: str | None = None,
        ends: Sequence[str] = (),
        special: Iterable[str] = MARKS,
    ) -> str:
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
        tokenizer.chat_template = chat
        model.generation_config = GenerationConfig(eos_token_id=[tokenizer.convert_tokens_to_ids(end) for end in ends] or None)
        tokens = tokenizer(script, add_special_tokens=False).input_ids
        scripted = iter([*tokens, *([tokens[-1]] * 50)])
        monkeypatch.setattr("paft.evaluation.decoding.next_tokens", lambda *_: torch.tensor([next(scripted)]))
        encoder = Encoder(tokenizer, "text", 1024, None if chat is None else Chat(tokenizer, ChatSettings()))
        generation = Generation(model, encoder, Metric("exact"), Stop(len(tokens), at_line_break))
        ((text, _),) = generation.write([tokenizer("Say it.").input_ids])
        return text

    return written


def test_every_end_of_the_checkpoint_ends_a_text(setting):
    script = "seven<|end|> and more<|turn|> invented<end> words"
    assert setting(script) == "seven and more invented"  # the tokenizer's end-of-text
    assert setting(script, ends=["<|turn|>"]) == "seven and more"
    assert setting(script, ends=["<end>", "<|end|>"]) == "seven"
    assert setting(script, ends=["<|turn|>"], special=[]) == "seven and more"  # no word of the text, though no special token
    turns = "{% for m in messages %}{{ m['content'] }}<|turn|>{% endfor %}"
    assert setting(script, chat=turns) == "seven and more"  # what ends a turn of the chat


def test_where_the_last_number_counts_texts_take_several_lines_whatever_was_trained_on(tiny_llama):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    pool = PromptPool("p", (PromptTemplate("{q}", id="t"),), "text", "shown")
    encoder, examples = Encoder(tokenizer, "text", 1024), [Example("0", {"q": "How many?"}, (), -1, "7", "0", "mine")]
    for metric, trained, at_line_break in (("last_number", False, False), ("exact", False, True), ("exact", True, False)):
        answering = answering_by(model, encoder, pool, examples, Scoring(Metric(metric), several_lines=trained))
        assert answering.stop.at_line_break == at_line_break


@pytest.mark.parametrize("special", [MARKS, []])
@pytest.mark.parametrize(
    ("script", "chat", "answer"),
    [
        ("<think>\nIt may be A.\nOr not.\n</think>\n\nB\nor", CHAT, "B"),
        ("It may be A.\nOr not.\n</think>\n\nB\nor", THINKING, "B"),  # the prompt opens the block
        ("<think>\n\n</think>\n\nB\nor", CHAT, "B"),
        ("<think>\nIt may be A", CHAT, ""),  # no answer: the text ended before the block did
        ("It may be A", THINKING, ""),
        ("[THINK]It may be A.\n[/THINK]B\nor", CHAT, "B"),
        ("<reasoning>\nIt may be A.\n</reasoning>\nB\nor", None, "B"),
        ("It is B\nor", CHAT, "It is B"),
        ("a < b, I think\nor", CHAT, "a < b, I think"),
    ],
)
def test_reasoning_before_an_answer_is_no_answer(setting, special, script, chat, answer):
    assert setting(script, at_line_break=True, chat=chat, special=special) == answer

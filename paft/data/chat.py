"""The chat template of a tokenizer: what it writes around a prompt, and what ends the model's turn."""

import datetime
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paft.config.schema import CHAT_TEMPLATE_DATE
from paft.runtime.errors import InputError, first_sentence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What opens and closes a reasoning block in the families that have one.
REASONING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_MARK = "PAFT-PROMPT"  # stands for a prompt or an answer where only what is around it is wanted


def behind_reasoning(text: str) -> str | None:
    """Return the part of a text behind its reasoning block, the whole text where there is none; None if the block is open."""
    for opening, closing in REASONING:
        if closing in text:
            return text.rpartition(closing)[2]
        if text.lstrip().startswith(opening):
            return None
    return text


@dataclass(frozen=True)
class ChatSettings:
    """The settings of a chat: a system prompt, arguments that the template reads, and the date that it is told.

    date is ISO 8601; templates that ask for the time (`strftime_now`: Llama 3.1, Granite) are told midnight of that day, so
    that a prompt is the same every day.
    """

    system_prompt: str | None = None
    arguments: Mapping[str, Any] | None = None
    date: str = CHAT_TEMPLATE_DATE


class Chat:
    """Wraps prompts in the chat template of a tokenizer.

    head and tail are the texts before and after a prompt. end_id is the token that ends the model's turn, None where the
    template has no such token. opens_reasoning says whether the tail leaves a reasoning block open.

    Raises InputError if the tokenizer has no chat template, or the template refuses the system prompt or is broken, or does not
    read an argument.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", settings: ChatSettings) -> None:
        if tokenizer.chat_template is None:
            raise InputError("model.chat_template=true: this tokenizer has no chat template; set it to false.")
        self._tokenizer, self._settings = tokenizer, settings
        self._arguments = dict(settings.arguments or {})
        self._template = _with_date(str(tokenizer.get_chat_template()), settings.date)
        self._check_arguments()
        rendered = self.wrap(_MARK)
        if rendered.count(_MARK) != 1:
            raise InputError(
                "model.chat_template=true: this chat template does not write the prompt once, as it is; set it to false."
            )
        self.head, self.tail = rendered.split(_MARK)
        if settings.system_prompt is not None and settings.system_prompt.strip() not in rendered:
            raise InputError("model.system_prompt: this chat template leaves it out; put it into the prompts.")
        self.opens_reasoning = any(self.tail.rstrip().endswith(opening) for opening, _ in REASONING)
        self.end_id = self._end_id()

    def wrap(self, prompt: str) -> str:
        """Return the text that asks for an answer to a prompt."""
        return self._render([{"role": "user", "content": prompt}], add_generation_prompt=True)

    def _render(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        system = self._settings.system_prompt
        messages = [*([] if system is None else [{"role": "system", "content": system}]), *turns]
        try:
            return self._apply(messages, add_generation_prompt)
        except Exception as error:  # a template is code, which may run into anything
            said = first_sentence(error)
            if system is not None and self._works_without_system_prompt():
                raise InputError(f"model.system_prompt: this chat template refuses it ({said}); leave it out.") from None
            raise InputError(
                f"model.chat_template=true: this chat template fails ({type(error).__name__}: {said}); mend it, or set it to "
                "false."
            ) from None

    def _works_without_system_prompt(self) -> bool:
        try:
            self._apply([{"role": "user", "content": _MARK}], add_generation_prompt=True)
        except Exception:  # as above; what failed with the system prompt is what is reported
            return False
        return True

    def _apply(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self._arguments,
            )
        )

    def _check_arguments(self) -> None:
        """Refuse arguments that would have no effect, or that belong to apply_chat_template itself."""
        own = set(inspect.signature(self._tokenizer.apply_chat_template).parameters)
        for name in self._settings.arguments or {}:
            if name in own:
                raise InputError(f"model.chat_template_args: {name} is not for the template; leave it out.")
            if not re.search(rf"\b{re.escape(name)}\b", self._template):
                raise InputError(f"model.chat_template_args: this chat template reads no {name!r}; leave it out.")

    def _end_id(self) -> int | None:
        """Return the special token that the template writes right after an answer."""
        turns = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _MARK}]
        try:
            after = self._render(turns, add_generation_prompt=False).rpartition(_MARK)[2]
        except InputError:  # a template for a single question
            return None
        ids = self._tokenizer(after, add_special_tokens=False).input_ids
        added = self._tokenizer.added_tokens_decoder
        return ids[0] if ids and ids[0] in added and added[ids[0]].special else None


def _with_date(template: str, date: str) -> str:
    """Return a template in which the questions for the time of now are answered: with midnight of a day.

    Raises InputError if the template asks in a form that it computes.
    """
    day = datetime.datetime.fromisoformat(date)

    def told(call: re.Match[str]) -> str:
        return call["quote"] + day.strftime(call["form"]) + call["quote"]

    dated = re.sub(r"""strftime_now\(\s*(?P<quote>['"])(?P<form>.*?)(?P=quote)\s*\)""", told, template)
    if re.search(r"strftime_now(?!\s+is\s+(not\s+)?defined)", dated):
        raise InputError(
            "model.chat_template=true: this chat template asks for the date in a form that it computes, so that prompts would "
            "change every day; write the form into the template, or the date."
        )
    return dated

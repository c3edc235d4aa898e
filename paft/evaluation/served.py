"""How a served model is asked for the answer of a cell: by log-probabilities where the server gives them, else by generation.

Imports nothing heavy, so that what a server can do is tried before anything starts.
"""

import asyncio
import json
import re
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from paft.config.schema import ModelConfig
from paft.data.chat import behind_reasoning
from paft.data.render import answers_under, offered, render_with_shots, space_before, split_white_space
from paft.data.tasks.base import Example
from paft.evaluation.metrics import Metric, answered, chosen
from paft.evaluation.store import StoredCell
from paft.model.served import Echoed, NotGivenError, RefusedError, ServedModel, Usage
from paft.prompts import PromptPool, PromptTemplate
from paft.prompts.pool import Answer
from paft.runtime.api import UnavailableError
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically

REQUESTS = "requests.json"  # in a run's folder: what was asked so far, and which ways of scoring were given up

T = TypeVar("T")
Way = Literal["first_token", "echo", "generate"]

_WORDS = {
    "first_token": "the log-probabilities of the first token (top_logprobs)",
    "echo": "the log-probability of each answer (echo)",
    "generate": "generation",
}


@dataclass(frozen=True)
class Protocol:
    """One way of scoring, the same for all cells of a matrix.

    chat says whether the server puts prompts into its chat template. other_space: letters are looked for with a space before
    them where a prompt calls for none, and the reverse, as models differ in how they begin.
    """

    way: Way
    chat: bool
    other_space: bool = False

    @property
    def scoring(self) -> Literal["likelihood", "generate"]:
        """What results call it."""
        return "generate" if self.way == "generate" else "likelihood"

    def __str__(self) -> str:
        asked = "chat completions" if self.chat else "completions"
        space = ", letters with the other space" if self.other_space else ""
        return f"{_WORDS[self.way]}, from {asked}{space}"


@dataclass(frozen=True)
class Asked:
    """What the cells of an evaluation are asked for.

    chat None leaves it to the server. scoring None takes the log-probabilities that the server gives, and generation where it
    gives none. hidden says that prompts hide the options, which cannot be generated then. normalise divides the log-probability
    of a text, as in paft.evaluation.likelihood. space says whether a space comes before an answer; None: unless the script has
    none. shots are shown, with answers, before each example. at_line_break: the first line break after a word ends a text.
    """

    answer: Answer
    metric: Metric
    chat: bool | None
    scoring: Literal["likelihood", "generate"] | None
    hidden: bool
    normalise: Literal["sum", "token", "byte"]
    space: bool | None
    max_new_tokens: int
    shots: Sequence[Example] = ()
    at_line_break: bool = False

    def prompt(self, template: PromptTemplate, example: Example) -> str:
        """Return the rendering of an example, behind the shots, as a text without any chat template."""
        return render_with_shots(template, example, self.shots, self.answer, self.space)

    def protocols(self) -> list[Protocol]:
        """Return the ways of scoring that these settings allow; the first of them that the server gives is to be taken.

        Letters are asked for in a chat where the server has chats. The log-probability of a text is given without one only.
        """
        chats = [self.chat] if self.chat is not None else [True, False]
        likelihood, letters = self.metric.name == "choice" and self.scoring != "generate", self.answer == "letter"
        ways = [Protocol("echo", False)] if likelihood and not letters and False in chats else []
        for chat in chats:
            if likelihood and letters:
                echo = [] if chat else [Protocol("echo", False)]
                ways += [Protocol("first_token", chat), *echo, Protocol("first_token", chat, other_space=True)]
            if self.scoring != "likelihood" and not self.hidden:
                ways.append(Protocol("generate", chat))
        return ways


async def ask(model: ServedModel, protocol: Protocol, asked: Asked, template: PromptTemplate, example: Example) -> StoredCell:
    """Return the answer columns of a cell.

    Raises UnavailableError, RefusedError, and NotGivenError if the server cannot tell the answer in this way.
    """
    prompt = asked.prompt(template, example)
    context, white_space = (prompt, "") if protocol.chat else split_white_space(prompt)
    if protocol.way == "generate":
        return await _written(model, protocol, asked, context, example)
    answers = answers_under(template, example, asked.answer)
    texts = [(space_before(text, context, asked.space) if white_space is None else white_space) + text for text in answers]
    if protocol.way == "first_token":
        log_probs = await _of_first_tokens(model, protocol, context, texts)
        lengths = np.ones(len(answers))
    else:
        log_probs, n_tokens = _of_answers(texts, await asyncio.gather(*(model.echo(context + text) for text in texts)))
        in_bytes = [len(text.encode()) for text in offered(example, asked.answer)]
        lengths = np.array({"sum": [1] * len(answers), "token": n_tokens, "byte": in_bytes}[asked.normalise])
    return chosen(log_probs, lengths.astype(np.float32), example)


async def _of_first_tokens(model: ServedModel, protocol: Protocol, context: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the log-probability (C,) of each letter as the first token of the answer; -inf: not among the likeliest tokens.

    White space before the letters that is more than a space goes to the prompt: it is a token of its own.

    Raises NotGivenError if the likeliest letter is not known: none is among the likeliest tokens, or one that is not may be two
    tokens, of which the first, a space, is likelier than every letter. Otherwise those that are not are less likely.
    """
    letters = [text.lstrip() for text in texts]
    before = texts[0][: len(texts[0]) - len(letters[0])]
    if before not in ("", " "):
        context, before = context + before, ""
    if protocol.other_space:
        before = "" if before else " "
    listed = await model.first_tokens(context, protocol.chat)
    log_probs = np.array([listed.get(before + letter, -np.inf) for letter in letters], np.float32)
    if not np.isfinite(log_probs).any():
        raise NotGivenError(f"none of the letters {', '.join(letters)} is among the {len(listed)} likeliest first tokens")
    if before and not np.isfinite(log_probs).all() and listed.get(before, -np.inf) >= log_probs.max():
        raise NotGivenError(f"a space alone is a likelier first token than each of the letters {', '.join(letters)}")
    return log_probs


def _of_answers(texts: Sequence[str], echoed: Sequence[Echoed]) -> tuple[NDArray[np.float32], list[int]]:
    """Return the log-probability (C,) of each text after the prompt, summed over its tokens, and its number of tokens.

    Where a token reaches over the boundary, the texts begin at the last boundary before it that all tokenisations share: what
    is added to each is the same text.

    Raises NotGivenError if the tokens do not spell the texts.
    """
    kept = [_tokens_of_the_text(echo, text) for echo, text in zip(echoed, texts, strict=True)]
    # For each text: how many characters before it its last token begins, its last two tokens, ...; below 0 within the text.
    starts = [
        np.cumsum([len(token) for token in reversed(tokens)]) - len(text) for tokens, text in zip(kept, texts, strict=True)
    ]
    shared = set.intersection(*({int(start) for start in own if start >= 0} for own in starts))
    if not shared:
        raise NotGivenError(f"the tokens that the server echoes have no boundary before {texts[0]!r}")
    log_probs, counts = [], []
    for tokens, own, echo in zip(kept, starts, echoed, strict=True):
        n = 1 + int(np.flatnonzero(own == min(shared))[-1])  # the last: pieces of a character may show as empty texts
        values = echo.log_probs[len(tokens) - n : len(tokens)]
        if None in values:
            raise NotGivenError("the prompt is empty, and a server gives no log-probability of the first token of a text")
        log_probs.append(sum(value for value in values if value is not None))
        counts.append(n)
    return np.array(log_probs, np.float32), counts


def _tokens_of_the_text(echo: Echoed, text: str) -> list[str]:
    """Return the echoed tokens without those that the model wrote; raises NotGivenError if they do not end in the text."""
    for n_written in (echo.n_written, 1, 0):  # servers count an end of text differently
        tokens = echo.tokens[: len(echo.tokens) - n_written]
        if "".join(tokens).endswith(text):
            return tokens
    raise NotGivenError(f"the tokens that the server echoes do not spell {text!r}")


async def _written(model: ServedModel, protocol: Protocol, asked: Asked, prompt: str, example: Example) -> StoredCell:
    stop = "\n" if asked.at_line_break and not protocol.chat else None  # a chat ends by itself, and may reason over lines
    written = await model.write(prompt, protocol.chat, asked.max_new_tokens, stop)
    if stop is not None and not (behind_reasoning(written.text) or "").strip():  # it stopped before the first word
        written = await model.write(prompt, protocol.chat, asked.max_new_tokens)
    text = (behind_reasoning(written.text) or "").strip()
    if asked.at_line_break:
        text = text.split("\n", 1)[0].rstrip()
    return answered(example, text, written.n_tokens, asked.answer == "letter", asked.metric)


@dataclass
class Asking:
    """What the processes that worked on a run have asked so far; kept in requests.json.

    given_up names the ways of scoring that did not work for all cells, and says why.
    """

    usage: Usage = field(default_factory=Usage)
    given_up: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write requests.json."""
        write_atomically(folder / REQUESTS, json.dumps(asdict(self), indent=1) + "\n")


def read_asking(folder: Path) -> Asking:
    """Return what requests.json says; nothing was asked where it is missing or damaged."""
    try:
        content = json.loads((folder / REQUESTS).read_text(encoding="utf-8"))
        return Asking(Usage(**content["usage"]), dict(content["given_up"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Asking()


@dataclass(frozen=True)
class Found:
    """What a server was found to be and to give.

    entry is what its list of models says of the model; None: it is not listed. answers_as is what its answers call the model.
    """

    protocol: Protocol
    entry: dict[str, Any] | None
    answers_as: str | None
    usage: Usage


def find(model: ModelConfig, asked: Asked, pool: PromptPool, examples: Sequence[Example], given_up: Mapping[str, str]) -> Found:
    """Try what a server gives, with a request or two for each way of scoring, and return the first that works.

    Args:
        given_up: the ways that were found not to work for all cells, and why.

    Raises InputError if the server is not available, has no such model, or gives no way that the settings allow.
    """
    return run(_find(model, asked, _samples(pool, examples), given_up))


def _samples(pool: PromptPool, examples: Sequence[Example]) -> list[tuple[PromptTemplate, Example]]:
    """Return two cells to try a server on: the first, and one of the last prompt whose choices hold the oddest characters."""
    odd = max(reversed(examples), key=lambda example: sum(not character.isascii() for character in "".join(example.choices)))
    first, last = (pool.templates[0], examples[0]), (pool.templates[-1], odd)
    return [first] if len(pool.templates) * len(examples) == 1 else [first, last]


async def _find(
    model: ModelConfig, asked: Asked, cells: Sequence[tuple[PromptTemplate, Example]], given_up: Mapping[str, str]
) -> Found:
    usage, refusals = Usage(), list(given_up.values())
    try:
        async with ServedModel(model, usage, probing=True) as served:
            listed = await served.models()
            entry = next((entry for entry in listed or () if entry["id"] == model.name), None)
            for protocol in asked.protocols():
                if str(protocol) in given_up:
                    continue
                try:
                    for template, example in cells[: 1 if protocol.way == "generate" else None]:
                        await ask(served, protocol, replace(asked, max_new_tokens=1), template, example)
                except RefusedError as error:
                    refusals.append(str(error))
                    continue
                if not _same_name(served.answers_as, str(model.name)):
                    raise UnavailableError(
                        f"{model.api} was asked for {model.name!r} and answers as {served.answers_as!r}; give the name of the "
                        "one that is meant"
                    )
                return Found(protocol, entry and _lasting(entry), served.answers_as, usage)
    except UnavailableError as error:
        raise InputError(f"model.api: {error}.") from None
    if entry is None and listed and served.answers_as is None:
        names = [str(other["id"]) for other in listed]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise InputError(f"model.name={model.name}: {model.api} has no such model; it has {', '.join(names[:_NAMED])}{more}.")
    why = "; ".join(dict.fromkeys(refusals))
    assert model.api is not None
    if listed is None and served.answers_as is None and not urlsplit(model.api).path.strip("/"):
        address = f"{model.api.rstrip('/')}/v1"
        raise InputError(f"model.api={model.api}: no API answers there ({why}); most are under /v1: try model.api={address}.")
    if asked.hidden:
        raise InputError(
            f"model.api: hidden options need the log-probabilities of texts, which the server does not give: {why}."
        )
    if asked.scoring == "likelihood":
        raise InputError(
            f"scoring=likelihood: the server gives no log-probability of the answers: {why}; use scoring=generate."
        )
    raise InputError(f"model.api: the server answers in no way: {why}.")


_NAMED = 10  # of the server's models, in an error message
_LASTING = ("id", "root", "parent", "owned_by", "max_model_len", "meta")  # the rest may be made up when it is asked for


def _lasting(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies a model in a server's list."""
    return {key: entry[key] for key in _LASTING if entry.get(key) is not None}


# What follows a model's name: a tag, a date (2024-08-06, 0613, 08-2024), a preview, a file's part or its quantisation.
_VERSION = re.compile(
    r"([@:].*|-latest|-(\d\d-)?\d{3,}(-\d\d){0,2}|(-\d{4})?-preview(-\d\d-\d\d)?|-\d{5}-of-\d{5}|([-.](i?q\d\w*|b?f16|f32))?\.gguf)+$"
)


def _same_name(answered: str | None, name: str) -> bool:
    """Say whether a server that answers by one name means the model of another.

    NAME-2024-08-06, NAME-0613, NAME@main, NAME:latest and NAME-Q8_0.gguf mean NAME, and NAME-latest means any version of it.
    """
    if not answered:
        return True
    one, other = (text.lower().rstrip("/").rsplit("/", 1)[-1] for text in (answered, name))
    plain, other_plain = (_VERSION.sub("", text) for text in (one, other))
    return one in (other, other_plain) or other == plain or (plain == other_plain and other.endswith("-latest"))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        return portal.call(lambda: work)

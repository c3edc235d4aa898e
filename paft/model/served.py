"""A model behind an OpenAI-compatible API: what it can be asked, its answers checked, its tokens counted.

Imports nothing heavy, so that a server that is down shows at once.
"""

import asyncio
import json
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from paft.config.schema import ModelConfig
from paft.runtime.api import NO_KEY, RETRIES, UnavailableError, message_of, read_key, shortened, why_not

_PROBING_RETRIES = 2
_CONNECT_S = 10.0  # for a connection
_PATIENCE = 5  # times the time-out of an answer: how long a request is tried in all
_CANNOT = (400, 404, 405, 413, 422, 501)  # what a server answers to what it cannot do; trying again does not help
_TOPS = (20, 5)  # the likeliest tokens to ask for: what vLLM and OpenAI's chats give at most, and OpenAI's completions
_SEED = 0


class RefusedError(Exception):
    """A request that the server cannot answer; the message is a clause that says why."""


class NotGivenError(RefusedError):
    """An answer that lacks what it was asked for, so that the server has to be asked in another way."""


@dataclass
class Usage:
    """What was asked of a server, over all processes that worked on a run.

    requests counts those that were sent, retries the attempts beyond the first of those that were answered. Tokens are as the
    server reports them; uncounted counts the answers that reported none.
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def add(self, more: "Usage") -> None:
        """Count what else was asked."""
        for name, value in asdict(more).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class Written:
    """A text that the model wrote; n_tokens is 0 where the server does not say."""

    text: str
    n_tokens: int


@dataclass(frozen=True)
class Echoed:
    """A text as the server read it: its tokens as texts, and the log-probability of each (None: of the first).

    The last n_written tokens are none of the text: the model wrote them.
    """

    tokens: list[str]
    log_probs: list[float | None]
    n_written: int


class _Token(BaseModel):
    token: str
    logprob: float
    top_logprobs: list["_Token"] = []


class _Logprobs(BaseModel):
    content: list[_Token] | None = None  # of chats, and of llama.cpp's completions
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Message(BaseModel):
    content: str | list[dict[str, Any]] | None = None


class _Choice(BaseModel):
    index: int = 0
    message: _Message | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(BaseModel):
    model: str | None = None
    choices: list[_Choice]
    usage: _Usage | None = None


class _Models(BaseModel):
    data: list[dict[str, Any]]


Body = TypeVar("Body", bound=BaseModel)


class ServedModel:
    """A client of one model of a server; an async context manager, within which it may be asked.

    Requests are greedy, seeded where the server takes a seed, and model.api_requests of them go at a time. 429, 5xx and
    time-outs are tried again. No request takes longer than five times model.api_timeout.

    Args:
        usage: counts what is asked.
        answers_as: what the server calls the model that answers; None: what it says first.
        probing: whether it is tried out what the server can do: few retries, and an error of the server counts as a refusal.

    Raises InputError if the key is not in the environment.
    """

    def __init__(self, model: ModelConfig, usage: Usage, answers_as: str | None = None, probing: bool = False) -> None:
        assert model.api is not None and model.name is not None
        self.url, self.name, self.usage, self.answers_as = model.api, model.name, usage, answers_as
        self._model, self._probing = model, probing
        self._variable = model.api_key_env or ("OPENAI_API_KEY" if os.environ.get("OPENAI_API_KEY") else None)
        self._key = read_key("model.api_key_env", self._variable)
        self._client: Any = None
        self._slots = asyncio.Semaphore(model.api_requests)
        self._top = _TOPS[0]
        self._limit, self._seed = "max_tokens", {"seed": _SEED}

    async def __aenter__(self) -> "ServedModel":
        import openai

        retries = _PROBING_RETRIES if self._probing else RETRIES
        timeout = openai.Timeout(self._model.api_timeout, connect=min(_CONNECT_S, self._model.api_timeout))
        self._client = openai.AsyncOpenAI(base_url=self.url, api_key=self._key, timeout=timeout, max_retries=retries)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def models(self) -> list[dict[str, Any]] | None:
        """Return what the server says of its models; None if it has no such list. Raises UnavailableError."""
        try:
            listed = await self._ask(self._client.models.with_raw_response.list, _Models, "list of models")
        except RefusedError:
            return None
        return [entry for entry in listed.data if isinstance(entry.get("id"), str)]

    async def write(self, prompt: str, chat: bool, max_new_tokens: int, stop: str | None = None) -> Written:
        """Return the text that the model writes greedily after a prompt.

        Args:
            chat: whether the server puts the prompt into its chat template.
            stop: what ends the text, and is not part of it.

        Raises UnavailableError and RefusedError.
        """
        answer = await self._complete(prompt, chat, max_new_tokens, **({} if stop is None else {"stop": [stop]}))
        choice, n = answer.choices[0], 0 if answer.usage is None else answer.usage.completion_tokens
        text = _text(choice.message.content) if choice.message is not None else choice.text
        if text is None:
            raise UnavailableError(f"{self.url} gives an answer without a text")
        return Written(text.encode("utf-8", "replace").decode(), n)

    async def first_tokens(self, prompt: str, chat: bool) -> dict[str, float]:
        """Return the likeliest first tokens of an answer, as texts, with their log-probabilities.

        Raises UnavailableError, RefusedError, and NotGivenError if the server gives none.
        """
        for top in (top for top in _TOPS if top <= self._top):
            asked: dict[str, Any] = {"logprobs": True, "top_logprobs": top} if chat else {"logprobs": top}
            try:
                answer = await self._complete(prompt, chat, 1, **asked)
                self._top = top
                break
            except RefusedError:
                if top == _TOPS[-1]:
                    raise
        given = answer.choices[0].logprobs
        if given is not None and given.content:
            listed = [(token.token, token.logprob) for token in given.content[0].top_logprobs]
        elif given is not None and given.top_logprobs and given.top_logprobs[0]:
            listed = list(given.top_logprobs[0].items())
        else:
            raise NotGivenError(f"{self.url} gives no top_logprobs of the first token")
        self._check_numbers([log_prob for _, log_prob in listed])
        found: dict[str, float] = {}
        for token, log_prob in listed:  # several tokens may show as one text
            text = token.replace("Ġ", " ").replace("▁", " ")  # what byte-level and SentencePiece tokenizers write for a space
            found[text] = max(log_prob, found.get(text, -math.inf))
        return found

    async def echo(self, text: str) -> Echoed:
        """Return the tokens of a text with their log-probabilities, as the server reads it, without a chat template.

        One token is written besides: not every server takes none, and llama-cpp-python takes 0 for no limit.

        Raises UnavailableError, RefusedError, and NotGivenError if the server gives none.
        """
        answer = await self._complete(text, False, 1, echo=True, logprobs=1)
        given = answer.choices[0].logprobs
        if given is None or not given.tokens or given.token_logprobs is None or len(given.tokens) < 2:
            raise NotGivenError(f"{self.url} gives no log-probabilities of a text (completions with echo)")
        if len(given.tokens) != len(given.token_logprobs):
            n, m = len(given.token_logprobs), len(given.tokens)
            raise UnavailableError(f"{self.url} gives {n} log-probabilities for {m} tokens")
        self._check_numbers([log_prob for log_prob in given.token_logprobs if log_prob is not None])
        return Echoed(given.tokens, given.token_logprobs, 1 if answer.usage is None else answer.usage.completion_tokens)

    async def _complete(self, prompt: str, chat: bool, max_new_tokens: int, **more: Any) -> _Answer:
        """Return the server's answer to one prompt, which holds exactly one choice."""
        while True:
            limit = self._limit if chat else "max_tokens"
            common = {"model": self.name, "temperature": 0, limit: max_new_tokens, **self._seed, **more}
            if chat:
                create = self._client.chat.completions.with_raw_response.create
                system = self._model.system_prompt
                common["messages"] = [
                    *([] if system is None else [{"role": "system", "content": system}]),
                    {"role": "user", "content": prompt},
                ]
                if self._model.chat_template_args is not None:  # as vLLM, SGLang and llama.cpp call them
                    common["extra_body"] = {"chat_template_kwargs": self._model.chat_template_args}
            else:
                create = self._client.completions.with_raw_response.create
                common["prompt"] = prompt
            try:
                answer = await self._ask(create, _Answer, "completion", common)
                break
            except RefusedError as error:
                if not self._leave_out(str(error), common):
                    raise
        if len(answer.choices) != 1 or answer.choices[0].index != 0:
            numbers = ", ".join(str(choice.index) for choice in answer.choices) or "none"
            raise UnavailableError(f"{self.url} gives other choices than the one that was asked for (their numbers: {numbers})")
        if answer.model is not None:
            self.answers_as = self.answers_as or answer.model
            if answer.model != self.answers_as:
                raise UnavailableError(f"{self.url} answers as {answer.model!r}, and answered as {self.answers_as!r} before")
        used = answer.usage
        more_usage = Usage(uncounted=1) if used is None else Usage(0, 0, used.prompt_tokens, used.completion_tokens)
        self.usage.add(more_usage)
        return answer

    def _leave_out(self, message: str, sent: Mapping[str, Any]) -> bool:
        """Leave out from now on what a refusal says that the server does not take; return whether it was sent."""
        if "max_completion_tokens" in message and "messages" in sent and "max_tokens" in sent:  # OpenAI's newer models
            self._limit = "max_completion_tokens"
        elif "seed" in message and "seed" in sent:
            self._seed = {}
        else:
            return False
        return True

    async def _ask(
        self, create: Callable[..., Awaitable[Any]], kind: type[Body], what: str, body: Mapping[str, Any] | None = None
    ) -> Body:
        """Return the checked answer to a request; raises UnavailableError and RefusedError.

        Args:
            what: what the answer should be, in words.
        """
        import openai

        longest = _PATIENCE * self._model.api_timeout
        async with self._slots:
            self.usage.requests += 1
            try:
                async with asyncio.timeout(longest):
                    response = await create(**(body or {}))
            except TimeoutError:
                raise UnavailableError(f"{self.url} gave no answer in {longest:g} s of trying") from None
            except openai.APIStatusError as error:
                raise self._failed(error) from None
            except (openai.OpenAIError, ValueError) as error:
                why = why_not(error, self.url, self._model.api_timeout, self._key)
                slow = "; raise model.api_timeout or lower model.api_requests" if "did not answer" in why else ""
                raise UnavailableError(f"{why}{slow}") from None
        self.usage.retries += response.retries_taken
        text = response.http_response.text
        try:
            return kind.model_validate(json.loads(text))
        except (ValidationError, ValueError):
            raise UnavailableError(f"{self.url} answers with no {what} ({shortened(text, self._key)})") from None

    def _failed(self, error: Any) -> Exception:
        """Return what a status means: a refusal, or that the server is not available."""
        status = error.status_code
        why = why_not(error, self.url, self._model.api_timeout, self._key)
        if status in (401, 403):
            said = shortened(message_of(error), self._key)
            if self._key == NO_KEY:
                return UnavailableError(
                    f"{self.url} wants a key ({status}: {said}); set OPENAI_API_KEY, or name another variable with "
                    "model.api_key_env"
                )
            return UnavailableError(f"{self.url} refuses the key of {self._variable} ({status}: {said})")
        return RefusedError(why) if status in _CANNOT or (self._probing and status == 500) else UnavailableError(why)

    def _check_numbers(self, log_probs: list[float]) -> None:
        if any(math.isnan(log_prob) or log_prob > 1e-3 for log_prob in log_probs):
            raise UnavailableError(f"{self.url} gives log-probabilities that are none (NaN, or above 0)")


def _text(content: str | list[dict[str, Any]] | None) -> str:
    """Return the text of a message, its parts joined; a message may have none, as where a model only reasons."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content or ""

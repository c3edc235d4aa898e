"""The models that write candidate prompts: OpenAI-compatible endpoints, and causal LMs on this machine."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from paft.runtime.api import RETRIES, UnavailableError, read_key, shortened, why_not
from paft.runtime.errors import InputError

Message = Mapping[str, str]  # role, content


@dataclass(frozen=True)
class Reply:
    """A model's reply to a call.

    Token counts are None where the server does not send them. finish_reason is `length` where the text was cut off.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None


class Generator(Protocol):
    """A model that writes candidate prompts."""

    @property
    def name(self) -> str:
        """The name of the generator, which is the source of its prompts."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings that the replies depend on, in plain types; never a key."""

    async def reply(self, messages: Sequence[Message], number: int) -> Reply:
        """Return the reply to messages; `number` distinguishes calls with equal messages. Raises UnavailableError."""


class _Endpoint(BaseModel):
    """An entry of generators.yaml: a model behind an OpenAI-compatible endpoint."""

    model_config = ConfigDict(extra="forbid")
    model: str
    name: str | None = None
    base_url: str = "https://api.openai.com/v1"
    key: str | None = None  # name of the environment variable with the key; None: the server needs none
    temperature: float = Field(1.0, ge=0)
    max_tokens: int | None = Field(None, gt=0)  # None: the server's own limit
    timeout: float = Field(180.0, gt=0)  # seconds

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("should begin with http:// or https://")
        return value


class _Local(BaseModel):
    """An entry of generators.yaml: a causal LM on this machine."""

    model_config = ConfigDict(extra="forbid")
    path: str
    name: str | None = None
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(2048, gt=0)


def read_generators(path: Path) -> list[Generator]:
    """Read generators.yaml, a list of models; raises InputError that names the file and the entry."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: there is no such file; it should list the models that write prompts.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: this is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: this should be a list of models, e.g. `- {{model: NAME, base_url: URL, key: VARIABLE}}`.")
    generators: list[Generator] = []
    for number, entry in enumerate(content, 1):
        generators.append(_generator(f"{path}, entry {number}", entry))
    names = [generator.name for generator in generators]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path}: two generators are called {twice!r}; give one of them another `name`.")
    models = [generator.identity for generator in generators]
    if copy := next((n for n, model in zip(names, models, strict=True) if models.count(model) > 1), None):
        raise InputError(f"{path}: another generator is the same as {copy!r}; give it another model or temperature.")
    return generators


def _generator(where: str, entry: Any) -> Generator:
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry) or ("path" in entry) == ("model" in entry):
        raise InputError(f"{where}: an entry has a `model` (behind an endpoint) or a `path` (a local model).")
    try:
        if "path" in entry:
            local = _Local(**entry)
            return LocalGenerator(local.path, local.name, local.temperature, local.max_tokens)
        return HttpGenerator(where, _Endpoint(**entry))
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{where}, {'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}.") from None


class HttpGenerator:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        where: the file and the entry, for errors.

    Raises InputError if the key is not in the environment.
    """

    def __init__(self, where: str, endpoint: _Endpoint) -> None:
        self._endpoint = endpoint
        self.name = endpoint.name or endpoint.model.rstrip("/").rsplit("/", 1)[-1]
        self.identity = endpoint.model_dump(exclude={"key", "name", "timeout"})
        self._key = read_key(f"{where}, key", endpoint.key)
        self._client: Any = None

    async def reply(self, messages: Sequence[Message], number: int) -> Reply:
        """Return the endpoint's reply; 429, 5xx and time-outs are retried. Raises UnavailableError."""
        import openai

        if self._client is None:
            endpoint = self._endpoint
            self._client = openai.AsyncOpenAI(
                base_url=endpoint.base_url, api_key=self._key, timeout=endpoint.timeout, max_retries=RETRIES
            )
        try:
            answer = await self._client.chat.completions.create(
                model=self._endpoint.model,
                messages=list(messages),
                temperature=self._endpoint.temperature,
                **({} if self._endpoint.max_tokens is None else {"max_tokens": self._endpoint.max_tokens}),
            )
        except (openai.OpenAIError, ValueError) as error:
            raise UnavailableError(why_not(error, self._endpoint.base_url, self._endpoint.timeout, self._key)) from None
        try:
            usage, choice = answer.usage, answer.choices[0]
            read, written = (None, None) if usage is None else (_count(usage.prompt_tokens), _count(usage.completion_tokens))
            return Reply(_text(choice.message.content), read, written, choice.finish_reason)
        except (AttributeError, IndexError, TypeError):  # the client does not check what a server sends
            raise UnavailableError(
                f"{self._endpoint.base_url} answers no chat completion ({shortened(str(answer), self._key)}); check base_url"
            ) from None


def _text(content: Any) -> str:
    """Return the text of a message, its parts joined and lone surrogates, which no file can hold, replaced."""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "").encode("utf-8", "replace").decode()


def _count(tokens: Any) -> int | None:
    return tokens if isinstance(tokens, int) else None


class LocalGenerator:
    """A causal LM on this machine; it answers one call at a time."""

    def __init__(self, path: str, name: str | None = None, temperature: float = 1.0, max_tokens: int = 2048) -> None:
        self._path = path
        self.name = name or Path(path).name
        self.identity = {"path": path, "temperature": temperature, "max_tokens": max_tokens}
        self._temperature, self._max_tokens = temperature, max_tokens
        self._writer: Any = None
        self._turn = asyncio.Lock()

    async def reply(self, messages: Sequence[Message], number: int) -> Reply:
        """Return a sampled reply; `number` is the seed. Raises UnavailableError."""
        async with self._turn:
            try:
                return await asyncio.to_thread(self._write, messages, number)
            except InputError as error:  # stops this generator alone: the others' replies may be paid for
                raise UnavailableError(str(error).rstrip(".")) from None

    def _write(self, messages: Sequence[Message], number: int) -> Reply:
        from paft.pools.local_writer import Writer  # here, because it imports torch

        if self._writer is None:
            self._writer = Writer(self._path)
        text, prompt, completion, ended = self._writer.write(messages, number, self._temperature, self._max_tokens)
        return Reply(text, prompt, completion, "stop" if ended else "length")

"""A real local server of a real tiny model: an OpenAI-compatible API over transformers, with a switch for each fault.

    python -m tests.served MODEL_FOLDER     # for a look by hand: prints its address

It writes greedily, gives the log-probabilities of first tokens and of echoed texts as vLLM does, and puts messages into the
tokenizer's chat template.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Fault:
    """What is sent instead of an answer.

    status, body and headers are those of the reply; half says that it ends in the middle, silent_s how many seconds pass first.
    """

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    half: bool = False
    silent_s: float = 0.0


def error(status: int, message: str, **headers: str) -> Fault:
    """Return an error as OpenAI's servers send it."""
    return Fault(status, json.dumps({"error": {"message": message}}), headers)


Body = dict[str, Any]


class TinyServer:
    """Serves the model in a folder.

    Args:
        folder: of the model.
        gives: what the server can do: chat, completions, top_logprobs, echo.
        listed: how many first tokens it lists, whatever is asked for; None: as many as are asked for.
        fault: takes the number of a completion request and its body; returns what goes wrong, or None.
        change: takes an answer before it is sent, and returns what is sent.
        key: what it asks for; None: nothing.
        port: 0: any that is free.
    """

    def __init__(
        self,
        folder: Path,
        gives: tuple[str, ...] = ("chat", "completions", "top_logprobs", "echo"),
        listed: int | None = None,
        fault: Callable[[int, Body], Fault | None] = lambda number, body: None,
        change: Callable[[Body], Body] = lambda answer: answer,
        key: str | None = None,
        name: str = "tiny",
        port: int = 0,
    ) -> None:
        self.gives, self.listed, self.fault, self.change, self.key, self.name = gives, listed, fault, change, key, name
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.asked: list[Body] = []  # the completion requests
        self.at_a_time = self.most_at_a_time = 0
        self._lock, self._turn = threading.Lock(), threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.get(self)

            def do_POST(self) -> None:
                outer.post(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def get(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a GET."""
        if self.key is not None and handler.headers["authorization"] != f"Bearer {self.key}":
            self._send(handler, error(401, f"Incorrect API key provided: {handler.headers['authorization']}. Find yours."))
        elif handler.path != "/v1/models":
            self._send(handler, error(404, "Not Found"))
        else:
            entry = {
                "id": self.name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "tests",
                "max_model_len": 2048,
            }
            self._send(handler, Fault(200, json.dumps({"object": "list", "data": [entry]})))

    def post(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a POST."""
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            number = len(self.asked)
            self.asked.append(body | {"path": handler.path, "authorization": handler.headers["authorization"]})
            self.at_a_time += 1
            self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        try:
            reply = self.fault(number, body) or self._answer(handler, body)
        finally:
            with self._lock:
                self.at_a_time -= 1
        self._send(handler, reply)

    def _answer(self, handler: BaseHTTPRequestHandler, body: Body) -> Fault:
        if self.key is not None and handler.headers["authorization"] != f"Bearer {self.key}":
            return error(401, f"Incorrect API key provided: {handler.headers['authorization']}. Find yours.")
        kind = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}.get(handler.path)
        if kind not in self.gives:
            return error(404, "Not Found")
        if body["model"] != self.name:
            return error(404, f"The model `{body['model']}` does not exist.")
        if body.get("echo") and "echo" not in self.gives:
            return error(400, "echo is not supported")
        with self._turn:
            answer = self._chat(body) if kind == "chat" else self._complete(body)
        return Fault(200, json.dumps(self.change(answer)))

    def _chat(self, body: Body) -> Body:
        arguments = body.get("chat_template_kwargs") or {}
        text = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True, **arguments)
        context = self.tokenizer(text, add_special_tokens=False).input_ids
        written, ended = self._write(context, body["max_tokens"])
        choice: Body = {"index": 0, "message": {"role": "assistant", "content": self._text(written)}, "finish_reason": ended}
        if body.get("logprobs") and "top_logprobs" in self.gives:
            likeliest = [{"token": t, "logprob": p} for t, p in self._likeliest(context, body["top_logprobs"])]
            choice["logprobs"] = {"content": [likeliest[0] | {"top_logprobs": likeliest}]}
        return self._reply("chat.completion", choice, len(context), len(written))

    def _complete(self, body: Body) -> Body:
        context = self.tokenizer(body["prompt"]).input_ids
        written, ended = self._write(context, body["max_tokens"])
        text = self._text(written)
        for stop in body.get("stop") or ():
            if stop in text:
                text, ended = text.partition(stop)[0], "stop"
        choice: Body = {"index": 0, "text": text, "finish_reason": ended}
        if body.get("echo"):
            choice["text"] = body["prompt"] + text
            ids = context + written
            log_probs = self._log_probs(ids)
            choice["logprobs"] = {
                "tokens": [self.tokenizer.decode([i]) for i in ids],
                "token_logprobs": [None, *(log_probs[place, i].item() for place, i in enumerate(ids[1:]))],
            }
        elif body.get("logprobs") and "top_logprobs" in self.gives:
            likeliest = dict(self._likeliest(context, body["logprobs"]))
            choice["logprobs"] = {"tokens": [], "token_logprobs": [], "top_logprobs": [likeliest]}
        return self._reply("text_completion", choice, len(context), len(written))

    def _reply(self, kind: str, choice: Body, read: int, written: int) -> Body:
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return {"id": "x", "object": kind, "created": 0, "model": self.name, "choices": [choice], "usage": usage}

    @torch.no_grad()
    def _log_probs(self, ids: list[int]) -> torch.Tensor:
        return self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)

    def _likeliest(self, context: list[int], asked: int) -> list[tuple[str, float]]:
        values, ids = self._log_probs(context)[-1].sort(descending=True)
        n = self.listed or asked
        return [(self.tokenizer.decode([i]), p) for i, p in zip(ids[:n].tolist(), values[:n].tolist(), strict=True)]

    def _write(self, context: list[int], limit: int) -> tuple[list[int], str]:
        written: list[int] = []
        while len(written) < limit:
            written.append(int(self._log_probs(context + written)[-1].argmax()))
            if written[-1] == self.tokenizer.eos_token_id:
                return written, "stop"
        return written, "length"

    def _text(self, written: list[int]) -> str:
        return str(self.tokenizer.decode(written, skip_special_tokens=True))

    def _send(self, handler: BaseHTTPRequestHandler, reply: Fault) -> None:
        time.sleep(reply.silent_s)
        data = reply.body.encode()
        try:
            handler.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("content-length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[: len(data) // 2] if reply.half else data)
        except OSError:
            pass  # the client went away


@contextmanager
def served(folder: Path, **switches: Any) -> Iterator[TinyServer]:
    """Serve a model while the context lasts."""
    server = TinyServer(folder, **switches)
    try:
        yield server
    finally:
        server.close()


if __name__ == "__main__":
    with served(Path(sys.argv[1])) as here:
        print(here.url, flush=True)
        threading.Event().wait()

"""Construction against a scripted server: good, malformed, empty, late, 429 and 500 replies; kills; all that can be wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from paft.cli.pools import main
from paft.prompts import load_pool
from paft.prompts.pool import Form

# Forty different wordings: no two alike by the rule of near-copies.
_PEOPLE = ["baker", "sailor", "judge", "nurse", "pilot", "farmer", "tailor", "miner", "clown", "poet"]
_PLACES = ["harbour", "kitchen", "courtroom", "hospital"]
_FORMS = (
    "A {who} in the {where} once asked: {{premise}} Was it (A) {{A}}, or rather (B) {{B}}? Everyone there replied",
    "{where} notes of the {who}, page one.\n{{premise}}\nA - {{A}}\nB - {{B}}\nUnderlined twice:",
    "Dear {who}, should you ever come to the {where}, tell me about this. {{premise}}\nA. {{A}}\nB. {{B}}\nYours is",
    "Quiz night at the {where}! The {who} reads out: {{premise}}\n[A] {{A}}\n[B] {{B}}\nCorrect letter:",
)
_FILLERS = (
    "Nobody remembers why, though the walls still whisper about it on winter nights.",
    "Rain drummed against seven copper buckets while an orchestra rehearsed upstairs.",
    "Please keep quiet: twelve exhausted jugglers are asleep behind that curtain.",
    "According to the almanac, comets prefer Thursdays and rarely apologise.",
    "Breakfast consisted of marmalade, two stubborn figs and half a rumour.",
    "Underneath lay maps of a country which cartographers had politely forgotten.",
    "Grandmother's clock insisted on striking thirteen whenever visitors sneezed.",
    "Velvet umbrellas bloomed along the avenue like obedient mushrooms.",
    "Only the lighthouse keeper's parrot knew how to spell chrysanthemum.",
    "Snow melted from the trumpets before anyone could learn the anthem.",
)


def wordings(start: int, n: int) -> list[str]:
    made = []
    for i in range(start, start + n):
        form = _FORMS[i % 4].format(who=_PEOPLE[i % 10], where=_PLACES[(i // 4) % 4])
        made.append(f"{_FILLERS[i % 10]} {_FILLERS[(3 * i + 1 + i // 10) % 10]} {form}")
    return made


class Server:
    """An OpenAI-compatible endpoint that follows a script.

    Args:
        script: takes the number of the request; returns (status, body or None for no answer at all, headers, seconds to wait).
    """

    def __init__(self, script: Callable[[int], tuple]) -> None:
        self.requests: list[dict] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    number = len(outer.requests)
                    outer.requests.append(body | {"authorization": self.headers["authorization"]})
                status, text, headers, wait = script(number)
                time.sleep(wait)
                data = text.encode()
                try:
                    self.send_response(status)
                    for name, value in {"content-type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client went away

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[int], tuple]], Server]]:
    servers: list[Server] = []

    def start(script):
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def completion(content: str | None, finish="stop") -> str:
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage})


def answers(texts: list[str]) -> tuple:
    return 200, completion(json.dumps(texts)), {}, 0


@pytest.fixture
def task(tmp_path) -> Path:
    rows = [{"premise": f"It rained {i} hours.", "A": "wet", "B": "dry", "answer": "A"} for i in range(5)]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(folder: Path, server: str | None, *more: str, timeout: int = 600) -> list[str]:
    """Return the arguments of a construction, whose one generator waits so many seconds: a busy machine may answer late."""
    if server is not None:
        entry = f"- {{model: scripted, base_url: '{server}', timeout: {timeout}, key: PAFT_TEST_KEY}}\n"
        (folder / "generators.yaml").write_text(entry)
    own = ["--rows", f"{folder / 'my.jsonl'}", "--fields", "premise,A,B", "--choices", "A,B", "--gold", "answer"]
    models = ["--generators", f"{folder / 'generators.yaml'}", "--out", f"{folder / 'out'}", "--split", "random"]
    return ["construct", *own, *models, *more]


def run(monkeypatch, arguments: list[str]) -> tuple[int, str]:
    """Run the command in this process; returns the exit code and the sentence of an error."""
    from paft.runtime.errors import InputError

    monkeypatch.setenv("PAFT_TEST_KEY", "sk-very-secret")
    monkeypatch.setattr("sys.argv", ["paft pools", *arguments])
    try:
        main()
    except InputError as error:
        assert "\n" not in str(error) and str(error).endswith(".")
        return 2, str(error)
    return 0, ""


def record(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "out" / "candidates.jsonl").read_text().splitlines()]


def pools(folder: Path) -> dict:
    form = Form(frozenset({"premise"}), frozenset("AB"), "letter")
    return {name: load_pool(folder / "out" / f"{name}.yaml", form) for name in ("train", "validation", "test")}


def test_good_malformed_empty_429_and_500_replies(task, serve, monkeypatch):
    """Twelve calls; each disturbance is one request more, and none costs a candidate."""
    good = iter(range(100))

    def script(number: int) -> tuple:
        match number:
            case 0:
                return 429, '{"error": {"message": "slow down"}}', {"retry-after": "0.05"}, 0
            case 1:
                return 500, "oops", {"content-type": "text/plain"}, 0
            case 4:
                return 200, completion("I'm sorry, I cannot write prompts."), {}, 0
            case 5:
                return 200, completion(None, "content_filter"), {}, 0
            case 6:
                return 200, completion('```json\n["broken {premise", "{premise} {A} {B} {topic}:"'), {}, 0
        return answers(wordings(3 * next(good), 3))

    server = serve(script)
    code, sentence = run(monkeypatch, command(task, server.url, "--calls", "6", "--per-call", "3", "--concurrency", "1"))
    assert (code, sentence) == (0, "")
    assert len(server.requests) == 12 + 2
    kept = [row for row in record(task) if row["kept"]]
    assert sorted(row["text"] for row in kept) == sorted(wordings(0, 27))
    lost = [(row["reason"], row["detail"].split(".json ")[-1]) for row in record(task) if not row["kept"]]
    assert lost[-2:] == [("unreadable", "holds no template"), ("unreadable", "is empty")]
    assert {reason for reason, _ in lost[:-2]} <= {"malformed", "fields"}
    report = json.loads((task / "out" / "construction.json").read_text())
    assert report["rejected"]["unreadable"] == 2 and report["calls"] == 12
    assert report["tokens"] == {"prompt": 1200, "completion": 600, "replies_that_do_not_say": 0}
    assert report["splits"] == {"train": 21, "validation": 3, "test": 3, "dropped": 0}
    found = pools(task)
    assert sorted(t.text for pool in found.values() for t in pool.templates) == sorted(wordings(0, 27))
    assert all(t.source == "scripted" for pool in found.values() for t in pool.templates)


def test_a_reply_that_comes_too_late_is_asked_for_again(task, serve, monkeypatch):
    """However often that is: other replies, too, may be late on a busy machine."""
    again = threading.Event()

    def script(number: int) -> tuple:
        if number == 0:
            again.wait(600)  # the first reply comes once it was asked for again
            return answers([])
        again.set()
        return answers(wordings(0 if "It rained" in asked(number) else 20, 20))

    def asked(number: int) -> str:
        return server.requests[number]["messages"][-1]["content"]

    server = serve(script)
    assert run(monkeypatch, command(task, server.url, "--concurrency", "1", timeout=2)) == (0, "")
    bodies = [asked(number) for number in range(len(server.requests))]
    assert len(set(bodies)) == 2 and bodies.count(bodies[0]) > 1
    assert sorted(row["text"] for row in record(task) if row["kept"]) == sorted(wordings(0, 40))
    assert json.loads((task / "out" / "construction.json").read_text())["calls"] == 2


def test_a_key_that_a_server_repeats_is_not_said(task, serve, monkeypatch, capsys):
    body = '{"error": {"message": "bad key Bearer sk-very-secret"}}'
    server = serve(lambda _: (401, body, {}, 0))
    code, sentence = run(monkeypatch, command(task, server.url))
    assert code == 2 and "answers 401" in sentence and "***" in sentence and "secret" not in sentence + capsys.readouterr().err


def test_odd_replies_are_kept_and_read(task, serve, monkeypatch):
    """Content in parts, token counts as texts, half a surrogate pair: each paid for."""

    def script(number: int) -> tuple:
        reply = json.loads(completion(json.dumps(wordings(10 * number, 10))))
        if number == 0:
            reply["choices"][0]["message"]["content"] = [{"type": "text", "text": json.dumps(wordings(0, 10))}]
        if number == 1:
            reply["usage"] = {"prompt_tokens": "100", "completion_tokens": "50"}
        if number == 2:
            reply["choices"][0]["message"]["content"] += " \ud800"
        return 200, json.dumps(reply), {}, 0

    server = serve(script)
    assert run(monkeypatch, command(task, server.url, "--calls", "2", "--concurrency", "1")) == (0, "")
    assert sum(row["kept"] for row in record(task)) == 40
    report = json.loads((task / "out" / "construction.json").read_text())
    assert report["tokens"] == {"prompt": 300, "completion": 150, "replies_that_do_not_say": 1}


def test_the_last_template_of_a_reply_that_was_cut_off_is_not_kept(task, serve, monkeypatch):
    text = json.dumps(wordings(0, 14))
    server = serve(lambda n: (200, completion(text[:-20] if n else text, "length" if n else "stop"), {}, 0))
    run(monkeypatch, command(task, server.url, "--concurrency", "1"))
    cut = [row for row in record(task) if row["reason"] == "cut off"]
    assert len(cut) == 1 and cut[0]["text"].startswith(wordings(13, 1)[0][:40])


def test_pools_of_an_earlier_construction_do_not_stay_beside_a_later_record(task, serve, monkeypatch):
    server = serve(lambda n: answers(wordings(20 * n, 20)))
    assert run(monkeypatch, command(task, server.url))[0] == 0
    code, sentence = run(monkeypatch, command(task, server.url, "--max-words", "1"))
    assert code == 2 and "Only 0 of" in sentence and not list((task / "out").glob("*.yaml"))
    assert run(monkeypatch, command(task, server.url))[0] == 0 and len(server.requests) == 2  # and nothing is paid for again


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--split", "generator"], "--split generator needs three generators, there are 1; "),
        (["--fields", "my premise,A,B"], "--fields: 'my premise' cannot be a placeholder"),
        (["--gold", "premise"], "my.jsonl, line 1: the right answer 'It rained 0 hours.' is none of the choices"),
        (["--data-root", "."], "--data-root does nothing with --rows; leave it out."),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_paid(task, serve, monkeypatch, more, says):
    server = serve(lambda _: answers(wordings(0, 20)))
    for row in (rows := [json.loads(line) | {"my premise": "x"} for line in (task / "my.jsonl").read_text().splitlines()]):
        row["answer"] = "A"
    (task / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, sentence = run(monkeypatch, [*command(task, server.url), *more])
    assert code == 2 and says in sentence and not server.requests


def test_half_of_the_calls_show_rows_and_templates(task, serve, monkeypatch):
    server = serve(lambda number: answers(wordings(10 * number, 10)))
    about = ["--about", "Whether it is wet or dry afterwards."]
    assert run(monkeypatch, command(task, server.url, "--calls", "2", *about))[0] == 0
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert all("\n\nThe task: Whether it is wet or dry afterwards.\n\n" in text for text in asked)
    assert sorted("It rained" in text for text in asked) == [False, False, True, True]
    assert sorted("It rained 2 hours." in text for text in asked) == [
        False,
        False,
        False,
        True,
    ]  # other rows in the second call
    assert all("{premise}" in text and "Write 20 prompt templates" in text for text in asked)
    assert all("<template>" in text for text in asked if "It rained" in text)


def test_prompts_that_hide_the_options_ask_for_the_text_of_the_answer(task, serve, monkeypatch):
    texts = [f"{filler} {{premise}} Therefore, said the {who}, it is" for filler, who in zip(_FILLERS, _PEOPLE, strict=True)]
    server = serve(lambda number: answers(texts))
    assert run(monkeypatch, command(task, server.url, "--options", "hidden")) == (0, "")
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert all("with the placeholders {premise}. They" in text for text in asked)
    assert all("is the answer itself, which the template does not show" in text for text in asked)
    (shown,) = (text for text in asked if "It rained" in text)
    assert "premise: It rained 0 hours.\nright answer: wet\n" in shown and "dry" not in shown
    form = Form(frozenset({"premise"}), frozenset("AB"), "text", "hidden")
    found = [load_pool(task / "out" / f"{name}.yaml", form) for name in ("train", "validation", "test")]
    assert sorted(t.text for pool in found for t in pool.templates) == sorted(texts)


def test_the_key_is_sent_and_never_written(task, serve, monkeypatch):
    server = serve(lambda number: answers(wordings(20 * number, 20)))
    assert run(monkeypatch, command(task, server.url))[0] == 0
    assert server.requests[0]["authorization"] == "Bearer sk-very-secret"
    assert not [path for path in (task / "out").rglob("*") if path.is_file() and "very-secret" in path.read_text()]


def test_a_repeated_construction_asks_nothing_and_gives_the_same(task, serve, monkeypatch):
    server = serve(lambda number: answers(wordings(20 * number, 20)))
    arguments = command(task, server.url)
    assert run(monkeypatch, arguments)[0] == 0
    before = {path.name: path.read_bytes() for path in (task / "out").iterdir() if path.is_file()}
    assert run(monkeypatch, arguments)[0] == 0
    assert len(server.requests) == 2
    assert before == {path.name: path.read_bytes() for path in (task / "out").iterdir() if path.is_file()}
    assert run(monkeypatch, [*arguments, "--calls", "2"])[0] == 0  # the first two calls are there already
    assert len(server.requests) == 4


def test_a_kill_in_the_middle_pays_for_no_reply_twice(task, serve):
    killed = threading.Event()

    def script(number: int) -> tuple:
        if number >= 6:  # nothing more is answered before the kill
            killed.wait()
        return answers(wordings(2 * number, 2))

    server = serve(script)
    arguments = [sys.executable, "-m", "paft", "pools", *command(task, server.url, "--calls", "8", "--concurrency", "2")]
    environment = {**os.environ, "PAFT_TEST_KEY": "k"}
    replies = task / "out" / "replies"
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(server.requests) < 8 or len(list(replies.glob("*.json"))) < 6:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed.set()
    kept = {path: path.read_bytes() for path in replies.glob("*.json")}
    asked = len(server.requests)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(server.requests) - asked == 16 - len(kept)  # what is kept is not asked again
    assert asked - len(kept) <= 2  # at most what was on its way is lost
    assert {path: path.read_bytes() for path in kept} == kept


def test_one_failing_generator_loses_nothing_of_the_others(task, serve, monkeypatch):
    good = serve(lambda number: answers(wordings(20 * number, 20)))
    bad = serve(lambda number: (401, '{"error": {"message": "no such key"}}', {}, 0))
    arguments = command(task, None)
    (task / "generators.yaml").write_text(
        f"- {{model: good, base_url: '{good.url}'}}\n- {{model: bad, base_url: '{bad.url}'}}\n"
    )
    code, sentence = run(monkeypatch, arguments)
    assert code == 2 and sentence.startswith(f"generator bad: {bad.url} answers 401 (")
    assert "2 of 4 replies are kept in " in sentence and len(bad.requests) <= 2
    (task / "generators.yaml").write_text(f"- {{model: good, base_url: '{good.url}'}}\n")
    assert run(monkeypatch, arguments)[0] == 0
    assert len(good.requests) == 2


def test_an_endpoint_that_is_not_there(task, monkeypatch, nobody):
    monkeypatch.setattr("paft.pools.generators.RETRIES", 1)
    code, sentence = run(monkeypatch, command(task, f"{nobody}/v1"))
    assert code == 2 and f"{nobody}/v1 cannot be reached. 0 of 2 replies are kept" in sentence


@pytest.mark.parametrize(
    "body", ["{}", '{"choices": []}', '{"choices": [{"index": 0}]}', "[1]", "null", "not json", '{"error": "x"}']
)
def test_an_endpoint_that_answers_with_other_json(task, serve, monkeypatch, body):
    server = serve(lambda number: (200, body, {}, 0))
    code, sentence = run(monkeypatch, command(task, server.url))
    assert code == 2 and sentence.startswith(f"generator scripted: {server.url} answers no")
    assert not list((task / "out" / "replies").iterdir())


def test_a_construction_killed_while_it_writes_its_pools_goes_on(task, serve, monkeypatch):
    """Whatever of its files are there, it knows them as its own."""
    server = serve(lambda number: answers(wordings(20 * number, 20)))
    arguments = command(task, server.url)
    assert run(monkeypatch, arguments)[0] == 0
    for left in (("train",), ("train", "test"), ()):
        for name in {"train", "validation", "test"} - {*left}:
            (task / "out" / f"{name}.yaml").unlink()
        assert run(monkeypatch, [*arguments, "--seed", str(len(left))])[0] == 0
    assert len(server.requests) == 2


def test_an_endpoint_that_answers_with_a_web_page(task, serve, monkeypatch):
    server = serve(lambda number: (200, "<html><body>Welcome</body></html>", {"content-type": "text/html"}, 0))
    code, sentence = run(monkeypatch, command(task, server.url))
    assert code == 2 and "answers no chat completion (<html><body>Welcome</body></html>); check base_url." in sentence


def test_a_model_that_refuses_leaves_a_record_and_says_what_to_do(task, serve, monkeypatch):
    server = serve(lambda number: (200, completion("I'm sorry, but I can't help with that."), {}, 0))
    code, sentence = run(monkeypatch, command(task, server.url))
    assert code == 2 and sentence.startswith("Only 0 of 2 candidates survived, at least 10 are needed (unreadable 2); ")
    assert sentence.endswith("then use a larger model.")
    assert len(list((task / "out" / "replies").glob("*.json"))) == 2
    assert not (task / "out" / "train.yaml").exists()


def test_too_few_survivors_are_counted_with_their_reasons(task, serve, monkeypatch):
    texts = ["{premise} {A}\nAnswer:", "{premise} {A} {B}", *wordings(0, 3), wordings(0, 1)[0]]
    server = serve(lambda number: answers(texts))
    code, sentence = run(monkeypatch, command(task, server.url))
    assert code == 2
    assert "Only 3 of 12 candidates survived, at least 10 are needed (near-copy 5, fields 2, no cue 2); " in sentence
    assert sentence.endswith("then ask more often (--calls 2) or add generators.")


def test_a_model_that_hands_back_the_example_writes_nothing(task, serve, monkeypatch):
    example = "Premise: {premise}\nA. {A}\nB. {B}\nAnswer:"
    server = serve(lambda number: answers([f"<template>\n{example}\n</template>"]))
    code, _ = run(monkeypatch, command(task, server.url))
    verdicts = {candidate["strategy"]: candidate["detail"] for candidate in record(task)}
    assert code == 2 and verdicts == {"zero-shot": "", "few-shot": "the request shows this template as an example"}


def test_a_generator_that_writes_hardly_any_template_is_to_be_replaced(task, serve, monkeypatch):
    server = serve(lambda number: answers([*["{premise}"] * 20, *wordings(number, 1)]))
    code, sentence = run(monkeypatch, command(task, server.url))
    assert code == 2 and sentence.endswith("then use a larger model.")


def test_pools_that_a_person_changed_are_not_written_over(task, serve, monkeypatch):
    server = serve(lambda number: answers(wordings(20 * number, 20)))
    arguments = command(task, server.url)
    assert run(monkeypatch, arguments)[0] == 0
    path = task / "out" / "train.yaml"
    path.write_text(path.read_text().replace("sailor", "skipper"))
    code, sentence = run(monkeypatch, arguments)
    assert (
        code == 2 and sentence == f"{path}: this pool was not written by `construct`, or was changed since; give another --out."
    )


BAD_GENERATORS = {
    "": "this should be a list of models",
    "model: x\n": "this should be a list of models",
    "- x\n": "entry 1: an entry has a `model` (behind an endpoint) or a `path` (a local model).",
    "- {model: a, path: b}\n": "entry 1: an entry has a `model` (behind an endpoint) or a `path` (a local model).",
    "- {model: a, url: b}\n": "entry 1, url: extra inputs are not permitted.",
    "- {model: a, temperature: hot}\n": "entry 1, temperature: input should be a valid number",
    "- {model: a}\n- {model: x/a}\n": "two generators are called 'a'; give one of them another `name`.",
    "- {model: a, base_url: 'localhost:80/v1'}\n": "base_url: value error, should begin with http:// or https://",
    "- {model: a, 1: 2}\n": "an entry has a `model`",
    "- {model: a}\n- {model: a, name: b}\n": "another generator is the same as 'a'; give it another model or temperature.",
    "- {model: a, key: PAFT_NO_SUCH_KEY}\n": "entry 1, key: the environment variable PAFT_NO_SUCH_KEY is not set;",
    "- {model: a, key: sk-123-abc}\n": "entry 1, key: this names the environment variable that holds the key; never write",
    "- {model: a\n": "this is not valid YAML: ",
}


@pytest.mark.parametrize("content", BAD_GENERATORS)
def test_a_bad_list_of_generators_is_named(task, monkeypatch, content):
    arguments = command(task, None)
    (task / "generators.yaml").write_text(content)
    code, sentence = run(monkeypatch, arguments)
    assert code == 2 and sentence.startswith(f"{task / 'generators.yaml'}") and BAD_GENERATORS[content] in sentence
    assert not (task / "out").exists()


def test_what_is_wrong_with_the_task_is_said_first(task, monkeypatch):
    own = command(task, None)
    (task / "generators.yaml").write_text("- {model: a}\n")
    assert "--fields is missing" in run(monkeypatch, [*own[:3], *own[5:]])[1]
    assert "the row lacks the field 'hint'" in run(monkeypatch, [*own, "--fields", "premise,hint,A,B"])[1]
    assert "--choices: 'C' is none of --fields" in run(monkeypatch, [*own, "--choices", "A,C"])[1]
    assert "Give either --dataset" in run(monkeypatch, [own[0], *own[3:]])[1]
    assert "there is no such data file" in run(monkeypatch, [*own, "--rows", "none.jsonl"])[1]
    assert not (task / "out").exists()


def test_a_local_model_whose_window_is_too_small_is_named(task, monkeypatch, tiny_llama):
    shutil.copytree(tiny_llama, small := task / "small")
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    arguments = command(task, None)
    (task / "generators.yaml").write_text(f"- {{path: '{small}', name: tiny}}\n")
    code, sentence = run(monkeypatch, arguments)
    assert code == 2 and "generator tiny: " in sentence and "which this model's window does not hold" in sentence


def test_a_local_model_that_is_none_is_named(task, monkeypatch):
    arguments = command(task, None)
    (task / "generators.yaml").write_text(f"- {{path: '{task}'}}\n")
    code, sentence = run(monkeypatch, arguments)
    assert code == 2 and f"{task}: this is no causal LM that transformers can load" in sentence
    assert sentence.startswith("generator ")


def test_splits_by_generator_and_by_family_cost_no_call_more(task, serve, monkeypatch):
    server = serve(lambda number: answers(wordings(5 * number, 5)))
    arguments = command(task, None, "--calls", "4", "--per-call", "5", "--concurrency", "1")
    (task / "generators.yaml").write_text(
        "".join(f"- {{model: m, name: writer-{i}, base_url: '{server.url}', temperature: 0.{i}}}\n" for i in range(1, 5))
    )
    assert run(monkeypatch, arguments)[0] == 0
    asked = len(server.requests)
    assert run(monkeypatch, [*arguments, "--split", "generator"])[0] == 0
    sources = [{t.source for t in pool.templates} for pool in pools(task).values()]
    assert len(set().union(*sources)) == sum(map(len, sources)) >= 3
    assert run(monkeypatch, [*arguments, "--split", "family"])[0] == 0
    sides = [{t.wording for t in pool.templates} for pool in pools(task).values()]
    assert len(set().union(*sides)) == sum(map(len, sides))
    assert {t.layout for pool in pools(task).values() for t in pool.templates} == {""}  # too few to be held out
    assert len(server.requests) == asked

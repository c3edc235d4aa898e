"""Prompt pools made by SmolLM2: by a real server, by the model itself, and audited with its embeddings."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from paft.model.converted import smollm2_folder
from tests.pools.test_audit import TEST, TRAIN, write
from tests.pools.test_audit import run as run_audit
from tests.pools.test_construct import command, record, run, task

__all__ = ["task"]  # a fixture


@pytest.fixture(scope="module")
def smollm2_server() -> Iterator[str]:
    """A real OpenAI-compatible server of the embedded model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    transformers = str(Path(sys.executable).with_name("transformers"))
    serving = [transformers, "serve", str(smollm2_folder()), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(serving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(3000):  # ten minutes and more
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail("the server never answered")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def test_from_nothing_against_a_real_server(task, smollm2_server, monkeypatch):
    """A model of this size writes hardly a usable prompt: what matters is that everything it says is kept and judged."""
    arguments = command(task, None, "--per-call", "5", "--calls", "2")
    (task / "generators.yaml").write_text(
        f"- {{model: '{smollm2_folder()}', name: smollm2, base_url: '{smollm2_server}', max_tokens: 300, timeout: 300}}\n"
    )
    code, sentence = run(monkeypatch, arguments)
    replies = [json.loads(path.read_text()) for path in (task / "out" / "replies").glob("*.json")]
    assert len(replies) == 4 and all(reply["reply"]["completion_tokens"] > 0 for reply in replies)
    report = json.loads((task / "out" / "construction.json").read_text())
    assert report["tokens"]["prompt"] > 400 and report["candidates"] == len(record(task))
    assert all(row["kept"] or row["reason"] for row in record(task))
    assert code == 0 or sentence.startswith(f"Only {report['kept']} of {report['candidates']} candidates survived")


def test_from_nothing_with_a_local_model(task, monkeypatch):
    arguments = command(task, None, "--per-call", "5")
    (task / "generators.yaml").write_text("- {path: embedded, name: smollm2, max_tokens: 200}\n")
    run(monkeypatch, arguments)
    first = {path.name: path.read_bytes() for path in (task / "out" / "replies").glob("*.json")}
    assert len(first) == 2
    for path in (task / "out" / "replies").glob("*.json"):
        path.unlink()
    run(monkeypatch, arguments)  # sampling is seeded by the number of the call
    assert first == {path.name: path.read_bytes() for path in (task / "out" / "replies").glob("*.json")}


def test_an_audit_with_embeddings_of_a_model(tmp_path, monkeypatch):
    train, test = write(tmp_path / "a.yaml", TRAIN), write(tmp_path / "b.yaml", TEST)
    assert run_audit(monkeypatch, "--train", train, "--test", test, "--model", "embedded", "--report", tmp_path / "out") == 0
    mmd = json.loads((tmp_path / "out" / "audit.json").read_text())["mmd"]
    assert set(mmd) == {"character n-grams", "mean hidden state, embedded"}

"""What a model is told apart by, before it is loaded."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from paft.config.schema import LoraConfig, ModelConfig
from paft.model import identity
from paft.model.identity import adapter_digest, base_identity, revision_of
from paft.runtime.errors import InputError

NOW, BEFORE = "a" * 40, "b" * 40


def model(path: object, revision: str | None = None) -> ModelConfig:
    lora = LoraConfig(r=4, alpha=8, dropout=0.0, target_modules=["q_proj"])
    return ModelConfig(path=None if path is None else str(path), revision=revision, lora=lora)


@pytest.fixture
def folder(tiny_llama, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "{}"),
        ("special_tokens_map.json", "{}"),
        ("added_tokens.json", "{}"),
        ("config.json", "{}"),
        ("generation_config.json", '{"eos_token_id": [2, 0]}'),
        ("chat_template.jinja", "{{ messages[0]['content'] }}"),
        ("additional_chat_templates/tool.jinja", "x"),
        ("tokenizer.model", "x"),
        ("merges.txt", "x"),
        ("modeling_own.py", "x = 1"),
        ("model-00002-of-00002.safetensors", "x"),
        ("pytorch_model.bin", "x"),
    ],
)
def test_every_file_that_changes_a_number_changes_the_identity(folder, file, content):
    before = base_identity(model(folder))
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(content)
    after = base_identity(model(folder))
    assert after != before
    (folder / file).write_text(content + " ")
    assert base_identity(model(folder)) not in (before, after)


def test_what_changes_no_number_leaves_it(folder, tmp_path):
    before = base_identity(model(folder))
    for file in ("README.md", ".gitattributes", "logo.png", "checkpoints/a/config.json", ".cache/huggingface/x.json"):
        (folder / file).parent.mkdir(exist_ok=True, parents=True)
        (folder / file).write_text("x")
    assert base_identity(model(folder)) == before
    assert base_identity(model(folder.rename(tmp_path / "moved"))) == before


def test_the_embedded_model_keeps_its_identity():
    assert base_identity(model(None)) == "embedded" and revision_of(model(None)) is None


def test_an_adapter_is_its_weights_and_its_config(tmp_path):
    config = tmp_path / "adapter_config.json"
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    config.write_text(json.dumps({"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}))
    before = adapter_digest(tmp_path)
    config.write_text(json.dumps({"lora_alpha": 16, "target_modules": ["v_proj", "q_proj"], "r": 8}))
    assert adapter_digest(tmp_path) == before  # PEFT writes a set, in any order
    config.write_text(json.dumps({"r": 8, "lora_alpha": 32}))
    assert adapter_digest(tmp_path) != before
    config.write_text("[]{")
    with pytest.raises(InputError, match=r"adapter_config\.json: this file is damaged"):
        adapter_digest(tmp_path)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[dict[str, str]]:
    """A hub on this machine, with an empty cache: the commits of its models, by id and revision."""
    commits: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            commit = commits.get(self.path.removeprefix("/api/models/"))
            body = json.dumps({"id": "a/b", "sha": commit} if commit else {"error": "none"}).encode()
            self.send_response(200 if commit else 404)
            if not commit:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(identity, "_PATIENCE_S", 600)  # a busy machine answers late
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    identity._commit.cache_clear()
    yield commits
    server.shutdown()
    server.server_close()
    identity._commit.cache_clear()


def test_a_branch_of_a_hub_model_is_its_commit(hub):
    hub |= {"a/b/revision/main": NOW, "a/b/revision/v1": BEFORE}
    assert base_identity(model("a/b")) == f"a/b@{NOW}" and revision_of(model("a/b", "v1")) == BEFORE
    assert base_identity(model("a/b", "c" * 40)) == f"a/b@{'c' * 40}"  # without asking anybody
    hub["a/b/revision/main"] = BEFORE
    assert revision_of(model("a/b")) == NOW  # one process loads what it has named
    identity._commit.cache_clear()
    assert base_identity(model("a/b")) == f"a/b@{BEFORE}"
    with pytest.raises(InputError, match=r"model\.path=a/c: this model cannot be loaded; .*\(RepositoryNotFoundError\)"):
        base_identity(model("a/c"))


def test_a_hub_out_of_reach_leaves_what_was_downloaded(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    downloaded = tmp_path / "hub" / "models--a--b"
    (downloaded / "refs").mkdir(parents=True)
    (downloaded / "refs" / "main").write_text(NOW)
    (downloaded / "snapshots" / NOW).mkdir(parents=True)
    (downloaded / "snapshots" / NOW / "config.json").write_text("{}")
    assert base_identity(model("a/b")) == f"a/b@{NOW}"
    with pytest.raises(InputError, match=r"model\.path=a/b: .* of this id, revision v2 \("):
        base_identity(model("a/b", "v2"))

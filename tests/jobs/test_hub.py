"""paft merge --push against a local server of the hub's endpoints: what is sent, and what is said where the hub refuses it."""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from huggingface_hub import ModelCard, constants

import paft.cli.merge
from paft.jobs.train import run_training
from paft.runtime.errors import InputError
from tests.conftest import compose_config, small_run
from tests.reliability.strike import ROOT

TOKEN = "hf_of_the_test"


class Hub:
    """The hub's endpoints for uploads, as huggingface_hub calls them; keeps what it is sent."""

    def __init__(self) -> None:
        self.created: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.app = FastAPI()
        self.app.add_api_route("/api/whoami-v2", self.whoami)
        self.app.add_api_route("/api/validate-yaml", self.validate, methods=["POST"])
        self.app.add_api_route("/api/repos/create", self.create, methods=["POST"])
        self.app.add_api_route("/api/models/me/{name}/preupload/main", self.preupload, methods=["POST"])
        self.app.add_api_route("/me/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"])
        self.app.add_api_route("/blobs/{oid}", self.put, methods=["PUT"])
        self.app.add_api_route("/api/models/me/{name}/commit/main", self.commit, methods=["POST"])
        self.url = ""

    async def whoami(self, request: Request):
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": "Invalid credentials"}, 401)
        return {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}}

    async def validate(self, request: Request):
        """Look at the metadata of a model card, as the hub does before it takes a README.md."""
        asked = await request.json()
        ModelCard(asked["content"])
        return {"errors": [], "warnings": []} if asked["repoType"] == "model" else {"errors": [{"message": "no model"}]}

    async def create(self, request: Request):
        asked = await request.json()
        if asked["name"] == "forbidden":
            return JSONResponse({"error": "You don't have the rights"}, 403)
        self.created.append(asked)
        return {"url": f"{self.url}/me/{asked['name']}"}

    async def preupload(self, name: str, request: Request):
        large = (".safetensors", ".gguf")
        paths = [file["path"] for file in (await request.json())["files"]]
        return {
            "files": [
                {"path": path, "uploadMode": "lfs" if path.endswith(large) else "regular", "shouldIgnore": False}
                for path in paths
            ]
        }

    async def batch(self, name: str, request: Request):
        objects = (await request.json())["objects"]
        upload = [{**each, "actions": {"upload": {"href": f"{self.url}/blobs/{each['oid']}"}}} for each in objects]
        return JSONResponse({"transfer": "basic", "objects": upload}, media_type="application/vnd.git-lfs+json")

    async def put(self, oid: str, request: Request):
        self.blobs[oid] = await request.body()
        return {}

    async def commit(self, name: str, request: Request):
        if name == "broken":
            return JSONResponse({"error": "The disk of the hub is full. Sorry"}, 507)
        for line in (await request.body()).splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                self.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "lfsFile":
                self.files[item["value"]["path"]] = self.blobs[item["value"]["oid"]]
        return {"success": True, "commitOid": "a" * 40, "commitUrl": f"{self.url}/me/{name}/commit/{'a' * 40}"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        hub.url = f"http://127.0.0.1:{place.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(hub.app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield hub
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, which no merge changes."""
    small = small_run(tiny_llama, tmp_path_factory.mktemp("runs"))
    return run_training(compose_config(*small, "train_examples=8", "T=1")).folder


def merge(hub: Hub, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as in a shell that knows this hub and has a token."""
    asked = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "paft", "merge", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | asked, capture_output=True, text=True, timeout=600)


def refused(monkeypatch: pytest.MonkeyPatch, url: str, token: str, *arguments: object) -> str:
    """Run the command in this process with a hub and a token; return the sentence of its error."""
    for name, value in {"ENDPOINT": url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("sys.argv", ["paft merge", *map(str, arguments)])
    with pytest.raises(InputError) as error:
        paft.cli.merge.main()
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    return str(error.value)


def test_the_folder_is_sent_with_its_card_to_a_private_repository(run, hub, tmp_path):
    out = tmp_path / "mine"
    done = merge(hub, tmp_path / "home", run, "--out", out, "--dtype", "bf16", "--gguf", "q8_0", "--push", "me/mine")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"Pushed: {hub.url}/me/mine"), done.stderr
    private = [
        asked.get("visibility") == "private" or asked.get("private") for asked in hub.created
    ]  # by version of the client
    assert private == [True] and hub.created[0]["name"] == "mine"
    here = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in hub.files.items()} == here
    assert {"README.md", "model.safetensors", "mine-q8_0.gguf", "Modelfile"} <= set(hub.files)
    assert all(TOKEN.encode() not in content for content in hub.files.values()) and TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("repo", "token", "sentence", "written"),
    [
        ("me/mine", "hf_of_another", "--push me/mine: the hub does not know this token; run `hf auth login`.", False),
        ("me/forbidden", TOKEN, "--push me/forbidden: this token may not write there", True),
        ("me/broken", TOKEN, "and `hf upload me/broken %OUT` sends it again.", True),
    ],
    ids=["an unknown token", "no rights", "a hub that fails"],
)
def test_what_the_hub_refuses_is_one_sentence_and_the_folder_stays(
    repo, token, sentence, written, run, hub, tmp_path, monkeypatch
):
    out = tmp_path / "mine"
    said = refused(monkeypatch, hub.url, token, run, "--out", out, "--push", repo)
    assert sentence.replace("%OUT", str(out)) in said
    assert (out / "model.safetensors").is_file() == written and not hub.files and token not in said


def test_a_hub_that_is_not_there_is_said_before_anything_is_merged(run, tmp_path, monkeypatch, nobody):
    said = refused(monkeypatch, nobody, TOKEN, run, "--out", tmp_path / "mine", "--push", "me/mine")
    assert said.startswith("--push me/mine: the hub cannot be reached, or refuses this (") and not (tmp_path / "mine").exists()

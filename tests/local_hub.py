"""A hub on this machine: the endpoints by which huggingface_hub and transformers read models, over folders named ORG/NAME."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


class LocalHub:
    """Serves the folders below a root, each at its one commit, which depends on its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []  # the paths of requests
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def files(self, repository: str) -> dict[str, bytes]:
        """Return the files of a repository, by their paths."""
        folder = self.root / repository
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    def commit(self, repository: str) -> str:
        """Return the commit of a repository as it is now."""
        listed = [[name, hashlib.sha1(content).hexdigest()] for name, content in self.files(repository).items()]
        return hashlib.sha1(json.dumps(listed).encode()).hexdigest()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request."""
        path = unquote(urlsplit(request.path).path)
        self.asked.append(path)
        of_api = path.startswith("/api/models/")
        organisation, name, *rest = path.removeprefix("/api/models").strip("/").split("/")
        repository = f"{organisation}/{name}"
        if not (self.root / repository).is_dir():
            return _send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
        commit, files = self.commit(repository), self.files(repository)
        if len(rest) > 1 and rest[1] not in ("main", commit):
            return _send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        if of_api and rest[:1] == ["tree"]:
            listed = [{"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for p, c in files.items()]
            return _send(request, 200, json.dumps(listed).encode())
        if of_api:
            about = {
                "id": repository,
                "sha": commit,
                "siblings": [{"rfilename": p} for p in files],
                "tags": [],
                "private": False,
            }
            return _send(request, 200, json.dumps(about).encode())
        content = files.get("/".join(rest[2:]))
        if content is None:
            return _send(request, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        return _send(request, 200, content, headers)


def _send(request: BaseHTTPRequestHandler, code: int, content: bytes, headers: Mapping[str, str] = {}) -> None:
    request.send_response(code)
    for name, value in {**headers, "Content-Length": str(len(content))}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command == "GET":
        with contextlib.suppress(ConnectionError):
            request.wfile.write(content)


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub without a model, which this process asks instead of huggingface.co, with an empty cache."""
    from paft.config import adapter
    from paft.model import identity

    hub = LocalHub(tmp_path / "hub")
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for module in (adapter, identity):
        monkeypatch.setattr(module, "_PATIENCE_S", 600)  # a busy machine answers late
    for known in (adapter._downloaded, identity._commit):
        known.cache_clear()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    for known in (adapter._downloaded, identity._commit):
        known.cache_clear()

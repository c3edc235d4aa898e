"""A local server of the hub's endpoints for data sets: a folder ORG/NAME of files is a data set of one commit."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serve the data sets below a folder; yield the endpoint, for HF_ENDPOINT."""

    class Hub(_Hub):
        folder = root

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Hub(BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        asked = json.loads(body) if body.startswith(b"{") else {}
        self._answer(asked.get("paths"))

    def _answer(self, paths: list[str] | None = None) -> None:
        parts = [part for part in unquote(urlsplit(self.path).path).split("/") if part]
        if parts[:2] == ["api", "datasets"] and (self.folder / "/".join(parts[2:4])).is_dir():
            self._api(self.folder / "/".join(parts[2:4]), parts[4:], paths)
        elif parts[:1] == ["datasets"] and parts[3:4] == ["resolve"]:
            self._file(self.folder / "/".join(parts[1:3]), "/".join(parts[5:]))
        else:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _api(self, data_set: Path, rest: list[str], paths: list[str] | None) -> None:
        if rest[1:2] not in ([], [COMMIT], ["main"]):
            self._send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] == ["tree"]:
            below = "/".join(rest[2:])
            there = [entry for entry in _entries(data_set) if entry["path"].startswith(below)]
            self._send(200, there) if (data_set / below).is_dir() else self._missing()
        elif rest[:1] == ["paths-info"]:
            self._send(200, [entry for entry in _entries(data_set) if entry["path"] in (paths or [])])
        else:
            name = f"{data_set.parent.name}/{data_set.name}"
            siblings = [{"rfilename": entry["path"]} for entry in _entries(data_set) if entry["type"] == "file"]
            self._send(200, {"_id": "0", "id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})

    def _file(self, data_set: Path, name: str) -> None:
        if not (data_set / name).is_file():
            self._missing()
            return
        content = (data_set / name).read_bytes()
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT, "Content-Type": "application/octet-stream"}
        self._send(200, content, headers)

    def _missing(self) -> None:
        self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _entries(data_set: Path) -> list[dict[str, Any]]:
    """Return the files and folders of a data set as the hub lists them."""
    entries = []
    for path in sorted(data_set.rglob("*")):
        name, folder = path.relative_to(data_set).as_posix(), path.is_dir()
        content = b"" if folder else path.read_bytes()
        entry = {"type": "directory" if folder else "file", "oid": _oid(content), "path": name, "size": len(content)}
        entries.append(entry)
    return entries


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()

"""A W&B server on this machine that takes a run, and fails when it is told to."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG = 0  # instead of a status: no answer, ever
KEY = "0123456789abcdef" * 2 + "01234567"
_TIME = "2025-01-01T00:00:00"


class FakeWandb(ThreadingHTTPServer):
    """Holds what it was sent of one run.

    `status` says how a request is answered: 200, an HTTP status or HANG. It is asked with the GraphQL operation, "file_stream",
    "upload" or "otel".
    """

    daemon_threads = True

    def __init__(self, status: Callable[[str], int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.stopped = threading.Event()
        self.asked: list[str] = []
        self.name: str | None = None  # of the run, once it was created
        self.sweep: str | None = None  # that the run belongs to
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are nothing to tell."""

    def take(self, files: dict[str, Any]) -> None:
        """Take what a file stream brings."""
        for name, chunk in files.items():
            lines = [json.loads(line) for line in chunk["content"]] if name.endswith(("history.jsonl", "summary.json")) else []
            if name.endswith("history.jsonl"):
                self.history[chunk["offset"] :] = lines
            for line in lines:
                self.summary |= line

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """Return the data of an answer, None for what a run can do without."""
        upload = {"uploadUrl": f"{self.url}/upload", "uploadHeaders": []}
        project = {"id": "p", "internalId": "1", "name": "paft", "entity": {"id": "e", "name": "me"}}
        match operation:
            case "Viewer":
                me = {
                    "id": "u",
                    "entity": "me",
                    "username": "me",
                    "name": "me",
                    "email": "",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
                return {"viewer": me}
            case "GetDefaultEntity":
                return {"viewer": {"id": "u", "entity": "me"}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "RunResumeStatus":
                return {"model": None if self.name is None else project | {"bucket": self._bucket()}}
            case "UpsertBucket":
                created = self.name is None
                self.name = variables["name"] or self.name
                self.sweep = variables.get("sweep") or self.sweep
                return {"upsertBucket": {"bucket": self._bucket() | {"project": project}, "inserted": created}}
            case "Run":
                return {"project": {"id": "p", "internalId": "1", "run": self._bucket() | {"projectId": "1"}}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
                return {"createRunFiles": {"runID": "aWQ=", "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                self.artifacts.append(variables["input"]["artifactCollectionName"])
                sequence = {"id": "s", "latestArtifact": None}
                return {"createArtifact": {"artifact": {"id": "QQ", "state": "PENDING", "artifactSequence": sequence}}}
            case "CreateArtifactManifest" | "UpdateArtifactManifest":
                key = operation[0].lower() + operation[1:]
                return {key: {"artifactManifest": {"id": "m", "file": {"id": "f"} | upload}}}
            case "CreateArtifactFiles":
                named = [file["name"] for file in variables["input"]["artifactFiles"]]
                more = {"uploadMultipartUrls": None, "storagePath": "x", "artifact": {"id": "QQ"}} | upload
                nodes = [{"node": {"id": name, "name": name, "displayName": name} | more} for name in named]
                return {"createArtifactFiles": {"files": {"edges": nodes}}}
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": "QQ", "digest": "d"}}}
            case "ArtifactByID":
                sequence = {"__typename": "ArtifactSequence", "id": "s", "name": "a", "project": project}
                artifact = {
                    "__typename": "Artifact", "id": "QQ", "artifactSequence": sequence, "versionIndex": 0,
                    "artifactType": {"name": "prompts"}, "description": None, "metadata": None, "ttlDurationSeconds": 0,
                    "ttlIsInherited": False, "tags": [], "historyStep": None, "state": "COMMITTED", "size": 0, "digest": "d",
                    "commitHash": None, "fileCount": 1, "createdAt": _TIME, "updatedAt": None, "aliases": [],
                }  # fmt: skip
                return {"artifact": artifact}
        return None

    def _bucket(self) -> dict[str, Any]:
        return {
            "id": "aWQ=", "name": self.name, "displayName": "n", "description": "", "config": "{}", "sweepName": None,
            "summaryMetrics": json.dumps(self.summary), "systemMetrics": "{}", "historyLineCount": len(self.history),
            "historyTail": json.dumps([json.dumps(row) for row in self.history[-1:]]), "historyKeys": None,
            "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "tags": [], "notes": None, "wandbConfig": '{"t": 1}',
            "state": "running", "group": None, "jobType": None, "commit": None, "readOnly": False, "createdAt": _TIME,
            "heartbeatAt": _TIME, "user": {"name": "me", "username": "me"}, "fileCount": 0, "internalId": "1",
        }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: FakeWandb
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query: dict[str, Any] = {}
        operation = next((name for name in ("file_stream", "upload", "otel") if name in self.path), self.path)
        if self.path == "/graphql":
            query = json.loads(body)
            found = re.search(r"^\s*(?:query|mutation)\s+(\w+)", query["query"], re.M)
            operation = found[1] if found else "?"
        self.server.asked.append(operation)
        status = self.server.status(operation)
        if status == HANG:
            self.server.stopped.wait()
            return
        answer: dict[str, Any] = {}
        if status != 200:
            answer = {"errors": [{"message": "refused"}]}
        elif query:
            data = self.server.graphql(operation, query.get("variables") or {})
            answer = {"data": data} if data else {"data": None, "errors": [{"message": f"unknown: {operation}"}]}
        elif operation == "file_stream":
            self.server.take(json.loads(body).get("files") or {})
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815


@contextmanager
def fake_wandb(status: Callable[[str], int] = lambda _: 200) -> Iterator[FakeWandb]:
    """Serve until the block ends."""
    server = FakeWandb(status)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()

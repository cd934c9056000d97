"""The part of the Hugging Face hub's HTTP API that fetching models takes, on this machine, with failures on command."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Repositories as {repo: {file name: content}}; what the server does wrong, and what it was asked."""

    repos: dict[str, dict[str, bytes]]
    cut_after_bytes: int | None = None
    """A download breaks off after so many bytes, and from then on nothing is answered any more."""
    gone: bool = False
    claimed_sha256: str | None = None
    """What the hub says of every file, instead of the truth."""
    status: int = 200
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, Range header) in turn."""
    url: str = ""

    def downloads(self) -> list[tuple[str, str]]:
        """(file, Range header) of every GET of a file."""
        return [
            (path.rpartition("/")[2], r) for method, path, r in self.requests if method == "GET" and "/resolve/" in path
        ]

    def sha256(self, content: bytes) -> str:
        """What the hub says of a file."""
        return self.claimed_sha256 or hashlib.sha256(content).hexdigest()


@contextmanager
def serve_hub(hub: FakeHub) -> Iterator[FakeHub]:
    """Serves on a port of its own until the block ends; `hub.url` is the endpoint."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(body)

    def log_message(self, *_arguments: object) -> None:
        """Nothing: a test's output is its own."""

    def _answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if self.hub.gone:
            self.close_connection = True
        elif self.hub.status != 200:
            self._send(self.hub.status, b"{}")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/(.+))?", path):
            self._answer_api(found[1], found[2] or "revision", body)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._answer_file(found[1], found[2])
        else:
            self._send(404, b"{}")

    def _answer_api(self, repo: str, what: str, body: bytes) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        if what == "revision":
            siblings = [{"rfilename": name, "size": len(data), "lfs": self._lfs(data)} for name, data in files.items()]
            document: Any = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}
        else:
            wanted = list(files)
            if what == "paths-info":
                wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            document = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(files[name]),
                    "oid": COMMIT,
                    "lfs": {"oid": self.hub.sha256(files[name]), **self._lfs(files[name])},
                }
                for name in wanted
                if name in files
            ]
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _lfs(self, data: bytes) -> dict[str, Any]:
        return {"size": len(data), "sha256": self.hub.sha256(data), "pointerSize": 130}

    def _answer_file(self, repo: str, name: str) -> None:
        data = self.hub.repos.get(repo, {}).get(name)
        if data is None:
            code = "EntryNotFound" if repo in self.hub.repos else "RepoNotFound"
            self._send(404, b"{}", {"X-Error-Code": code})
            return
        headers = {"ETag": f'"{self.hub.sha256(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            self._send(200, data, headers, cut_after_bytes=self.hub.cut_after_bytes)
            return
        first, last = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(206, data[first : last + 1], headers, cut_after_bytes=self.hub.cut_after_bytes)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, *, cut_after_bytes: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut_after_bytes is not None and cut_after_bytes < len(data):
            self.wfile.write(data[:cut_after_bytes])
            self.close_connection = self.hub.gone = True
        else:
            self.wfile.write(data)

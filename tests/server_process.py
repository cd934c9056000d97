"""`hobbit serve` in a process of its own, on a free port."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import openai

_READY = re.compile(r"is served at http://(?:127\.0\.0\.1|\[::1\]):(\d+)")
_START_S = 60
_STOP_S = 30


@dataclass(frozen=True)
class Answer:
    """What an HTTP request came to."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class ServerProcess:
    """Started on entry, stopped on exit; `port` is where it listens, `log` what it wrote to stderr."""

    def __init__(self, model: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", "hobbit_py", "serve", str(model), "--port", "0", *arguments]
        self._environment = dict(os.environ, **(environment or {}))
        self._lines: list[str] = []
        self._ready = threading.Event()
        self._clients: list[openai.OpenAI] = []
        self.port = 0

    def __enter__(self) -> "ServerProcess":
        self.process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, env=self._environment)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._ready.wait(_START_S) or not self.port:
            self.stop(signal.SIGKILL)
            raise AssertionError(f"the server did not start: {self.log}")
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()
        self.stop()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self._lines.append(line)
                if match := _READY.search(line):
                    self.port = int(match[1])
                    self._ready.set()
        self._ready.set()

    @property
    def log(self) -> str:
        return "".join(self._lines)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(_STOP_S)
        finally:
            self.process.kill()
            self._reader.join()
        return code

    def client(self, api_key: str = "none") -> openai.OpenAI:
        # trust_env: a proxy of the environment is not for this machine's own address.
        transport = openai.DefaultHttpxClient(trust_env=False)
        client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=60, http_client=transport
        )
        self._clients.append(client)
        return client

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        return self.request("POST", path, body, headers)

    def metric(self, name: str) -> float:
        """A counter or gauge of /metrics, by its full name with labels."""
        for line in self.get("/metrics").text.splitlines():
            if line.rpartition(" ")[0] == name:
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"there is no metric {name}")

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

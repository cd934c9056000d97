"""`hobbit serve` against clients that mean harm: it answers or refuses, stays small, and goes on serving the others."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from server_process import Answer, ServerProcess
from support import ModelFactory

from hobbit_py.bundled import bundled_model

pytestmark = pytest.mark.alone

KEY = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {KEY}"}
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is a dog?"}]
N_CLIENTS = 64
MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    options = ("--expert-memory", "16MiB", "--ctx", "512", "--max-tokens", "500")
    with ServerProcess(bundled_model(), *options, environment={"HOBBIT_API_KEY": KEY}) as process:
        assert ask(process, max_tokens=2).status == 200
        yield process
        assert process.process.poll() is None, process.log
        assert "Traceback" not in process.log


def ask(server: ServerProcess, **fields: object) -> Answer:
    return server.post(CHAT, json.dumps({"messages": MESSAGES, "max_tokens": 2, **fields}).encode(), BEARER)


def still_serves(server: ServerProcess) -> None:
    assert ask(server).status == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Basic " + KEY}],
    ids=["none", "wrong", "no scheme", "other scheme"],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/models", "/metrics", "/state", "/openapi.json"])
def test_no_key_no_answer(server: ServerProcess, path: str, headers: dict[str, str]) -> None:
    method = "POST" if "completions" in path else "GET"
    answer = server.request(method, path, b"{}" if method == "POST" else None, headers)
    assert answer.status == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_key_opens(server: ServerProcess) -> None:
    assert [model.id for model in server.client(KEY).models.list()] == ["mini-mixtral-Q8_0"]
    with pytest.raises(openai.AuthenticationError):
        server.client("wrong").models.list()


def test_other_sites_and_other_names_are_refused(server: ServerProcess) -> None:
    body = json.dumps({"messages": MESSAGES}).encode()
    for headers in (
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Host": "example.com"},
        {"Host": f"example.com:{server.port}", "Origin": f"http://example.com:{server.port}"},
    ):
        assert server.post(CHAT, body, BEARER | headers).status == 403
    assert server.get("/health", {"Origin": server.url}).status == 200
    assert server.get("/health", {"Host": f"localhost:{server.port}"}).status == 200


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "a\x00b", "%2e%2e/x"])
def test_a_model_s_name_is_never_a_path(server: ServerProcess, name: str) -> None:
    answer = ask(server, model=name)
    assert answer.status == 200
    assert answer.json()["model"] == "mini-mixtral-Q8_0"


@pytest.mark.parametrize(
    "path", ["/../../../etc/passwd", "/page.css/../run.py", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models/../../etc/passwd"]
)
def test_no_path_leads_to_a_file(server: ServerProcess, path: str) -> None:
    assert server.get(path, BEARER).status == 404


def big_object(n_bytes: int) -> bytes:
    return b'{"messages":[{"role":"user","content":"' + b"x" * n_bytes + b'"}]}'


BAD_BODIES = {
    "empty": b"",
    "not JSON": b"{messages}",
    "no object": b"[1]",
    "invalid UTF-8": b'{"messages":[{"role":"user","content":"\xff\xfe\xc3"}]}',
    "half a surrogate pair": rb'{"messages":[{"role":"user","content":"\ud800"}]}',
    "deep lists": b'{"messages":' + b"[" * 100_000,
    "deep objects": b'{"messages":' + b'{"a":' * 500 + b"1" + b"}" * 501,
    "wide": b'{"messages":[' + b"{}," * 300_000 + b"{}]}",
    "wide numbers": b'{"messages":[' + b"1," * 500_000 + b"1]}",
    "wide parts": b'{"messages":[{"role":"user","content":[' + b"{}," * 300_000 + b"{}]}]}",
    "wide tools": b'{"messages":[],"tools":[' + b"{}," * 300_000 + b"{}]}",
    "many stops": b'{"prompt":"a","stop":[' + b'"a",' * 200_000 + b'"a"]}',
    "long number": b'{"seed":' + b"9" * 100_000 + b"}",
    "not a number": b'{"temperature":NaN}',
    "too large a number": b'{"temperature":1e999}',
    "long prompt": big_object(900_000),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies_are_refused_at_once(server: ServerProcess, name: str) -> None:
    start = time.monotonic()
    answer = server.post(CHAT, BAD_BODIES[name], BEARER)
    assert answer.status == 400
    assert len(answer.body) < 1000
    assert time.monotonic() - start < 2


@pytest.mark.resident
def test_large_bodies_are_neither_read_nor_kept(server: ServerProcess) -> None:
    still_serves(server)
    before = server.resident_bytes()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send_chunked(server, 10 * MIB), range(8)))
        answers += pool.map(lambda _: send_declared(server, 10 * MIB), range(8))
    assert answers == [413] * 16
    assert server.resident_bytes() - before < 16 * MIB
    still_serves(server)


def send_declared(server: ServerProcess, n_bytes: int) -> int:
    return server.post(CHAT, big_object(n_bytes), BEARER).status


def send_chunked(server: ServerProcess, n_bytes: int) -> int:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            for _ in range(n_bytes // 0x10000):
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server answered and closed
        return int(connection.recv(64).split()[1])


# Each of these ended the process, or gave no meaning, when it reached llama.cpp as it is.
EXTREMES: list[dict[str, Any]] = [
    {"temperature": 1e-300},
    {"temperature": 100, "top_p": 0, "min_p": 1},
    {"top_k": 2**31},
    {"repeat_penalty": 0},
    {"repeat_penalty": 1e-45},
    {"mirostat_mode": 2, "mirostat_tau": 0},
    {"mirostat_mode": 1, "mirostat_tau": 1e-9},
    {"logit_bias": {"-1": 1}},
    {"logit_bias": {"99999999": 1}},
    {"logit_bias": {str(token): -100 for token in range(1000)}},
    {"min_tokens": 2**31 - 1},
    {"min_tokens": 5, "response_format": {"type": "json_object"}},
    {"seed": -(2**63)},
    {"max_tokens": 0},
    {"grammar": 'root ::= "a'},
    {"messages": []},
    {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///etc/passwd"}]}]},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
]
SCHEMAS: list[dict[str, Any]] = [
    {"enum": []},
    {"enum": ["\0", '"', "\\"]},
    {"$ref": "#"},
    {"type": "array", "items": {"$ref": "#"}},
    {"$ref": "https://example.com/schema"},
    {"type": "string", "maxLength": 10**9},
    {"type": "string", "pattern": "^((a{999}){999}){999}$"},
    {"type": "string", "pattern": "^["},
    {"type": "object", "properties": {'"]\n root ::= ': {"type": "string"}}},
    {"anyOf": []},
    {"type": "nonsense"},
]


@pytest.mark.parametrize("fields", EXTREMES, ids=lambda fields: json.dumps(fields)[:40])
def test_extreme_parameters(server: ServerProcess, fields: dict[str, Any]) -> None:
    assert ask(server, **fields).status in (200, 400)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_extreme_schemas(server: ServerProcess, schema: dict[str, Any]) -> None:
    assert ask(server, response_format={"type": "json_object", "schema": schema}).status in (200, 400)
    function = {"name": "f", "parameters": schema}
    choice = {"type": "function", "function": {"name": "f"}}
    answer = ask(server, tools=[{"type": "function", "function": function}], tool_choice=choice)
    assert answer.status in (200, 400)


@pytest.mark.resident
def test_many_clients_at_once(server: ServerProcess) -> None:
    """All are answered, the probes meanwhile within 100 ms, and memory stays what it was."""
    still_serves(server)
    before = server.resident_bytes()
    probe_s: list[float] = []
    with ThreadPoolExecutor(N_CLIENTS) as pool:
        answers = [pool.submit(ask, server, max_tokens=8, stream=bool(i % 2)) for i in range(N_CLIENTS)]
        while not all(answer.done() for answer in answers):
            start = time.monotonic()
            assert server.get("/health").status == 200
            probe_s.append(time.monotonic() - start)
            time.sleep(0.01)
    assert [answer.result().status for answer in answers] == [200] * N_CLIENTS
    assert server.resident_bytes() - before < 16 * MIB
    # The machine that runs the tests has other work too: a rare late probe is its scheduler's.
    probe_s.sort()
    assert probe_s[len(probe_s) * 9 // 10] < 0.1


def test_slow_readers_and_half_open_connections_hold_up_nobody(server: ServerProcess) -> None:
    connections = []
    body = json.dumps({"messages": MESSAGES, "stream": True, "max_tokens": 300}).encode()
    for number in range(60):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connections.append(connection)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n".encode()
        if number < 4:  # asks and never reads
            connection.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        elif number % 3 == 0:  # headers that never end
            connection.sendall(head)
        elif number % 3 == 1:  # a body that never ends
            connection.sendall(head + b"Content-Length: 1000\r\n\r\n{")
    still_serves(server)
    for connection in connections:
        connection.close()
    still_serves(server)


def test_the_queue_has_an_end(tiny_model: ModelFactory) -> None:
    options = ("--expert-memory", "1MiB", "--ctx", "2048", "--max-queue", "1")
    with ServerProcess(tiny_model("qwen3moe"), *options) as process:
        client = process.client()
        create: Any = client.completions.create
        with create(model="x", prompt="A", max_tokens=2000, stream=True, temperature=0) as stream:
            next(iter(stream))
            waiting = threading.Thread(target=lambda: create(model="x", prompt="B", max_tokens=1))
            waiting.start()
            while process.metric("hobbit_queue_length") == 0:
                time.sleep(0.01)
            with pytest.raises(openai.InternalServerError, match="1 requests are waiting") as error:
                create(model="x", prompt="C", max_tokens=1)
            assert error.value.status_code == 503
            assert error.value.response.headers["retry-after"] == "1"
        waiting.join()


TEMPLATES = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr filter": "{{ ''|attr('__class__') }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "globals": "{{ raise_exception.__globals__['__builtins__']['open']('OUT', 'w') }}",
    "cycler": "{{ cycler.__init__.__globals__.os.system('touch OUT') }}",
    "import": "{% import 'os' as os %}{{ os.system('touch OUT') }}",
    "include": "{% include '/etc/passwd' %}",
    "mutation": "{{ messages.append(1) }}{{ messages.clear() }}",
    "endless": "{% for i in range(1000000000) %}x{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_model_s_chat_template_stays_in_its_sandbox(tiny_model: ModelFactory, tmp_path: Path, name: str) -> None:
    template = TEMPLATES[name].replace("OUT", str(tmp_path / "out"))
    with ServerProcess(tiny_model("qwen3moe", chat_template=template), "--expert-memory", "1MiB") as process:
        answer = process.post(CHAT, json.dumps({"messages": MESSAGES, "max_tokens": 2}).encode())
        assert answer.status in (400, 500), answer.text
        assert not (tmp_path / "out").exists()
        completion = json.dumps({"prompt": "a", "max_tokens": 2}).encode()
        assert process.post("/v1/completions", completion).status == 200

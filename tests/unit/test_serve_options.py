"""What is refused before a model is loaded, and the bounds of a request's JSON."""

import json
import socket

import pytest

from hobbit_py.cli import main
from hobbit_py.server.api_errors import ApiError
from hobbit_py.server.limits import read_json


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in and no key is set"),
        (["--host", "::"], "--host :: lets other machines in"),
        (["--api-key", ""], "The API key is empty"),
        (["--api-key", "ключ"], "characters that an HTTP header cannot carry"),
        (["--host", "no such host", "--api-key", "k"], "The address 'no such host' cannot be used"),
        (["--chat-format", "gpt"], "There is no chat format 'gpt'; the formats are"),
        (["--max-body", "much"], "'much'"),
        (["--port", "70000"], "70000"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_usage(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("hobbit: ")
    assert sentence in message
    assert message.count("\n") == 1


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"Port {port} of 127.0.0.1 cannot be listened on: Address already in use" in capsys.readouterr().err


def test_json_as_it_should_be() -> None:
    body = {"messages": [{"role": "user", "content": "å\u0000😀"}], "seed": -(2**63) + 1, "temperature": 0.5}
    assert read_json(json.dumps(body | {"stop": None}).encode()) == body
    assert read_json(json.dumps(body, ensure_ascii=False).encode()) == body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"a": [[]] * 20_001}, "more than 20000 values"),
        ({"a": {str(i): i for i in range(20_001)}}, "more than 20000 values"),
        ({"messages": [{}] * 1025}, "'messages' may have 1024 items"),
        ({"messages": [{"content": [{}] * 200}, {"content": [{}] * 57}]}, "'content' may have 256 items"),
        ({"stop": ["a"] * 17}, "'stop' may have 16 items"),
        ({"s": {"minItems": 600, "items": {"maxLength": 401}}}, "more than 1000 repetitions"),
        ({"s": {"pattern": "^((a{40}){40})$"}}, "more than 1000 repetitions"),
        ({"s": {"$ref": "https://example.com"}}, "refer only to itself"),
        ({"seed": 2**63}, "more than 64 bits"),
        ({"a": float("inf")}, "Infinity is not a number"),
        ({"\ud800": 1}, "half of a surrogate pair"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_json_out_of_bounds(body: dict[str, object], reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as error:
        read_json(json.dumps(body).encode())
    assert error.value.status == 400

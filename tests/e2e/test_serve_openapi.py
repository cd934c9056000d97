"""The server against requests that schemathesis makes up from its OpenAPI description, right ones and wrong ones."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import one_of
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from server_process import ServerProcess

from hobbit_py.bundled import bundled_model

pytestmark = pytest.mark.alone

N_EXAMPLES = 20
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    options = ("--expert-memory", "16MiB", "--ctx", "512", "--max-tokens", "2", "--logprobs")
    with ServerProcess(bundled_model(), *options) as process:
        yield process
        assert process.process.poll() is None, process.log
        assert "Traceback" not in process.log


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{name}"),
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/state"),
    ],
)
def test_description(server: ServerProcess, method: str, path: str) -> None:
    description = schemathesis.openapi.from_dict(server.get("/openapi.json").json())
    operation = description[path][method]
    by_mode = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

    @given(case=one_of(by_mode))
    @settings(max_examples=N_EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def run(case: schemathesis.Case) -> None:
        case.validate_response(case.call(base_url=server.url, timeout=30), checks=CHECKS)

    run()

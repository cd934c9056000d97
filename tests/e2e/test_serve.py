"""`hobbit serve` as OpenAI's own client sees it, over a real socket."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from server_process import ServerProcess
from support import ArenaSize, ModelFactory, arena_bytes

from hobbit_py.bundled import bundled_model

pytestmark = pytest.mark.alone

N_CTX = 1024
EXAMPLE = Path(__file__).parents[2] / "examples" / "server_client.py"
QUESTION: list[Any] = [{"role": "user", "content": "What is a dog?"}]
GREEDY: dict[str, Any] = {"model": "any", "temperature": 0.0}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    # A trained model: with random weights the text is no UTF-8, and llama_cpp waits for the rest of a character.
    path = bundled_model()
    memory = str(arena_bytes(path, ArenaSize.QUARTER))
    with ServerProcess(
        path, "--expert-memory", memory, "--ctx", str(N_CTX), "--logprobs", "--alias", "tiny"
    ) as process:
        yield process


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> openai.OpenAI:
    return server.client()


def complete(client: openai.OpenAI, prompt: str, **options: Any) -> str:
    answer = client.completions.create(prompt=prompt, **(GREEDY | options))
    return answer.choices[0].text


def test_models_and_health(server: ServerProcess, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="The model here is 'tiny'"):
        client.models.retrieve("../../etc/passwd")
    assert server.get("/health").json() == {"status": "ok"}


def test_chat_whole_and_streamed_are_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=QUESTION, max_tokens=8, **GREEDY)
    assert whole.model == "tiny"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    assert whole.choices[0].finish_reason == "length"
    with client.chat.completions.create(messages=QUESTION, max_tokens=8, stream=True, **GREEDY) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len(chunks) >= 8


def test_max_completion_tokens_is_max_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=QUESTION, max_completion_tokens=5, **GREEDY)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_stop_sequence(client: openai.OpenAI) -> None:
    text = complete(client, "Once upon a time", max_tokens=40)
    assert len(text) > 12
    stop = text[8:11]
    assert complete(client, "Once upon a time", max_tokens=40, stop=[stop]) == text[: text.index(stop)]


def test_seeds(client: openai.OpenAI) -> None:
    sample = {"temperature": 1.5, "max_tokens": 24, "top_p": 1.0}
    first = complete(client, "A", seed=7, **sample)
    complete(client, "B", seed=8, **sample)
    assert complete(client, "A", seed=7, **sample) == first
    assert len({complete(client, "A", **sample) for _ in range(4)}) > 1


def test_json_mode(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=QUESTION,
        max_tokens=200,
        seed=1,
        model="any",
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "pet",
                "schema": {
                    "type": "object",
                    "properties": {"legs": {"enum": [2, 4]}, "kind": {"enum": ["cat", "dog"]}},
                    "required": ["legs", "kind"],
                },
            },
        },
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert value["legs"] in (2, 4)
    assert value["kind"] in ("cat", "dog")


def test_tool_call(client: openai.OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "function": {
            "name": "light",
            "description": "Switches the light.",
            "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
        },
    }
    choice: Any = {"type": "function", "function": {"name": "light"}}
    answer = client.chat.completions.create(
        messages=QUESTION, tools=[tool], tool_choice=choice, max_tokens=100, seed=1, model="any"
    )
    calls: Any = answer.choices[0].message.tool_calls
    assert calls[0].function.name == "light"
    assert isinstance(json.loads(calls[0].function.arguments)["on"], bool)


def test_log_probabilities(client: openai.OpenAI) -> None:
    completion = client.completions.create(prompt="Once upon", max_tokens=4, logprobs=3, **GREEDY)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert len(logprobs.token_logprobs) == 4
    for chosen, best in zip(logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert chosen == pytest.approx(max(best.values()))
    chat = client.chat.completions.create(messages=QUESTION, max_tokens=4, logprobs=True, top_logprobs=2, **GREEDY)
    assert chat.choices[0].logprobs is not None
    assert len(chat.choices[0].logprobs.content or []) == 4


def test_mistakes_are_told_in_openai_s_form(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=f"{N_CTX} tokens") as too_long:
        complete(client, "dog " * (N_CTX + 1))
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        complete(client, "x", temperature=-1.0)
    with pytest.raises(openai.BadRequestError, match="at least one message"):
        client.chat.completions.create(messages=[], model="any")
    with pytest.raises(openai.BadRequestError, match="'light' not found in tools"):
        client.chat.completions.create(
            messages=QUESTION,
            model="any",
            tools=[{"type": "function", "function": {"name": "a", "parameters": {}}}],
            tool_choice={"type": "function", "function": {"name": "light"}},
        )


def test_a_client_that_hangs_up_frees_the_engine(server: ServerProcess, client: openai.OpenAI) -> None:
    cancelled = server.metric('hobbit_requests_total{outcome="cancelled"}')
    generated = server.metric("hobbit_generated_tokens_total")
    with client.completions.create(prompt="A", max_tokens=N_CTX - 10, stream=True, **GREEDY) as stream:
        next(iter(stream))
    complete(client, "B", max_tokens=2)
    assert server.metric('hobbit_requests_total{outcome="cancelled"}') == cancelled + 1
    assert server.metric("hobbit_generated_tokens_total") - generated < N_CTX / 2


def test_a_waiting_client_that_hangs_up_leaves_the_queue(server: ServerProcess, client: openai.OpenAI) -> None:
    with client.completions.create(prompt="A", max_tokens=N_CTX - 10, stream=True, **GREEDY) as stream:
        next(iter(stream))
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).completions.create(prompt="B", max_tokens=N_CTX - 10, **GREEDY)
        wait_until(lambda: server.metric("hobbit_queue_length") == 0)
        assert server.metric("hobbit_busy") == 1


def test_requests_are_served_in_the_order_they_came(server: ServerProcess, client: openai.OpenAI) -> None:
    finished: list[int] = []

    def ask(number: int) -> None:
        complete(client, f"Request {number}", max_tokens=8)
        finished.append(number)

    with client.completions.create(prompt="A", max_tokens=N_CTX - 10, stream=True, **GREEDY) as stream:
        next(iter(stream))
        threads = []
        for number in range(6):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            wait_until(lambda n=number: server.metric("hobbit_queue_length") == n + 1)
    for thread in threads:
        thread.join()
    assert finished == list(range(6))


def test_metrics_and_state(server: ServerProcess, client: openai.OpenAI) -> None:
    complete(client, "Once upon a time", max_tokens=8)
    assert server.metric("hobbit_generated_tokens_total") >= 7
    assert server.metric("hobbit_decode_tokens_per_second") > 0
    assert server.metric('hobbit_read_bytes_total{precision="hi"}') > 0
    assert server.metric('hobbit_expert_misses_total{precision="hi"}') > 0
    state = server.get("/state").json()
    assert state["model"] == "tiny"
    assert state["layer_idxs"] == list(range(len(state["layers"])))
    shown = "".join(state["layers"])
    assert set(shown) <= set("013")
    # A quarter of the experts fits.
    assert 0 < shown.count("3") <= len(shown) / 3


def test_the_example(server: ServerProcess) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--url", server.url, "--max-tokens", "8"],
        env=os.environ | {"NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\w+.*\n\([\d.]+ tok/s, \d+ hits, \d+ misses\)\n$", done.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_request_in_progress_finish(tiny_model: ModelFactory, number: int) -> None:
    with ServerProcess(tiny_model("qwen3moe"), "--expert-memory", "1MiB", "--ctx", "512", "--grace", "60") as process:
        client = process.client()
        answers: list[int] = []
        refused: list[int] = []

        def ask() -> None:
            answer = client.completions.create(prompt="A", max_tokens=300, **GREEDY)
            assert answer.usage is not None
            answers.append(answer.usage.completion_tokens // 300)

        def wait_in_vain() -> None:
            with pytest.raises(openai.InternalServerError) as error:
                complete(client, "B")
            refused.append(error.value.status_code)

        threads = [threading.Thread(target=ask), threading.Thread(target=wait_in_vain)]
        threads[0].start()
        wait_until(lambda: process.metric("hobbit_busy") == 1)
        threads[1].start()
        wait_until(lambda: process.metric("hobbit_queue_length") == 1)
        assert process.stop(number) == 0
        for thread in threads:
            thread.join()
        assert (answers, refused) == ([1], [503])
        assert "Traceback" not in process.log


def test_the_grace_ends(tiny_model: ModelFactory) -> None:
    with ServerProcess(tiny_model("qwen3moe"), "--expert-memory", "1MiB", "--ctx", "2048", "--grace", "0") as process:
        client = process.client()
        with client.completions.create(prompt="A", max_tokens=2000, stream=True, **GREEDY) as stream:
            next(iter(stream))
            start = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - start < 5
        assert "Traceback" not in process.log


def wait_until(condition: Any, timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)

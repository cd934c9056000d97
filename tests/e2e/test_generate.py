"""`hobbit generate` as a process, with the bundled model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hobbit_py.bundled import bundled_model

PROMPT = "The king of the sea"


def hobbit(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hobbit_py", *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def generate_json(*arguments: str) -> dict[str, Any]:
    result = hobbit("generate", "--prompt", PROMPT, "-n", "24", "--temp", "0", "--threads", "1", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_text_goes_to_stdout_and_nothing_else() -> None:
    result = hobbit("generate", "--prompt", PROMPT, "-n", "24", "--temp", "0", "--threads", "1")
    assert result.returncode == 0, result.stderr
    assert result.stdout == generate_json()["text"]
    for line in result.stderr.splitlines():
        assert line.startswith("hobbit: ")


def test_greedy_tokens_equal_stock_llama_cpp() -> None:
    from support import stock_llama

    with stock_llama(bundled_model()) as stock:
        prompt = stock.tokenize(PROMPT.encode(), add_bos=True, special=True)
        sampled = stock.generate(prompt, temp=0.0, repeat_penalty=1.0)
        expected = [next(sampled) for _ in range(24)]
    for expert_memory in ("1MiB", "8MiB", "1GiB"):
        report = generate_json("--expert-memory", expert_memory)
        assert report["tokens"] == expected[: len(report["tokens"])]
        assert len(report["tokens"]) == 24 or expected[len(report["tokens"])] == 0


def test_json_report_measures_decode_alone() -> None:
    scarce = generate_json("--expert-memory", "2MiB")
    ample = generate_json("--expert-memory", "1GiB")
    assert set(scarce) == {
        "text",
        "tokens",
        "prompt_tokens",
        "load_s",
        "prompt_tok_s",
        "decode_tok_s",
        "hit_rate",
        "read_bytes_per_token",
        "stall_s_per_token",
        "peak_rss_bytes",
        "precision",
    }
    assert scarce["text"] == ample["text"]
    assert scarce["precision"] == "exact"
    # None: all experts came during the prompt and are there for good, so that none was asked for.
    assert 0 <= scarce["hit_rate"] < (1.0 if ample["hit_rate"] is None else ample["hit_rate"])
    assert scarce["read_bytes_per_token"] > ample["read_bytes_per_token"] >= 0
    assert scarce["stall_s_per_token"] >= 0
    for figure in ("load_s", "prompt_tok_s", "decode_tok_s", "peak_rss_bytes"):
        assert scarce[figure] > 0


def test_prompt_from_stdin() -> None:
    result = hobbit("generate", "--prompt-file", "-", "-n", "8", "--temp", "0", "--json", stdin=PROMPT)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["tokens"] == generate_json()["tokens"][:8]


def test_seed_repeats_itself() -> None:
    arguments = ("generate", "--prompt", PROMPT, "-n", "16", "--seed", "0", "--threads", "1")
    first, second = hobbit(*arguments), hobbit(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout


def test_stops_at_the_end_of_the_context() -> None:
    # The smallest context that llama.cpp makes; this prompt keeps the model talking.
    result = hobbit("generate", "--prompt", "It was", "-n", "5000", "--temp", "0", "--ctx", "256")
    assert result.returncode == 0, result.stderr
    assert "of 5000 tokens: the context of 256 is full; raise --ctx." in result.stderr


def test_reader_that_goes_away_is_not_an_error_message() -> None:
    command = f"{sys.executable} -m hobbit_py generate --prompt 'It was' -n 200 --temp 0 | head -c 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=300)
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


def test_verbose_shows_the_log_of_llama_cpp() -> None:
    result = hobbit("generate", "--prompt", PROMPT, "-n", "1", "--verbose")
    assert result.returncode == 0
    assert "llama" in result.stderr


def _not_a_gguf(path: Path) -> None:
    path.write_bytes(b"root:x:0:0:" * 100)


def _empty(path: Path) -> None:
    path.touch()


def _truncated(path: Path) -> None:
    path.write_bytes(bundled_model().read_bytes()[: 20 << 20])


def _truncated_header(path: Path) -> None:
    path.write_bytes(bundled_model().read_bytes()[:1000])


@pytest.mark.parametrize(
    "make",
    [None, Path.mkdir, _not_a_gguf, _empty, _truncated, _truncated_header],
    ids=["missing", "folder", "not a GGUF", "empty", "truncated", "truncated header"],
)
def test_bad_model_file_is_one_sentence(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if make is not None:
        make(path)
    result = hobbit("generate", str(path), "--prompt", PROMPT)
    assert result.returncode == 2, result.stderr
    assert not result.stdout
    assert result.stderr.startswith("hobbit: ")
    assert result.stderr.count("\n") == 1
    assert "model.gguf" in result.stderr


@pytest.mark.parametrize("memory", ["1B", "1MiB", "0", "999TiB"])
def test_absurd_memory_is_one_sentence(memory: str) -> None:
    result = hobbit("generate", "--prompt", PROMPT, "--memory", memory)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("hobbit: ")
    assert result.stderr.count("\n") == 1

"""`hobbit generate` over a scripted model."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from scripted_llama import EOS, ScriptedLlama

from hobbit_py import cli
from hobbit_py.cli import common, generate
from hobbit_py.errors import ReadError


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`run(llama, *arguments)` returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(generate, "is_end", lambda _llama, token: token == EOS)

    def run_generate(llama: ScriptedLlama, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(common, "load_llama", lambda _options: llama)
        exit_code = cli.main(["generate", *arguments])
        shown = capsys.readouterr()
        assert llama.is_closed
        return exit_code, shown.out, shown.err

    return run_generate


def test_only_the_text_goes_to_stdout(run: Any) -> None:
    assert run(ScriptedLlama(["in a hole"]), "--prompt", "There lived") == (0, "in a hole", "")


def test_stops_after_n_tokens(run: Any) -> None:
    assert run(ScriptedLlama(["abcdef"]), "--prompt", "x", "-n", "4") == (0, "abcd", "")


def test_characters_split_over_tokens_stay_whole(run: Any) -> None:
    assert run(ScriptedLlama(["süß 🍄"]), "--prompt", "x")[1] == "süß 🍄"


def test_character_cut_off_at_the_end_is_replaced(run: Any) -> None:
    assert run(ScriptedLlama(["a🍄"]), "--prompt", "x", "-n", "3")[1] == "a\ufffd"


def test_json(run: Any) -> None:
    exit_code, out, err = run(ScriptedLlama(["hello"]), "--prompt", "abc", "--json")
    assert (exit_code, err) == (0, "")
    report = json.loads(out)
    assert report["text"] == "hello"
    assert report["tokens"] == list(b"hello")
    assert report["prompt_tokens"] == 4
    assert report["precision"] == "exact"
    # Five tokens were evaluated after the prompt; only their cost counts.
    assert report["hit_rate"] == pytest.approx(0.75)
    assert report["read_bytes_per_token"] == pytest.approx(1000)
    assert report["stall_s_per_token"] == pytest.approx(500e-6)
    for figure in ("load_s", "prompt_tok_s", "decode_tok_s", "peak_rss_bytes"):
        assert report[figure] > 0
    assert len(report) == 11


def test_json_without_decoded_tokens_has_no_figures_per_token(run: Any) -> None:
    report = json.loads(run(ScriptedLlama(["hello"]), "--prompt", "abc", "--json", "-n", "1")[1])
    assert report["tokens"] == list(b"h")
    for figure in ("decode_tok_s", "hit_rate", "read_bytes_per_token", "stall_s_per_token"):
        assert report[figure] is None


def test_model_that_ends_at_once(run: Any) -> None:
    report = json.loads(run(ScriptedLlama([]), "--prompt", "abc", "--json")[1])
    assert (report["text"], report["tokens"]) == ("", [])


def test_ends_at_the_end_of_the_context(run: Any) -> None:
    # BOS and 5 bytes leave room for 10 evaluated tokens; the eleventh needs no room.
    exit_code, out, err = run(ScriptedLlama(["0123456789abcdef"], n_ctx=16), "--prompt", "12345", "-n", "100")
    assert (exit_code, out) == (0, "0123456789a")
    assert "Stopped after 11 of 100 tokens: the context of 16 is full; raise --ctx." in err


def test_prompt_longer_than_the_context(run: Any) -> None:
    exit_code, out, err = run(ScriptedLlama([], n_ctx=16), "--prompt", "x" * 16)
    assert (exit_code, out) == (2, "")
    assert err == "hobbit: The prompt has 17 tokens and the context holds 16; shorten it or raise --ctx.\n"


def test_prompt_from_file_keeps_every_byte(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes("Zwölf\r\n".encode())
    llama = ScriptedLlama(["x"])
    assert run(llama, "--prompt-file", str(path))[0] == 0
    assert llama.prompts == ["Zwölf\r\n"]


def test_prompt_from_stdin(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe\n")))
    llama = ScriptedLlama(["x"])
    assert run(llama, "--prompt-file", "-")[0] == 0
    assert llama.prompts == ["from a pipe\n"]


def test_read_error_keeps_the_text_so_far(run: Any) -> None:
    error = ReadError("Reading 'm.gguf' at offset 7 failed: Input/output error.", 5, "m.gguf")
    exit_code, out, err = run(ScriptedLlama(["some te", error]), "--prompt", "x")
    assert (exit_code, out) == (1, "some te")
    assert err == "hobbit: Reading 'm.gguf' at offset 7 failed: Input/output error.\n"


def test_sampling_options_reach_the_model(run: Any) -> None:
    llama = ScriptedLlama(["x"])
    run(llama, "--prompt", "x", "--temp", "0", "--top-p", "0.5")
    assert (llama.sampling["temp"], llama.sampling["top_p"], llama.sampling["repeat_penalty"]) == (0, 0.5, 1.0)


def test_a_terminal_gets_no_control_characters(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(ScriptedLlama(["a\x1b]0;title\x07b\tc\nd"]), "--prompt", "x")[1] == "a]0;titleb\tc\nd\n"

"""`hobbit chat` in a terminal and in a pipe, with the bundled model."""

import re
import subprocess
import sys
from pathlib import Path

from terminal_session import CTRL_C, CTRL_D, TerminalSession

PROMPT = r"\n>"
SUMMARY = r"(\d+) tokens?, ([\d.]+) tok/s(?:, (\d+)% hits)?, ([\d.]+) GB read"
# The bundled model answers this greedily until the context is full.
STORY = "Continue: Once upon a time"


def chat(home: Path, *arguments: str) -> TerminalSession:
    return TerminalSession(["chat", "--seed", "1", "--ctx", "512", *arguments], home=home)


def test_conversation_from_greeting_to_exit(tmp_path: Path) -> None:
    with chat(tmp_path, "--expert-memory", "8MiB", "--temp", "0") as session:
        session.wait_for("/help lists the commands")
        session.wait_for(PROMPT)
        session.type("What is a dog?\r")
        summary = session.wait_for(SUMMARY)
        # A third of the experts fits.
        assert int(summary[1]) > 1
        assert 0 < int(summary[3]) < 100
        assert float(summary[4]) > 0
        session.wait_for(PROMPT)
        session.type("/stats\r")
        session.wait_for(r"experts resident +[\d.]+ MiB of [\d.]+ MiB")
        session.type("/frob\r")
        session.wait_for("There is no command /frob")
        session.type("/reset\r")
        session.wait_for("starts anew")
        session.wait_for(PROMPT)
        session.type("/exit\r")
        assert session.exit_code() == 0
        assert "Traceback" not in session.text
        assert "llama_" not in session.text


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    with chat(tmp_path, "--temp", "0") as session:
        session.wait_for(PROMPT)
        session.type(f"{STORY}\r")
        session.wait_for(rf"{STORY}\n\w.{{20}}")
        session.type(CTRL_C)
        session.wait_for(r"Stopped\.")
        summary = session.wait_for(SUMMARY)
        assert 5 <= int(summary[1]) < 400
        session.wait_for(PROMPT)
        session.type("What is a cat?\r")
        session.wait_for(SUMMARY)
        session.wait_for(PROMPT)
        session.type(CTRL_C)
        session.wait_for("Ctrl-D or /exit leaves")
        session.wait_for(PROMPT)
        session.type(CTRL_D)
        assert session.exit_code() == 0
        assert "Traceback" not in session.text


def test_several_lines_make_one_message(tmp_path: Path) -> None:
    with chat(tmp_path) as session:
        session.wait_for(PROMPT)
        session.type("What is\\\ra dog?\r")
        session.wait_for(SUMMARY)
        session.wait_for(PROMPT)
        session.type(CTRL_D)
        assert session.exit_code() == 0
        assert len(re.findall(SUMMARY, session.text)) == 1


def test_history_is_there_in_the_next_session(tmp_path: Path) -> None:
    with chat(tmp_path) as session:
        session.wait_for(PROMPT)
        session.type("What is a horse?\r")
        session.wait_for(SUMMARY)
        session.wait_for(PROMPT)
        session.type("/exit\r")
        assert session.exit_code() == 0
    with chat(tmp_path) as session:
        session.wait_for(PROMPT)
        session.type("\x1b[A\x1b[A")
        session.wait_for(re.escape("What is a horse?"))


def test_conversation_longer_than_the_context(tmp_path: Path) -> None:
    lines = [f"Tell me something long about the number {idx}, the sea and the old king.\n" for idx in range(12)]
    result = subprocess.run(
        [sys.executable, "-m", "hobbit_py", "chat", "--ctx", "256", "--max-tokens", "40", "--seed", "1"],
        input="".join(lines),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"\d+ tokens?, ", result.stderr)) == len(lines)
    assert "dropped: the conversation outgrew the context of 256 tokens" in result.stderr
    assert result.stdout.strip()


def test_message_longer_than_the_context(tmp_path: Path) -> None:
    with chat(tmp_path) as session:
        session.wait_for(PROMPT)
        session.type("\x1b[200~" + "word " * 1000 + "\x1b[201~\r")
        session.wait_for(r"hobbit: The message makes a prompt of \d+ tokens and the context\s+holds 512")
        session.type("What is a dog?\r")
        session.wait_for(SUMMARY)


def test_missing_model_is_one_sentence(tmp_path: Path) -> None:
    with chat(tmp_path, "nowhere.gguf") as session:
        session.wait_for("hobbit: .*nowhere.gguf")
        assert session.exit_code() == 2
        assert "Traceback" not in session.text

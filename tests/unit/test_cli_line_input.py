"""The prompt of a chat, driven through prompt_toolkit's pipe input."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from hobbit_py.cli.line_input import TerminalInput, history_path

ALT_ENTER, CTRL_C, CTRL_D, UP = "\x1b\r", "\x03", "\x04", "\x1b[A"
PASTE = "\x1b[200~{}\x1b[201~"


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe:
        yield pipe


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def terminal(keys: PipeInput, notices: list[str] | None = None) -> TerminalInput:
    return TerminalInput([].append if notices is None else notices.append, source=keys, sink=DummyOutput())


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("hello\r", "hello"),
        (f"one{ALT_ENTER}two\r", "one\ntwo"),
        ("one\\\rtwo\r", "one\ntwo"),
        (PASTE.format("one\ntwo\nthree") + "\r", "one\ntwo\nthree"),
        (f"wrong{CTRL_C}right\r", "right"),
    ],
)
def test_keys(keys: PipeInput, typed: str, message: str) -> None:
    keys.send_text(typed)
    assert terminal(keys).read() == message


def test_ctrl_d_ends(keys: PipeInput) -> None:
    keys.send_text(CTRL_D)
    assert terminal(keys).read() is None


def test_ctrl_c_at_an_empty_prompt_says_how_to_leave(keys: PipeInput) -> None:
    notices: list[str] = []
    keys.send_text(f"{CTRL_C}still here\r")
    assert terminal(keys, notices).read() == "still here"
    assert notices == ["Ctrl-D or /exit leaves."]


def test_history_outlives_the_session_and_is_private(keys: PipeInput, state_home: Path) -> None:
    keys.send_text("remember me\r")
    terminal(keys).read()
    path = state_home / "hobbit_py" / "history"
    assert path == history_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys.send_text(f"{UP}\r")
    assert terminal(keys).read() == "remember me"


def test_unusable_history_does_not_stop_the_chat(keys: PipeInput, state_home: Path) -> None:
    state_home.write_text("a file where a folder should be")
    keys.send_text("hello\r")
    assert terminal(keys).read() == "hello"


def test_relative_state_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path() == tmp_path / ".local" / "state" / "hobbit_py" / "history"

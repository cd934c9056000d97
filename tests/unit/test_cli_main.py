"""The group: help, versions, unknown commands, and how errors leave the program."""

import builtins
import errno
import subprocess
import sys
from importlib import metadata

import click
import pytest

from hobbit_py import cli
from hobbit_py.errors import HobbitError, HostError, MemoryBudgetError, ModelFileError, ReadError, UsageError


def test_no_command_hides_a_builtin(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli._COMMANDS:
        assert cli.main([name, "--help"]) == 0
    assert not set(vars(cli)) & set(dir(builtins)) - {"__doc__", "__name__", "__loader__", "__package__", "__spec__"}
    assert cli.main(["--help"]) == 0


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "chat" in shown
    assert "generate" in shown


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_command_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("MODEL", "--memory", "--expert-memory", "--ctx", "--threads", "--temp", "--seed", "--precision"):
        assert option in shown


def test_help_does_not_load_the_library() -> None:
    code = "import sys, hobbit_py.cli as c; c.main(['--help']); sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert metadata.version("hobbit_py") in shown
    assert metadata.version("llama-cpp-python") in shown


@pytest.mark.parametrize(
    ("command", "hint"), [("chta", "did you mean 'chat'?"), ("generat", "did you mean 'generate'?"), ("zz", "chat, ")]
)
def test_unknown_command(command: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command]) == 2
    shown = capsys.readouterr()
    assert f"hobbit: There is no command '{command}'" in shown.err
    assert hint in shown.err
    assert not shown.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", "--frobnicate"], "'--frobnicate'"),
        (["generate", "--prompt", "x", "--memory", "8XB"], "'8XB' has the unknown unit 'XB'"),
        (["generate", "--prompt", "x", "--expert-memory", "auto"], "'auto' is not a size"),
        (["generate", "--prompt", "x", "-n", "0"], "'-n'"),
        (["generate", "--prompt", "x", "--temp", "nan"], "nan is not a finite number"),
        (["generate", "--prompt", "x", "--temp", "-1"], "'--temp'"),
        (["generate", "--prompt", "x", "--precision", "double"], "'double'"),
        (["generate", "--prompt", "x", "--memory", "1G", "--expert-memory", "1G"], "exclude each other"),
        (["generate"], "--prompt TEXT"),
        (["generate", "--prompt", "x", "--prompt-file", "y"], "either"),
        (["generate", "--prompt-file", "/nowhere/prompt.txt"], "'/nowhere/prompt.txt'"),
        (["chat", "--ctx", "many"], "'many'"),
        (["chat", "a.gguf", "b.gguf"], "b.gguf"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert named in shown.err
    assert shown.err.startswith("hobbit: ")
    assert shown.err.count("\n") == 1
    assert not shown.out


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (HobbitError("It broke."), 1),
        (UsageError("It broke."), 2),
        (ModelFileError("It broke."), 2),
        (MemoryBudgetError("It broke.", 1 << 30), 2),
        (ReadError("It broke.", errno.EIO, "model.gguf"), 1),
        (HostError("It broke."), 1),
        (HobbitError("It\nbroke."), 1),
    ],
)
def test_errors_become_a_sentence_and_their_exit_code(
    error: HobbitError, exit_code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _command_raises(monkeypatch, error)
    assert cli.main(["chat"]) == exit_code
    assert capsys.readouterr().err == "hobbit: It broke.\n"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), click.Abort()])
def test_interrupt(interrupt: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    _command_raises(monkeypatch, interrupt)
    assert cli.main(["chat"]) == 130


def test_os_error_names_the_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _command_raises(monkeypatch, PermissionError(errno.EACCES, "Permission denied", "/some/file"))
    assert cli.main(["chat"]) == 1
    assert capsys.readouterr().err == "hobbit: '/some/file': Permission denied.\n"


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    _command_raises(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["chat"])


def test_read_error_keeps_errno_and_file_name() -> None:
    error = ReadError("The drive failed.", errno.EIO, "model.gguf")
    assert (error.errno, error.filename, str(error)) == (errno.EIO, "model.gguf", "The drive failed.")
    assert isinstance(error, OSError)


def _command_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(cli.group, "get_command", lambda _ctx, _name: command)

"""What the documentation says of commands and options exists, and what exists is documented and explained."""

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from markdown_blocks import PROJECT_DIR, blocks_of, documents, hobbit_commands

from hobbit_py import cli

COMMANDS = list(cli._COMMANDS)
LANGUAGES = {"sh", "python", ""}


def command_of(name: str) -> click.Command:
    command = cli.group.get_command(click.Context(cli.group), name)
    assert command is not None
    return command


def options_of(name: str) -> set[str]:
    return {"-h", "--help", *(option for parameter in command_of(name).params for option in parameter.opts)}


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_commands_and_options_in_the_documents_exist(path: Path) -> None:
    for command in hobbit_commands(path):
        words = shlex.split(command)[1:]
        if not words or words[0].startswith("-") or words[0].isupper():  # the program itself, or a placeholder
            continue
        assert words[0] in COMMANDS, command
        for word in words[1:]:
            if word.startswith("-") and not word[1:].replace(".", "").isdigit() and word != "-":
                assert word.partition("=")[0] in options_of(words[0]), command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    mentioned = [command for path in documents() for command in hobbit_commands(path)]
    assert any(shlex.split(command)[1:2] == [name] for command in mentioned), f"no document shows 'hobbit {name}'"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_complete(name: str) -> None:
    command = command_of(name)
    shown = CliRunner().invoke(command, ["--help"], prog_name=f"hobbit {name}")
    assert shown.exit_code == 0
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name}: {parameter.opts} has no help"
            assert parameter.help.endswith((".", "]")), f"{name}: {parameter.opts}"
            assert all(option in shown.output for option in parameter.opts)
        else:
            assert (parameter.metavar or str(parameter.name).upper()) in shown.output
    assert cli._COMMANDS[name].endswith(".")


def test_every_block_says_what_it_is() -> None:
    for path in documents():
        for block in blocks_of(path):
            assert block.language in LANGUAGES, f"{block.where}: language {block.language!r}"
            # A block of commands without its language would never be run.
            first = block.code.split(maxsplit=1)[0] if block.code.split() else ""
            assert block.language or first not in ("hobbit", "python", "sudo", "pip", "nox"), block.where


def test_documents_link_to_files_that_exist() -> None:
    for path in documents():
        for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.relative_to(PROJECT_DIR)}: {target}"

"""The command line: `hobbit COMMAND ...`.

Commands are imported when they run, so that help and usage errors come at once: llama_cpp alone takes a second.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence

import click

from ..errors import HobbitError, UsageError

# One file a command, each with a click command named `command`; the text is what `hobbit --help` shows.
_COMMANDS = {
    "bench": "Measure how fast a model runs on this machine, and what limits it.",
    "chat": "Talk with a model in the terminal.",
    "doctor": "Check whether this machine and what is installed on it will run a model well.",
    "generate": "Continue a prompt, for pipes and scripts.",
    "imatrix": "Measure on a text which inputs of each expert matter, for better copies.",
    "inspect": "Show what a model file holds: its experts, their types, the lo copies beside it.",
    "list": "List the models from the Hugging Face hub that are on this machine.",
    "pack": "Make low-precision copies of a model's experts.",
    "perplexity": "Measure a model's perplexity on a text, and its distance to exact mode.",
    "plan": "Predict what a model needs and how fast it will be, before it is downloaded.",
    "pull": "Fetch a model from the Hugging Face hub.",
    "rm": "Remove a model of the hub from this machine.",
    "serve": "Serve a model to OpenAI clients, with a page to watch it.",
    "simulate": "Replay a trace: what caches and policies would have done.",
    "trace": "Record which experts a model chooses over a text.",
    "tune": "Find the thresholds of mixed precision for a model, within a given loss.",
}
# Importing a module sets its name in this one, where `list` would hide the builtin.
_MODULES = {"list": "list_models"}
_EXIT_FAILURE = 1
_EXIT_INTERRUPTED = 130


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f".{_MODULES.get(cmd_name, cmd_name)}", __name__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            nearest = difflib.get_close_matches(name, _COMMANDS, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"the commands are {', '.join(_COMMANDS)}."
            raise UsageError(f"There is no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"hobbit_py {version('hobbit_py')} (llama-cpp-python {version('llama-cpp-python')})")
    ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show versions and exit."
)
def group() -> None:
    """Run Mixture-of-Experts GGUF models that are larger than the memory they are granted."""


def _fail(sentence: str, exit_code: int) -> int:
    # The terminal may be gone as well; the exit code still tells.
    with contextlib.suppress(OSError):
        click.echo(f"hobbit: {' '.join(sentence.split())}", err=True)
    return exit_code


def _os_error_sentence(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{os.fspath(error.filename)!r}: {reason}." if error.filename is not None else f"{reason}."


def _usage_sentence(error: click.ClickException) -> str:
    sentence = error.format_message()
    if not sentence.endswith((".", "?")):
        sentence += "."
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return f"{sentence} See '{ctx.command_path} --help'." if ctx is not None else sentence


def _close_broken_pipe() -> None:
    # The reader is gone: without this the interpreter complains when it flushes stdout at exit.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code; argv defaults to the process's arguments.

    0 success, 1 failure, 2 bad usage or input, 130 interrupted. A user's mistake is one sentence on stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 shows '?' for what it lacks instead of failing in the middle of an answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # What huggingface_hub has to say is said in a sentence of ours.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        exit_code = group.main(args=argv, prog_name="hobbit", standalone_mode=False)
        return exit_code if isinstance(exit_code, int) else 0
    except HobbitError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(_usage_sentence(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        _close_broken_pipe()
        return _EXIT_FAILURE
    except OSError as error:
        return _fail(_os_error_sentence(error), _EXIT_FAILURE)

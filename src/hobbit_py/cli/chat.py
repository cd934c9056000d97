"""`hobbit chat`: a conversation in the terminal."""

from __future__ import annotations

import random
from collections.abc import Callable

import click

from ..errors import HobbitError
from . import common
from .conversation import Answer, Conversation
from .line_input import LineInput, open_input
from .report import stats_rows, summary
from .text import write_out

_HELP = """\
/stats   what the model cost so far
/reset   forget the conversation (the system message stays)
/help    this list
/exit    leave; so does Ctrl-D
Enter sends, Alt-Enter or a backslash at the end of a line begins a new one, Ctrl-C stops an answer."""


def _notice(text: str) -> None:
    # Answers alone go to stdout, so a script can collect them.
    click.secho(text, dim=True, err=True)


class Chat:
    """Messages in, answers and slash commands out, until the input ends or /exit."""

    def __init__(self, conversation: Conversation, line_input: LineInput) -> None:
        self._conversation = conversation
        self._input = line_input
        self._slash_commands: dict[str, Callable[[], None]] = {
            "/stats": self._show_stats,
            "/reset": self._reset,
            "/help": lambda: _notice(_HELP),
        }

    def run(self) -> None:
        """Returns when the user leaves; a failed answer ends a scripted chat and not a person's."""
        while (message := self._input.read()) is not None:
            message = message.strip()
            word = message.split(maxsplit=1)[0] if message else ""
            if word == "/exit":
                return
            if word in self._slash_commands:
                self._slash_commands[word]()
            # A path such as /etc/hosts begins a message, not a command.
            elif word.startswith("/") and "/" not in word[1:]:
                _notice(f"There is no command {word}; /help lists the commands.")
            elif message:
                try:
                    self._answer(message)
                except KeyboardInterrupt:
                    # Before the answer's own handling of Ctrl-C began, or after it ended.
                    if not self._input.interactive:
                        raise
                    _notice("Stopped.")

    def _answer(self, message: str) -> None:
        try:
            answer = self._conversation.ask(message, write_out, _notice)
        except HobbitError as error:
            if not self._input.interactive:
                raise
            click.echo(f"\nhobbit: {error}", err=True)
            return
        if not answer.text.endswith("\n"):
            click.echo()
        if (ended := _ended_early(answer, self._conversation.llama.n_ctx())) is not None:
            _notice(ended)
        _notice(summary(answer))

    def _show_stats(self) -> None:
        llama = self._conversation.llama
        rows = stats_rows(llama.stats(), llama.n_tokens, llama.n_ctx())
        _notice("\n".join(f"{name:<22}{value}" for name, value in rows))

    def _reset(self) -> None:
        self._conversation.reset()
        _notice("The conversation starts anew.")


def _ended_early(answer: Answer, n_ctx: int) -> str | None:
    if answer.ended_by == "user":
        return "Stopped." if answer.text else "Stopped before the answer began; the message is not kept."
    if answer.ended_by == "context":
        return f"The answer ends here: the context of {n_ctx} tokens is full (--ctx)."
    if answer.ended_by == "max_tokens":
        return "The answer ends here: it reached --max-tokens."
    return None


@click.command()
@common.model_parameters
@common.warm_start_option
@click.option("--system", metavar="TEXT", help="System message.")
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest answer. [default: the context]")
def command(
    temp: float,
    top_p: float,
    system: str | None,
    max_tokens: int | None,
    seed: int | None,
    warm_start: bool,
    **model_options: object,
) -> None:
    """Talk with a model; /help in the chat lists its commands.

    MODEL is a GGUF file, the first part of a split one, or nothing for the small bundled model.
    """
    # Unlike its generate(), llama_cpp's completions repeat themselves from run to run without a seed.
    seed = random.SystemRandom().getrandbits(31) if seed is None else seed
    llama = common.load_llama(common.ModelOptions.of({"seed": seed, **model_options}), warm_start=warm_start)
    try:
        line_input = open_input(_notice)
        if line_input.interactive:
            _notice("Type a message; /help lists the commands, Ctrl-D leaves.")
        Chat(Conversation(llama, system, max_tokens, temp, top_p), line_input).run()
    finally:
        llama.close()

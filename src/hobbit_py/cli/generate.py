"""`hobbit generate`: continues one prompt."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import timeline
from ..errors import HobbitError, UsageError
from ..stats import peak_rss_bytes
from . import common
from .text import Utf8Stream, write_out

if TYPE_CHECKING:
    from ..llama import Llama

_STDIN = Path("-")


@dataclass(frozen=True)
class Generated:
    """Text and tokens, with prompt and decode measured apart.

    Figures per token are means over the decoded tokens, i.e. all but the first, which comes out of the prompt's
    evaluation; they are None where no token was decoded.
    """

    text: str
    tokens: list[int]
    prompt_tokens: int
    prompt_tok_s: float
    decode_tok_s: float | None
    hit_rate: float | None
    read_bytes_per_token: float | None
    stall_s_per_token: float | None
    precision: str


def continue_prompt(
    llama: Llama, prompt: list[int], n_tokens: int, *, temp: float, top_p: float, show: Callable[[str], None]
) -> Generated:
    """Generates up to n_tokens after the prompt's tokens; show gets the text piece by piece.

    Stops at the model's end token, which is neither shown nor returned. The last token is never evaluated, so
    len(prompt) + n_tokens may be at most n_ctx + 1.
    """
    time_start = time.perf_counter()
    sampled = _sample(llama, prompt, temp=temp, top_p=top_p)
    token = next(sampled)
    time_prompt = time.perf_counter()
    stats_prompt = llama.stats()

    decoder = Utf8Stream()
    pieces: list[str] = []
    tokens: list[int] = []
    n_decoded = 0

    def emit(piece: str) -> None:
        if piece:
            pieces.append(piece)
            show(piece)

    while not is_end(llama, token):
        tokens.append(token)
        emit(decoder.feed(llama.detokenize([token])))
        if len(tokens) == n_tokens:
            break
        token = next(sampled)
        n_decoded += 1
    time_end = time.perf_counter()
    decode = llama.stats().since(stats_prompt)
    emit(decoder.feed(b"", final=True))

    n_prompt = len(prompt)
    return Generated(
        text="".join(pieces),
        tokens=tokens,
        prompt_tokens=n_prompt,
        prompt_tok_s=n_prompt / (time_prompt - time_start),
        decode_tok_s=n_decoded / (time_end - time_prompt) if n_decoded else None,
        hit_rate=decode.measured_hit_rate if n_decoded else None,
        read_bytes_per_token=decode.read_bytes / n_decoded if n_decoded else None,
        stall_s_per_token=decode.stall_us / 1e6 / n_decoded if n_decoded else None,
        precision=stats_prompt.precision,
    )


def _sample(llama: Llama, prompt: list[int], *, temp: float, top_p: float) -> Iterator[int]:
    sampled: Iterator[int] = llama.generate(prompt, temp=temp, top_p=top_p, repeat_penalty=1.0, reset=True)
    return sampled


def is_end(llama: Llama, token: int) -> bool:
    """Tells whether the token ends a text; models may have several such tokens."""
    import llama_cpp

    return bool(llama_cpp.llama_vocab_is_eog(llama._model.vocab, token))


def _read_prompt(prompt: str | None, prompt_file: Path | None) -> bytes:
    if (prompt is None) == (prompt_file is None):
        raise UsageError("Give the prompt either with --prompt TEXT or with --prompt-file FILE ('-': standard input).")
    if prompt is not None:
        return prompt.encode("utf-8", "surrogateescape")
    if prompt_file == _STDIN:
        return sys.stdin.buffer.read()
    assert prompt_file is not None
    try:
        return prompt_file.read_bytes()
    except OSError as error:
        raise UsageError(f"The prompt file {str(prompt_file)!r} cannot be read: {error.strerror}.") from error


def _tokenize(llama: Llama, prompt: bytes) -> list[int]:
    tokens: list[int] = llama.tokenize(prompt, add_bos=True, special=True)
    if not tokens:
        raise UsageError("The prompt is empty and this model has no token to begin a text with; give it some text.")
    if len(tokens) > llama.n_ctx():
        raise UsageError(
            f"The prompt has {len(tokens)} tokens and the context holds {llama.n_ctx()}; shorten it or raise --ctx."
        )
    return tokens


def _report_json(generated: Generated, load_s: float) -> str:
    report: dict[str, Any] = asdict(generated)
    return json.dumps(report | {"load_s": load_s, "peak_rss_bytes": peak_rss_bytes()})


@click.command()
@common.model_parameters
@click.option("--prompt", metavar="TEXT", help="The text to continue.")
@click.option(
    "--prompt-file", type=click.Path(path_type=Path), metavar="FILE", help="Read it from a file; '-' is stdin."
)
@click.option("-n", "n_tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens to generate.")
@click.option(
    "--trace-out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a profile of compute, reads and waits, for Perfetto or chrome://tracing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with text, tokens and measurements.")
def command(
    prompt: str | None,
    prompt_file: Path | None,
    n_tokens: int,
    temp: float,
    top_p: float,
    trace_out: Path | None,
    as_json: bool,
    **model_options: object,
) -> None:
    """Continue a prompt; the generated text alone goes to stdout.

    MODEL is a GGUF file, the first part of a split one, or nothing for the small bundled model.
    """
    prompt_bytes = _read_prompt(prompt, prompt_file)
    time_start = time.perf_counter()
    llama = common.load_llama(common.ModelOptions.of(model_options))
    load_s = time.perf_counter() - time_start
    try:
        tokens = _tokenize(llama, prompt_bytes)
        n_ctx = llama.n_ctx()
        n_room = n_ctx - len(tokens) + 1
        if trace_out is not None:
            timeline.start(llama)
        show = (lambda _piece: None) if as_json else write_out
        generated = continue_prompt(llama, tokens, min(n_tokens, n_room), temp=temp, top_p=top_p, show=show)
        if trace_out is not None:
            timeline.write(llama, trace_out)
    except (HobbitError, KeyboardInterrupt):
        # The sentence must not begin in the middle of the text.
        if not as_json and sys.stdout.isatty():
            click.echo()
        raise
    finally:
        llama.close()
    if as_json:
        click.echo(_report_json(generated, load_s))
    elif sys.stdout.isatty() and not generated.text.endswith("\n"):
        click.echo()
    if len(generated.tokens) == n_room < n_tokens:
        click.echo(
            f"hobbit: Stopped after {n_room} of {n_tokens} tokens: the context of {n_ctx} is full; raise --ctx.",
            err=True,
        )

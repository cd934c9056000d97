"""`hobbit serve`: one model behind OpenAI's HTTP protocol."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from ..errors import UsageError
from . import common, values

_NEEDED = ("starlette", "uvicorn", "h11", "pydantic", "prometheus_client", "anyio")


@click.command()
@common.loading_parameters
@common.warm_start_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any that is free.")
@click.option(
    "--api-key", envvar="HOBBIT_API_KEY", metavar="KEY", help="What clients must send; also from HOBBIT_API_KEY."
)
@click.option("--alias", metavar="NAME", help="The model's name for clients. [default: its file name]")
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest answer. [default: the context]")
@click.option(
    "--max-body", default="1MiB", show_default=True, callback=values.size, metavar="SIZE", help="Of a request."
)
@click.option(
    "--max-queue",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    metavar="N",
    help="Waiting requests.",
)
@click.option(
    "--grace",
    type=click.IntRange(0, 3600),
    default=10,
    show_default=True,
    metavar="S",
    help="Seconds that the request in progress may take after Ctrl-C.",
)
@click.option("--logprobs", is_flag=True, help="Allow log-probabilities; takes memory for the logits of all tokens.")
@click.option("--chat-format", metavar="NAME", help="One of llama_cpp's. [default: the model's own template]")
def command(
    host: str,
    port: int,
    api_key: str | None,
    alias: str | None,
    max_tokens: int | None,
    max_body: int,
    max_queue: int,
    grace: int,
    logprobs: bool,
    chat_format: str | None,
    warm_start: bool,
    **model_options: object,
) -> None:
    """Serve a model to OpenAI clients, and a page with a chat and the state of the experts.

    MODEL is a GGUF file, the first part of a split one, or nothing for the small bundled model.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"hobbit serve needs {', '.join(missing)}; install them with pip install 'hobbit_py[server]'.")
    from ..server.completions import check_chat_format
    from ..server.limits import Limits
    from ..server.run import ServerOptions, bind, serve

    model = common.ModelOptions.of(model_options)
    options = ServerOptions(
        host=host,
        port=port,
        api_key=api_key,
        grace_s=grace,
        limits=Limits(max_body_bytes=max_body, max_tokens=max_tokens, max_waiting=max_queue),
        logprobs=logprobs,
        log_requests=model.verbose,
    )
    options.check()
    check_chat_format(chat_format)
    with bind(host, port) as listener:
        bound_port = listener.getsockname()[1]
        llama = common.load_llama(model, logits_all=logprobs, chat_format=chat_format, warm_start=warm_start)
        name = alias or Path(llama.model_path).stem
        shown_host = f"[{host}]" if ":" in host else host

        def on_ready() -> None:
            click.echo(f"hobbit: {name} is served at http://{shown_host}:{bound_port}; Ctrl-C stops.", err=True)

        try:
            serve(llama, name, listener, options, on_ready)
        finally:
            llama.close()

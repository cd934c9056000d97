"""What the commands share: the options of a model, and loading it with progress and notes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import HobbitError, ModelFileError, UsageError
from . import values
from .checks import check_options
from .hub_models import model_file
from .interrupts import exit_on_interrupt
from .mixed_options import MixedOptions, mixed_options

if TYPE_CHECKING:
    from ..llama import Llama

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model to load and how; None leaves the choice to hobbit_py.Llama."""

    model: Path | None = None
    memory: int | str | None = None
    expert_memory: int | None = None
    vram: int | str | None = None
    device: str | None = None
    unified: bool = False
    host_compute: str = "auto"
    preset: str = "auto"
    eviction: str | None = None
    no_prefetch: bool = False
    precision: str = "auto"
    lo: Path | None = None
    hi: Path | None = None
    ctx: int | None = None
    threads: int | None = None
    seed: int | None = None
    verbose: bool = False
    mixed: MixedOptions = field(default_factory=MixedOptions)

    @classmethod
    def of(cls, parameters: dict[str, Any]) -> ModelOptions:
        """Returns what click made of model_parameters; TypeError if there are others."""
        parameters = dict(parameters)
        return cls(mixed=MixedOptions.taken_from(parameters), **parameters)

    def exact(self) -> ModelOptions:
        """The same in exact mode, as the router chooses."""
        return replace(self.unfiltered(), precision="exact", lo=None, hi=None, mixed=MixedOptions())

    def untuned(self) -> ModelOptions:
        """The same with its lo copy named, so that none is used that an earlier `hobbit tune` was about.

        That has hi copies beside it sometimes, where the model's own experts are meant.
        """
        from ..mixed import find_lo_for

        return replace(self, lo=self.lo or find_lo_for(model_file(self.model), self.hi))

    def unfiltered(self) -> ModelOptions:
        """The same, with the baseline's policies instead of a preset that changes what the router chooses."""
        from ..policies import preset_of

        return self if preset_of(self.preset).router_filter == "none" else replace(self, preset="baseline")


_PRESET = click.option(
    "--preset",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Whose policies to run with, such as baseline or hobbit; auto is what 'hobbit tune' found.",
)
_EVICTION = click.option("--eviction", metavar="NAME", help="Which resident expert goes, instead of the preset's.")
_NO_PREFETCH = click.option("--no-prefetch", is_flag=True, help="Read nothing ahead.")
_PRECISION = click.option(
    "--precision",
    type=click.Choice(["auto", "exact", "mixed"]),
    default="auto",
    show_default=True,
    help="Whether a missing expert may run in its low-precision copy.",
)
_COPIES = (
    click.option(
        "--lo",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="GGUF with the low-precision copies. [default: those beside the model]",
    ),
    click.option(
        "--hi",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="GGUF with finer copies than the lo ones, used in mixed mode instead of the model's own experts.",
    ),
)

_MODEL_PARAMETERS = (
    click.argument("model", required=False, type=click.Path(path_type=Path)),
    click.option(
        "--memory",
        callback=values.size_or_auto,
        metavar="SIZE|auto",
        help="Memory of the whole process. [default: auto]",
    ),
    click.option("--expert-memory", callback=values.size, metavar="SIZE", help="Memory of the expert cache alone."),
    click.option(
        "--vram", callback=values.size_or_auto, metavar="SIZE|auto", help="Use a GPU, and this much of its memory."
    ),
    click.option("--device", metavar="NAME", help="Device that computes. [default: CPU; the first GPU with --vram]"),
    click.option("--unified", is_flag=True, help="The GPU shares the main memory (detected where the device says so)."),
    click.option(
        "--host-compute",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="Whether the CPU multiplies by experts that the GPU lacks; auto: to llama.cpp's bits, if exact.",
    ),
    click.option("--ctx", type=click.IntRange(1, 2**31 - 1), metavar="N", help="Context length in tokens."),
    click.option("--threads", type=click.IntRange(1, 4096), metavar="N", help="Compute threads."),
    _PRESET,
    _EVICTION,
    _NO_PREFETCH,
    _PRECISION,
    *_COPIES,
    click.option("--verbose", is_flag=True, help="Show llama.cpp's log on stderr."),
)


_SAMPLING_PARAMETERS = (
    click.option(
        "--temp",
        type=click.FloatRange(min=0),
        callback=values.finite,
        default=0.8,
        show_default=True,
        metavar="T",
        help="Temperature; 0 is greedy.",
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1),
        callback=values.finite,
        default=0.95,
        show_default=True,
        metavar="P",
        help="Nucleus sampling.",
    ),
    click.option("--seed", type=click.IntRange(0, 2**32 - 2), metavar="S", help="Seed of the sampler."),
)


def model_parameters(command: _Command) -> _Command:
    """Adds MODEL, the options that fill ModelOptions, --temp and --top-p."""
    return loading_parameters(_with(command, _SAMPLING_PARAMETERS))


def loading_parameters(command: _Command) -> _Command:
    """Adds MODEL and the options that fill ModelOptions, except --seed: for commands that sample nothing."""
    return _with(mixed_options(command), _MODEL_PARAMETERS)


def tuning_parameters(command: _Command) -> _Command:
    """As loading_parameters, for a command that sets the precision and what belongs to it itself."""
    return _with(command, [parameter for parameter in _MODEL_PARAMETERS if parameter is not _PRECISION])


def copies_options(command: _Command) -> _Command:
    """Adds --lo and --hi, which those above have too."""
    return _with(command, _COPIES)


def _with(command: _Command, parameters: Sequence[Callable[[_Command], _Command]]) -> _Command:
    return reduce(lambda decorated, parameter: parameter(decorated), reversed(parameters), command)


def warm_start_option(command: _Command) -> _Command:
    """Adds --warm-start/--no-warm-start, for commands whose speed nobody measures."""
    return click.option(
        "--warm-start/--no-warm-start",
        default=True,
        show_default=True,
        help="Remember which experts were in memory, and begin with those of the last run.",
    )(command)


def load_llama(options: ModelOptions, *, show: bool = True, **keywords: Any) -> Llama:  # noqa: ANN401
    """Loads the model, with a progress bar if stderr is a terminal, and shows the model's note on stderr.

    Neither without `show`. `keywords` go to hobbit_py.Llama as they are, in place of what `options` say of the same.
    Raises HobbitError; Ctrl-C ends the process with 130.
    """
    if options.memory is not None and options.expert_memory is not None:
        raise UsageError(
            "--memory and --expert-memory exclude each other; give --memory for the whole process or --expert-memory "
            "for the expert cache alone."
        )
    keywords = options.mixed.keywords() | keywords
    check_options(options, options.mixed.names)
    model_path = model_file(options.model)
    with _progress_bar(model_path.name, shown=show and sys.stderr.isatty() and not options.verbose) as progress:
        llama = _construct(model_path, options, progress, keywords)
    if options.seed is not None:
        # llama_cpp.Llama takes seed=0 for "no seed".
        llama.set_seed(options.seed)
    if llama.note and show:
        click.echo(f"hobbit: {llama.note}", err=True)
    return llama


@contextlib.contextmanager
def _progress_bar(name: str, *, shown: bool) -> Iterator[Callable[[float], None]]:
    if not shown:
        with exit_on_interrupt(lambda: None):
            yield lambda _fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    # llama_cpp points stderr at /dev/null while it loads, so the bar has a descriptor of its own.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as terminal:
        bar = Progress(
            TextColumn("loading {task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=Console(file=terminal),
            transient=True,
        )
        with bar, exit_on_interrupt(bar.stop):
            task = bar.add_task(name, total=1.0)
            yield lambda fraction: bar.update(task, completed=fraction)


def _construct(
    model_path: Path, options: ModelOptions, progress: Callable[[float], None], keywords: dict[str, Any]
) -> Llama:
    from ..llama import Llama
    from .native_log import keep_native_errors

    native_errors = None if options.verbose else keep_native_errors()
    given: dict[str, Any] = {
        "memory": options.memory,
        "expert_memory": options.expert_memory,
        "vram": options.vram,
        "device": options.device,
        "unified": options.unified or None,
        "host_compute": {"auto": None, "on": True, "off": False}[options.host_compute],
        "lo": options.lo,
        "hi": options.hi,
        "eviction": options.eviction,
        "prefetch": False if options.no_prefetch else None,
        "n_threads": options.threads,
        "n_threads_batch": options.threads,
    }
    try:
        return Llama(
            model_path,
            preset=options.preset,
            precision=options.precision,
            n_ctx=options.ctx,
            progress=progress,
            verbose=options.verbose,
            **{name: value for name, value in given.items() if value is not None},
            **keywords,
        )
    except (HobbitError, OSError):
        raise
    except (ValueError, RuntimeError, AssertionError) as error:
        # llama.cpp says why in its log and llama_cpp only that it failed.
        reason = (native_errors and native_errors.cause()) or str(error) or type(error).__name__
        raise ModelFileError(f"{str(model_path)!r} cannot be loaded: {reason.rstrip('.')}.") from error

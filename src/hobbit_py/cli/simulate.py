"""`hobbit simulate`: replays a trace at several cache sizes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ..errors import UsageError
from .perplexity import progress_bar

if TYPE_CHECKING:
    from ..policies.presets import Predictor
    from ..simulate.judge import Judged

_MIN_COLUMN = 18


def _capacities(ctx: click.Context, param: click.Parameter, value: str) -> list[float]:
    shares = []
    for part in value.split(","):
        text = part.strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            raise click.BadParameter(f"{text!r} is not a share of the experts such as 25%.", ctx, param)
        shares.append(share)
    return shares


def _speed(ctx: click.Context, param: click.Parameter, value: str) -> int:
    from ..sizes import parse_bytes

    try:
        speed = parse_bytes(value.removesuffix("/s"))
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from error
    if speed <= 0:
        raise click.BadParameter(f"{value!r} is not a speed such as 2GB/s.", ctx, param)
    return speed


def _table(rows: list[Judged]) -> list[str]:
    width = max(_MIN_COLUMN, *(len(row.preset) for row in rows))
    lines = [f"{'preset':{width}}  capacity   hits  miss bytes  against LRU  against Belady  recall  stall a token"]
    for row in rows:
        recall = f"{row.recall[0]:6.1%}" if row.recall else "     -"
        bound = f"{row.miss_bytes / row.belady_miss_bytes - 1:+14.1%}" if row.belady_miss_bytes else f"{'-':>14}"
        lines.append(
            f"{row.preset:{width}}  {row.capacity:8.1%}  {row.hit_rate:5.1%}  {row.miss_bytes / 1e6:7.1f} MB  "
            f"{row.miss_bytes / max(1, row.lru_miss_bytes) - 1:+11.1%}  {bound}  {recall}  {row.stall_s * 1e3:10.3f} ms"
        )
    for row in {row.preset: row for row in rows}.values():
        if row.not_simulated:
            lines.append(f"{row.preset}: a trace does not show its {' and its '.join(row.not_simulated)}.")
    return lines


def _plot(path: Path, rows: list[Judged], title: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib, which is not installed; run 'pip install hobbit_py[plot]', or leave --plot out."
        ) from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for preset in dict.fromkeys(row.preset for row in rows):
        points = sorted((row.capacity, row.miss_bytes / 1e6) for row in rows if row.preset == preset)
        axes.plot([100 * x for x, _ in points], [y for _, y in points], marker="o", label=preset)
    bounds = sorted({(row.capacity, row.belady_miss_bytes / 1e6) for row in rows})
    axes.plot([100 * x for x, _ in bounds], [y for _, y in bounds], "k--", label="Belady (exact mode)")
    axes.set_xlabel("cache, % of the experts in hi")
    axes.set_ylabel("expert bytes missed, MB")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"The plot {str(path)!r} cannot be written: {error}.") from error


@click.command()
@click.argument("trace_path", metavar="TRACE", type=click.Path(path_type=Path))
@click.option(
    "--capacity",
    "capacities",
    default="10%,25%,50%",
    show_default=True,
    callback=_capacities,
    metavar="SHARES",
    help="Memory for experts, as shares of what all of them take in hi.",
)
@click.option("--preset", default="all", show_default=True, metavar="NAMES", help="Presets, or 'all'.")
@click.option("--eviction", metavar="NAMES", help="Eviction policies in exact mode instead of presets, or 'all'.")
@click.option(
    "--predictor",
    metavar="NAME",
    help="Predictor instead of the presets' own; oracle is always right, which bounds what any could save.",
)
@click.option("--tokens", "max_tokens", type=click.IntRange(min=1), metavar="N", help="Replay the first N tokens.")
@click.option(
    "--read-speed", default="2GB/s", show_default=True, callback=_speed, metavar="SPEED", help="Of the drive."
)
@click.option(
    "--layer-time",
    "layer_ms",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="MS",
    help="Milliseconds that a layer computes.",
)
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Also draw the missed bytes, as PNG.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with an object for each row.")
def command(
    trace_path: Path,
    capacities: list[float],
    preset: str,
    eviction: str | None,
    predictor: str | None,
    max_tokens: int | None,
    read_speed: int,
    layer_ms: float,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Replay what 'hobbit trace' recorded: what each preset's cache would have missed, beside LRU and Belady's bound.

    No model is needed. Reading ahead depends on time, so it does not change the hits here: the column 'stall' estimates
    what it saves.
    """
    from ..policies import PRESETS, eviction_policy, preset_of
    from ..policies.eviction import BUILT_INS
    from ..policies.presets import Preset
    from ..simulate.judge import Machine, judge
    from ..simulate.predictions import SIMULATED
    from ..simulate.trace import load_trace

    if eviction is None:
        names = list(PRESETS) if preset == "all" else [name.strip() for name in preset.split(",")]
        presets = [preset_of(name) for name in names]
    else:
        names = list(BUILT_INS) if eviction == "all" else [name.strip() for name in eviction.split(",")]
        presets = [Preset(name, eviction=name) for name in names]
        for name in names:
            eviction_policy(name)  # refuses an unknown one before anything is replayed
    if predictor is not None:
        if predictor not in SIMULATED:
            raise UsageError(
                f"The predictor {predictor!r} cannot be simulated; those that can be: {', '.join(SIMULATED)}."
            )
        presets = [dataclasses.replace(one, predictor=cast("Predictor", predictor)) for one in presets]
    trace = load_trace(trace_path)
    if predictor == "trained-gates" and not trace.is_trained:
        raise UsageError(
            f"The model of {str(trace_path)!r} had no trained gates; train them by 'hobbit tune --predictor-only' and "
            f"record it again."
        )
    if max_tokens is not None:
        trace = trace.head(max_tokens)
    machine = Machine(read_bytes_s=float(read_speed), layer_s=layer_ms / 1e3)
    with progress_bar(f"replaying {trace_path.name}") as progress:
        rows = judge(trace, presets, capacities, machine=machine, progress=progress)
    if plot is not None:
        _plot(plot, rows, f"{trace.model}, {trace.n_tokens} tokens")
    if as_json:
        click.echo(json.dumps([row.as_dict() for row in rows]))
        return
    for line in _table(rows):
        click.echo(line)

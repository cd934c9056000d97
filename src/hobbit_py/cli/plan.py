"""`hobbit plan`: what a model needs and how fast it should be, before it is downloaded."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from ..sizes import format_bytes, parse_bytes
from . import values

if TYPE_CHECKING:
    from ..planning import BudgetPlan, Plan


def _sizes(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int | str] | None:
    try:
        return None if value is None else [part if part == "auto" else parse_bytes(part) for part in value.split(",")]
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def _rows(plan: Plan) -> list[tuple[str, str]]:
    speed = plan.speed
    rows = [
        ("architecture", f"{plan.architecture}, {plan.n_layers} layers"),
        ("file", format_bytes(plan.file_bytes)),
        (
            "experts",
            f"{format_bytes(plan.expert_bytes)}, {plan.n_expert} a layer, {plan.n_expert_used} used: "
            f"{format_bytes(plan.expert_bytes_per_token)} a token",
        ),
        ("other weights", format_bytes(plan.dense_bytes)),
        ("KV cache", f"{format_bytes(plan.kv_bytes_per_1k_tokens)} for 1,000 tokens"),
        ("least memory", f"{format_bytes(plan.floor_bytes)} with a context of {plan.n_ctx}"),
        ("drive", f"{speed.drive_bytes_s / 1e6:.0f} MB/s at direct random reads of an expert's matrix"),
        ("processor", f"{speed.matmul_bytes_s / 1e9:.1f} GB/s of weights on {speed.n_threads} threads"),
        ("hit rates", plan.reuse),
    ]
    if plan.vram is not None:
        vram = plan.vram
        all_in_lo = f", or all of them in lo copies of type {vram.lo_type}" if vram.lo_type else ""
        what = (
            f"holds the other weights, the context and {vram.n_slots} experts{all_in_lo}"
            if vram.dense_fits
            else "is too small for the other weights and the context"
        )
        rows.append((f"{format_bytes(vram.vram_bytes)} of VRAM", what))
    return rows


def _cells(budget: BudgetPlan) -> list[str]:
    if budget.tok_s is None or budget.hit_rate is None or budget.read_bytes_per_token is None:
        return ["too small"]
    lo = f"{budget.lo.type}, {format_bytes(budget.lo.n_bytes)}: {budget.lo.tok_s:.1f} tok/s" if budget.lo else "none"
    return [
        f"{budget.n_slots} ({budget.resident_share:.0%})",
        f"{budget.hit_rate:.0%}",
        f"{budget.read_bytes_per_token / 1e6:.0f}",
        f"{budget.tok_s:.1f}",
        f"{budget.tok_s_low:.1f}-{budget.tok_s_high:.1f}",
        lo,
    ]


def _print(plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    # In a pipe there is no width to fit into.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    for name, value in _rows(plan):
        console.print(f"{name:<18}{value}", markup=False)
    table = Table()
    table.add_column("memory", justify="right")
    for heading in ("experts in memory", "hits", "MB/token", "tok/s", "range"):
        table.add_column(heading, justify="right")
    table.add_column("lo copy worth packing")
    for budget in plan.budgets:
        table.add_row(format_bytes(budget.memory_bytes), *_cells(budget))
    console.print(table)
    if plan.reuse.startswith("typical"):
        console.print(
            "tok/s is for a model that uses its experts nearly alike; the range reaches to one that often uses the "
            "same. 'hobbit bench --save' measures it."
        )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--memory", callback=_sizes, metavar="SIZE,...", help="Budgets of the whole process, or auto.")
@click.option("--vram", callback=values.size, metavar="SIZE", help="Memory of a GPU.")
@click.option("--ctx", type=click.IntRange(1, 2**31 - 1), metavar="N", help="Context length in tokens.")
@click.option("--threads", type=click.IntRange(1, 4096), metavar="N", help="Compute threads. [default: all cores]")
@click.option(
    "--drive",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A large file on the drive to measure. [default: the model]",
)
@click.option(
    "--drive-mb-s", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Its bandwidth, not to be measured."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    model: Path,
    memory: list[int | str] | None,
    vram: int | None,
    ctx: int | None,
    threads: int | None,
    drive: Path | None,
    drive_mb_s: float | None,
    as_json: bool,
) -> None:
    """Predict what a model needs and how fast it will be on this machine, from its headers.

    MODEL is a GGUF file, the first part of a split one, or ORG/REPO[:QUANT] on the hub, of which only headers are
    fetched. Without --memory, budgets that hold a quarter, a half, three quarters and all of the experts.
    """
    from ..planning import plan
    from .native_log import keep_native_errors

    keep_native_errors()
    found = plan(
        model,
        memory=memory,
        vram=vram,
        n_ctx=ctx,
        n_threads=threads,
        drive=drive,
        drive_bytes_s=None if drive_mb_s is None else drive_mb_s * 1e6,
    )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
    else:
        _print(found)

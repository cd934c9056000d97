"""Checks of options' values that click lacks; each is a click callback."""

from __future__ import annotations

import math

import click

from ..errors import UsageError
from ..sizes import parse_bytes


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Bytes of a size such as 8GiB."""
    try:
        return None if value is None else parse_bytes(value)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def size_or_auto(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """Likewise, or the word auto."""
    return value if value == "auto" else size(ctx, param, value)


def finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """A number that is one: neither nan nor infinity is outside of click's open ranges."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", ctx, param)
    return value

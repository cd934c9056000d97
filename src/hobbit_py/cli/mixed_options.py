"""The options that set mixed mode by hand, and the keywords of hobbit_py.Llama that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import UsageError
from . import values

if TYPE_CHECKING:
    from ..policies import Reroute, Substitute, WeightThresholds

_Command = TypeVar("_Command", bound=Callable[..., Any])

_THRESHOLDS = ("hi_above", "fall", "wait_above", "skip_below")
_REROUTING = ("reroute", "reroute_below", "reroute_fall")
_FALLS = {"--fall": "--hi-above", "--reroute-fall": "--reroute-below"}  # and what they are of


def _fall_option(name: str) -> Callable[[_Command], _Command]:
    return click.option(
        name,
        type=float,
        callback=values.finite,
        metavar="X",
        help=f"By which {_FALLS[name]}, that of the first layer, falls from each layer to the next. [default: 0]",
    )


_OPTIONS = (
    click.option(
        "--hi-above",
        type=click.FloatRange(0, 1),
        callback=values.finite,
        metavar="X",
        help="Gate weight from which on a miss is read in hi. [default with --skip-below or --wait-above: 0]",
    ),
    _fall_option("--fall"),
    click.option(
        "--wait-above",
        type=click.FloatRange(min=0),
        callback=values.finite,
        metavar="X",
        help="Gate weight below which a resident lo copy serves where hi is wanted, which is then read in idle time. "
        "[default: 0]",
    ),
    click.option(
        "--skip-below",
        type=click.FloatRange(0, 1),
        callback=values.finite,
        metavar="X",
        help="Gate weight below which a miss is skipped. [default with --hi-above: 0]",
    ),
    click.option(
        "--lo-share",
        type=click.FloatRange(0, 1),
        callback=values.finite,
        metavar="X",
        help="Share of the memory for lo copies.",
    ),
    click.option(
        "--reroute",
        type=click.FloatRange(0, 1),
        callback=values.finite,
        metavar="MARGIN",
        help="A missing expert gives way to a resident one that the router rates alike within this share. Changes "
        "which experts a token gets.",
    ),
    click.option(
        "--reroute-below",
        type=click.FloatRange(0, 1),
        callback=values.finite,
        metavar="TOLERANCE",
        help="Likewise, instead of --reroute: where this changes the layer's output by less, judged by the weights of "
        "both. The fewer bytes for the same loss.",
    ),
    _fall_option("--reroute-fall"),
)


def mixed_options(command: _Command) -> _Command:
    """Adds the options that fill MixedOptions."""
    return reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)


@dataclass(frozen=True, kw_only=True)
class MixedOptions:
    """Settings of mixed mode, made of what was given; None leaves one to hobbit_py.Llama."""

    names: tuple[str, ...] = ()
    """The options that were given."""
    policy: WeightThresholds | None = None
    lo_share: float | None = None
    router_filter: Reroute | Substitute | None = None

    @classmethod
    def taken_from(cls, parameters: dict[str, Any]) -> MixedOptions:
        """Takes its own out of what click made of a command's parameters.

        Raises UsageError for those that mean nothing together.
        """
        from ..policies import Reroute, Substitute, WeightThresholds

        own = {name: parameters.pop(name, None) for name in (*_THRESHOLDS, "lo_share", *_REROUTING)}
        given = {name: value for name, value in own.items() if value is not None}
        thresholds = {name: given[name] for name in _THRESHOLDS if name in given}
        names = tuple(f"--{name.replace('_', '-')}" for name in given)
        for fall, first in _FALLS.items():
            if fall in names and first not in names:
                raise UsageError(f"{fall} says by how much {first} falls from layer to layer; give {first} as well.")
        if "reroute" in given and "reroute_below" in given:
            raise UsageError(
                "--reroute and --reroute-below are two rules for which missing expert gives way; give one of them."
            )
        router_filter: Reroute | Substitute | None = None
        if "reroute" in given:
            router_filter = Substitute(given["reroute"])
        elif "reroute_below" in given:
            router_filter = Reroute(given["reroute_below"], fall=given.get("reroute_fall", 0.0))
        return cls(
            names=names,
            policy=WeightThresholds(**{"hi_above": 0.0, **thresholds}) if thresholds else None,
            lo_share=given.get("lo_share"),
            router_filter=router_filter,
        )

    def keywords(self) -> dict[str, Any]:
        """Those of hobbit_py.Llama that were given."""
        found = {"policy": self.policy, "lo_share": self.lo_share, "router_filter": self.router_filter}
        return {name: value for name, value in found.items() if value is not None}

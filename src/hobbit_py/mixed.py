"""What mixed precision runs with where the user leaves it open: which lo copy, which thresholds, how much memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError
from .policies import AlwaysLow, CachePrior, PrecisionPolicy, Reroute, RouterFilter, Substitute, WeightThresholds
from .sizes import format_bytes
from .tune import Tuning, load_tuning, tuned_copies

DEFAULT_TILT = 0.25
MIN_LO_BITS_ALONE = 4.5  # a weight

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class MixedSettings:
    """How a model with a lo copy runs, and one sentence about it."""

    policy: PrecisionPolicy
    lo_share: float
    note: str


def choose_copies(
    model_path: _Path, lo: _Path | None, hi: _Path | None, precision: str
) -> tuple[_Path | None, _Path | None]:
    """The lo and the hi copies to run with, (None, None) for exact mode; hi None: the experts of the model.

    Those given; where lo is not, the one that `hobbit tune` found settings for, with these hi copies if they are given
    and its own if not, while its files lie beside the model; else the one of `find_lo_for`.

    Raises UsageError for precision "mixed" without a lo copy, and for hi copies without one; ModelFileError for copies
    that cannot be read.
    """
    if precision == "exact":
        return None, None
    tuned = tuned_copies(model_path) if lo is None else None
    if tuned is not None and (hi is None or _are_same(hi, tuned.hi)):
        return tuned.lo, tuned.hi if hi is None else hi
    if lo is None:
        lo = find_lo_for(model_path, hi)
    if lo is None and hi is not None:
        raise UsageError(
            f"The hi copies {os.fspath(hi)!r} need a coarser lo copy and there is none beside "
            f"{os.fspath(model_path)!r}; name one with lo (--lo), or make one with 'hobbit pack'."
        )
    if lo is None and precision == "mixed":
        raise UsageError(
            f"Mixed precision needs a lo copy and there is none beside {os.fspath(model_path)!r}; make one with "
            f"'hobbit pack', or give a smaller quantisation of the model as lo."
        )
    return lo, hi


def find_lo_for(model_path: _Path, hi: _Path | None) -> Path | None:
    """The largest lo copy beside the model, with hi copies of their own the largest that is coarser; None: none is.

    Raises ModelFileError for files that cannot be read.
    """
    from .pack.paths import find_los_by_size  # here: pack's quantisers are needed by no model without a lo copy
    from .pack.source import open_model

    found = find_los_by_size(model_path)
    if hi is None or not found:
        return next(iter(found), None)
    hi_bytes = open_model(Path(hi)).n_bytes
    return next((lo for lo in found if open_model(lo).n_bytes < hi_bytes), None)


def check_copies(model_paths: Sequence[str], *copies: str | os.PathLike[str] | None) -> None:
    """Raises ModelFileError for a file of copies that was made from another model; None: there is no such file."""
    from .pack import verify

    for path in copies:
        if path is not None:
            verify(model_paths, path)


def _are_same(hi: _Path, other: Path | None) -> bool:
    return other is not None and os.path.realpath(hi) == os.path.realpath(other)


def check_finer(hi: str | os.PathLike[str], hi_bytes: int, lo: str | os.PathLike[str], lo_bytes: int) -> None:
    """Raises UsageError for hi copies that are not larger than the lo copies beside them."""
    if hi_bytes <= lo_bytes:
        raise UsageError(
            f"The hi copies {os.fspath(hi)!r} take {format_bytes(hi_bytes)} and the lo copies {os.fspath(lo)!r} "
            f"{format_bytes(lo_bytes)}, expected hi to be the larger; exchange them, or leave hi out."
        )


def default_policy(n_expert_used: int, memory_share: float, n_layers: int) -> WeightThresholds:
    """The thresholds of a model that was not tuned: about one expert a token in hi, none skipped (docs/accuracy.md).

    With few experts used each has more weight, and so has what is read in hi: 0.2 for eight, 0.5 for two. The more
    experts there is memory for (`memory_share` of what all take in hi), the more of them are there in hi anyway, and
    the fewer need to be read for the same loss: with eight, 0.21 up to a quarter and 0.24 from a half on. That is in
    the middle of the layers: what an early one leaves in lo costs less.
    """
    memory = min(max(memory_share, 0.25), 0.5)
    hi_above = min(0.5, (1.44 + 0.96 * memory) / n_expert_used)
    return WeightThresholds.tilted(hi_above, DEFAULT_TILT, n_layers)


def device_policy(n_expert_used: int, lo_ratio: float) -> WeightThresholds:
    """`default_policy` below a GPU: nearly every expert that its memory lacks is served in lo.

    What is served in lo gets a slot there in hi if it is used much, so only the rare experts stay in lo, and few of
    them carry a token. Copies of less than half the size (`lo_ratio`) are too coarse for those (docs/gpu.md).
    """
    return WeightThresholds(hi_above=min(1.0 if lo_ratio >= 0.5 else 0.8, 3.2 / n_expert_used))


def full_lo_share(memory_share: float, lo_ratio: float) -> float:
    """The share of the memory for lo copies with which every expert has room in hi or in lo; beyond it none is of use.

    1 where there is no room for all; arguments as of `default_lo_share`.
    """
    if memory_share >= 1.0:
        return 0.0
    gain = memory_share * (1.0 / lo_ratio - 1.0) if lo_ratio > 0 else 0.0  # copies more than in hi alone
    return 1.0 if gain <= 0.0 else min(1.0, (1.0 - memory_share) / gain)


def default_lo_share(n_expert_used: int, memory_share: float, lo_ratio: float) -> float:
    """The share of the experts' memory for lo copies in a model that was not tuned.

    45%, or less where that is enough for every expert to be there in hi or in lo. With two experts a token, half of the
    misses are of a best expert, which only a hi copy serves: a quarter at most (docs/accuracy.md).

    Args:
        n_expert_used: Experts of a token in a layer.
        memory_share: The experts' memory over what all of them would take in hi.
        lo_ratio: Bytes of a lo copy over those of a hi copy.
    """
    return min(0.25 if n_expert_used <= 2 else 0.45, full_lo_share(memory_share, lo_ratio))


def wants_lo_alone(
    model_paths: Sequence[str],
    lo: str | os.PathLike[str],
    min_lo_bits: float,
    *,
    policy: PrecisionPolicy | None,
    lo_share: float | None,
    hi: str | os.PathLike[str] | None = None,
) -> bool:
    """Whether a GPU without room for every expert as in the model shall use their lo copies alone.

    It then holds about twice as many experts or all of them, and copies those that it lacks in half of the time. Lo
    copies of four and a half bits a weight lose little even so (docs/gpu.md); with coarser ones only if all memory is
    asked for lo copies, and where thresholds were tuned if that found lo copies alone. Who gives a policy wants it
    obeyed.

    Args:
        model_paths: Files of the model.
        lo: Its lo copy.
        min_lo_bits: Bits a weight of the lo copy's coarsest matrix.
        policy: As the user gave it.
        lo_share: Likewise.
        hi: Hi copies that the user gave: they are wanted then.
    """
    if policy is not None or lo_share is not None:
        return policy is None and lo_share == 1.0
    tuning = load_tuning(model_paths, lo, hi)
    return hi is None and min_lo_bits >= MIN_LO_BITS_ALONE if tuning is None else tuning.is_lo_alone


def lo_alone_settings(
    model_paths: Sequence[str],
    lo: str | os.PathLike[str],
    *,
    is_held: bool,
    router_filter: RouterFilter | None = None,
    hi: str | os.PathLike[str] | None = None,
) -> MixedSettings:
    """Of a GPU that uses lo copies alone; `is_held`: all are there; the others are those of `mixed_settings`."""
    router_filter = _active(router_filter)
    on_gpu = "and all on the GPU, " if is_held else ""
    what = f"Every expert is used in its lo copy, {on_gpu}from {Path(lo).name}{_rerouting_words(router_filter)}"
    tuning = load_tuning(model_paths, lo, hi)
    if tuning is None or not tuning.is_lo_alone:
        note = f"{what}; the loss of that is not known, 'hobbit perplexity --against exact' measures it."
    else:
        note = _tuned_note(what, tuning, router_filter)
    return MixedSettings(policy=AlwaysLow(), lo_share=1.0, note=note)


def tuned_filter(
    model_paths: Sequence[str], lo: str | os.PathLike[str], hi: str | os.PathLike[str] | None = None
) -> RouterFilter | None:
    """What `hobbit tune --try-rerouting` chose for this model and its copies; None: nothing."""
    tuning = load_tuning(model_paths, lo, hi)
    return None if tuning is None else tuning.router_filter()


def mixed_settings(
    model_paths: Sequence[str],
    lo: str | os.PathLike[str],
    n_expert_used: int,
    n_layers: int,
    *,
    policy: PrecisionPolicy | None,
    lo_share: float | None,
    memory_share: float,
    lo_ratio: float,
    has_tier: bool = False,
    router_filter: RouterFilter | None = None,
    hi: str | os.PathLike[str] | None = None,
) -> MixedSettings:
    """Fills in what the user left open (None), from the tune file if it is about these very files.

    `hi` are hi copies of their own, None: the experts of the model. `memory_share` and `lo_ratio` are those of
    `default_lo_share`; `has_tier`: a GPU with memory of its own computes; `router_filter`: that of the run, which the
    note takes into account.
    """
    router_filter = _active(router_filter)
    what = f"Mixed precision with lo copies from {Path(lo).name}"
    if hi is not None:
        what += f" and hi copies from {Path(hi).name}"
    what += _rerouting_words(router_filter)
    not_known = f"{what}; the loss of these settings is not known, 'hobbit perplexity --against exact' measures it."
    default_share = default_lo_share(n_expert_used, memory_share, lo_ratio)
    if has_tier:
        own_policy = device_policy(n_expert_used, lo_ratio)
    else:
        own_policy = default_policy(n_expert_used, memory_share, n_layers)
    if policy is not None or lo_share is not None:
        return MixedSettings(
            policy=policy or own_policy,
            lo_share=default_share if lo_share is None else lo_share,
            note=not_known,
        )
    tuning = load_tuning(model_paths, lo, hi)
    if tuning is None:
        return MixedSettings(
            policy=own_policy,
            lo_share=default_share,
            note=not_known if router_filter else f"{what}; its loss was not measured yet, 'hobbit tune' does.",
        )
    # It may have had less memory.
    full_share = 1.0 if tuning.is_lo_alone and memory_share < 1.0 else full_lo_share(memory_share, lo_ratio)
    return MixedSettings(
        policy=tuning.policy(n_layers),
        lo_share=min(tuning.lo_share, full_share),
        note=_tuned_note(what, tuning, router_filter),
    )


def _tuned_note(what: str, tuning: Tuning, router_filter: RouterFilter | None) -> str:
    loss = f"loss {format_loss(tuning.loss)} perplexity, measured by hobbit tune"
    if router_filter != tuning.router_filter():
        return f"{what}; {loss} with {_filter_words(tuning.router_filter())}."
    return f"{what}; {loss}."


def _active(router_filter: RouterFilter | None) -> RouterFilter | None:
    """None for one that changes nothing."""
    match router_filter:
        case CachePrior(strength=0) | Substitute(margin=0):
            return None
        case Reroute(tolerance=0, fall=fall) if fall >= 0:
            return None
    return router_filter


def _rerouting_words(router_filter: RouterFilter | None) -> str:
    return "" if router_filter is None else ", missing experts rerouted to resident ones"


def _filter_words(router_filter: RouterFilter | None) -> str:
    return "no router filter" if router_filter is None else "another router filter"


def format_loss(loss: float) -> str:
    """Writes a relative loss in percent, "0.4%"; a gain within the noise is "0.0%" and not "-0.0%"."""
    return f"{100 * loss + 0.0:.1f}%".replace("-0.0%", "0.0%")

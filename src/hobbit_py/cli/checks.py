"""What commands refuse of their options before a model is loaded: those that would have no effect."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelFileError, UsageError
from .hub_models import model_file

if TYPE_CHECKING:
    from .common import ModelOptions


def has_experts(model_path: Path) -> bool:
    """Whether it is a Mixture-of-Experts model; a file that cannot be read is for the loader to name."""
    from ..pack.source import open_any_model

    try:
        return bool(open_any_model(model_path).tensors)
    except ModelFileError:
        return True


def check_options(options: ModelOptions, names: Sequence[str]) -> None:
    """Raises UsageError for options that have no effect on a run with these.

    Those of `names` set mixed mode and were given; they are for no other, as are copies. All about experts, of which
    `options` has more, is for models that have some.
    """
    copies = [name for name, path in (("--lo", options.lo), ("--hi", options.hi)) if path is not None]
    if copies or names:
        _check_mode(options, [*copies, *names])
    about_experts = [
        *(["--precision mixed"] if options.precision == "mixed" else []),
        *copies,
        *(["--eviction"] if options.eviction is not None else []),
        *names,
    ]
    if not about_experts:
        return
    model_path = model_file(options.model)
    if not has_experts(model_path):
        raise UsageError(
            f"{os.fspath(model_path)!r} has no experts, so there is no use for {_listed(about_experts)}; leave it out."
        )
    if names:
        _check_lo(options, model_path, names)


def _check_mode(options: ModelOptions, names: Sequence[str]) -> None:
    from ..policies import preset_of

    what = _listed(names)
    if options.precision == "exact":
        raise UsageError(f"With --precision exact there is no use for {what}; leave out the one or the other.")
    if options.precision == "auto" and preset_of(options.preset).precision == "exact":
        raise UsageError(
            f"The preset {options.preset!r} runs in exact mode, where there is no use for {what}; give --precision "
            f"mixed as well, or leave that out."
        )


def _check_lo(options: ModelOptions, model_path: Path, names: Sequence[str]) -> None:
    from ..mixed import choose_copies

    # A file that is missing is for the loader to name.
    if model_path.is_file() and choose_copies(model_path, options.lo, options.hi, "auto")[0] is None:
        raise UsageError(
            f"There is no use for {_listed(names)} without a lo copy and there is none beside "
            f"{os.fspath(model_path)!r}; make one with 'hobbit pack', or name one with --lo."
        )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

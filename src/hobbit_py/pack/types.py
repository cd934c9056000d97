"""Which quantisation type each kind of expert matrix gets: parsing `Q2_K,down=Q4_0`, and what fits a row."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ..errors import UsageError

MATRIX_KINDS = ("gate", "up", "down", "gate_up")

# Weights in one block; a row must be a multiple of it.
BLOCK_WEIGHTS = {
    **dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"), 256),
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), 256),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"), 32),
}
LO_TYPES = tuple(BLOCK_WEIGHTS)

# The same choices as llama.cpp's own quantiser, so that nobody meets a second set of rules.
_SMALLER_BLOCK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_ANY_ROW = "F16"


@dataclass(frozen=True)
class LoTypes:
    """The type of every kind of matrix; by_kind holds those that differ from `default`, in MATRIX_KINDS' order."""

    default: str
    by_kind: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> LoTypes:
        """Reads `TYPE[,KIND=TYPE]...`, in any case; raises UsageError."""
        first, *others = (item.strip() for item in text.split(","))
        if "=" in first:
            raise UsageError(
                f"The lo type {text!r} begins with {first!r}; name the type of all matrices first: Q2_K,down=Q4_0."
            )
        by_kind: dict[str, str] = {}
        for item in others:
            kind, separator, type_name = (part.strip() for part in item.partition("="))
            if not separator or kind not in MATRIX_KINDS:
                raise UsageError(
                    f"The lo type {text!r} has {item!r}, expected KIND=TYPE with KIND one of {', '.join(MATRIX_KINDS)}."
                )
            if kind in by_kind:
                raise UsageError(f"The lo type {text!r} names a type for {kind!r} twice; name it once.")
            by_kind[kind] = _known_type(type_name)
        default = _known_type(first)
        return cls(default, tuple((k, by_kind[k]) for k in MATRIX_KINDS if by_kind.get(k, default) != default))

    def of(self, kind: str) -> str:
        """The type asked for matrices of that kind."""
        return dict(self.by_kind).get(kind, self.default)

    def __str__(self) -> str:
        return ",".join([self.default, *(f"{kind}={name}" for kind, name in self.by_kind)])

    @property
    def file_label(self) -> str:
        """The part of a file's name that tells lo copies of one model apart, e.g. `Q2_K-down-Q4_0`."""
        return "-".join([self.default, *(f"{kind}-{name}" for kind, name in self.by_kind)])


def fitting_type(type_name: str, n_in: int) -> str:
    """The type itself, or the nearest whose blocks divide a row of n_in weights."""
    for candidate in (type_name, _SMALLER_BLOCK.get(type_name)):
        if candidate is not None and n_in % BLOCK_WEIGHTS[candidate] == 0:
            return candidate
    return _ANY_ROW


def _known_type(text: str) -> str:
    name = text.upper()
    if name in BLOCK_WEIGHTS:
        return name
    nearest = difflib.get_close_matches(name, LO_TYPES, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"the types are {', '.join(LO_TYPES)}."
    raise UsageError(f"{text!r} is not a type that a lo copy can have; {hint}")

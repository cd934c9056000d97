"""Rounding with error feedback: a quantised matrix whose errors matter less to what it is multiplied with.

ggml's quantisers round every weight by itself. `csrc/feedback/round_rows.h` chooses the integers once more, so that
the errors of a row cancel out in the products, as far as its inputs go together. The type, its layout and its bytes
stay; nothing changes at run time.
"""

from __future__ import annotations

import numpy as np

from .. import _core
from .integers import INTEGER_FORMATS, Integers
from .quantize import Bytes, Floats, TensorType

# Most rows have found their best before: what nothing changes any more is left at once.
_N_ROUNDS = 8


def has_feedback(kind: TensorType) -> bool:
    """Tells whether improve() knows how the type stores weights."""
    return kind.name in INTEGER_FORMATS


def improve(quantized: Bytes, kind: TensorType, weights: Floats, moments: Floats) -> Bytes:
    """The rows [n_rows, row bytes] with other integers.

    Args:
        quantized: The rows, as quantize() made them, with finite scales.
        kind: Their type, one with has_feedback().
        weights: What was quantised [n_rows, n_in].
        moments: Second moments of the rows' inputs: of every 256 columns [width, width], one after the other, flat;
            symmetric, with a diagonal above 0.
    """
    own = INTEGER_FORMATS[kind.name]
    n_rows = len(weights)
    blocks = quantized.reshape(-1, kind.block_bytes).copy()
    found = own.unpack(blocks)
    levels, steps = np.ascontiguousarray(found.levels), np.ascontiguousarray(found.steps)
    minimums = None if found.minimums is None else np.ascontiguousarray(found.minimums)
    native = _core.RoundingFormat()
    native.group, native.super_block, native.values = own.group, own.block, list(own.level_values)
    native.min_step, native.max_step, native.max_minimum = own.min_step, own.max_step, own.max_minimum
    _core.round_rows(native, weights, found.supers, found.super_mins, levels, steps, minimums, moments, _N_ROUNDS)
    own.repack(blocks, Integers(levels, steps, minimums, found.supers, found.super_mins))
    return blocks.reshape(n_rows, -1)

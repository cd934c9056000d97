"""Second moments of what experts are multiplied with: how they are stored beside an importance matrix, and estimated.

Stored are correlations in steps of 1/127, of every block of 256 columns the lower triangle by rows: coarse, but ten
times finer than a few thousand tokens can tell them. With the importance matrix's squares they give the moments.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .quantize import Floats

CORRELATIONS = ".in_corr"
BLOCK = 256
Correlations = npt.NDArray[np.int8]

_STEPS = 127

# What is known before a row was seen counts as so many rows. Neighbouring tokens are alike, so that a thousand of them
# say less than their number; the figures are the best of seven pairs, which differ by 3% (docs/accuracy.md).
_LAYER_ROWS = 1000.0  # an expert's inputs are like those of its layer, where it shares them
_WHITE_ROWS = 3000.0  # inputs are alike and do not go together


def _widths(n_in: int) -> list[int]:
    """Columns of every block."""
    return [min(BLOCK, n_in - first) for first in range(0, n_in, BLOCK)]


def _blocks(n_in: int) -> Iterator[tuple[slice, slice]]:
    """For every block its columns, and where its triangle is among the triangles."""
    first = begin = 0
    for width in _widths(n_in):
        end = begin + width * (width + 1) // 2
        yield slice(first, first + width), slice(begin, end)
        first, begin = first + width, end


def n_triangles(n_in: int) -> int:
    """Numbers in the triangles of all blocks."""
    return sum(width * (width + 1) // 2 for width in _widths(n_in))


def correlations(sums: Floats, n_in: int) -> Correlations:
    """Correlations [n_groups, n_triangles] of sums of products; those of an input that was always 0 are 0."""
    stored: Correlations = np.empty(sums.shape, np.int8)
    for columns, triangle in _blocks(n_in):
        rows, others = _triangle(columns.stop - columns.start)
        for group, products in enumerate(sums[:, triangle]):
            sizes = np.sqrt(products[rows == others])
            inverse = np.divide(1, sizes, out=np.zeros_like(sizes), where=sizes > 0)
            scaled = products * inverse[rows] * inverse[others] * _STEPS
            stored[group, triangle] = np.clip(np.rint(scaled), -_STEPS, _STEPS)
    return stored


def moments_of(stored: Correlations, squares: Floats) -> Floats:
    """Second moments, as feedback.improve() takes them, of correlations [n_triangles] and mean squares [n_in]."""
    sizes = np.sqrt(np.maximum(squares, 0) / np.float32(_STEPS))
    parts = []
    for columns, triangle in _blocks(len(squares)):
        width = columns.stop - columns.start
        block = np.zeros((width, width), np.float32)
        rows, others = _triangle(width)
        block[rows, others] = stored[triangle]
        block[others, rows] = stored[triangle]
        block *= sizes[columns, np.newaxis] * sizes[columns]
        np.fill_diagonal(block, squares[columns])
        parts.append(block.reshape(-1))
    return np.concatenate(parts)


def estimate(own: Floats | None, n_rows: float, layer: Floats | None, n_in: int) -> Floats:
    """The moments to round an expert's matrix with.

    Args:
        own: Moments of the rows that the expert was given; None if they were not kept.
        n_rows: Number of those rows.
        layer: Moments of the rows of all experts, where these are rows of one input.
        n_in: Numbers in a row.
    """
    n_own = 0.0 if own is None else n_rows
    n_layer = 0.0 if layer is None else _LAYER_ROWS
    moments: Floats = np.zeros(sum(width**2 for width in _widths(n_in)), np.float32)
    if own is not None:
        moments += own * np.float32(n_own)
    if layer is not None:
        moments += layer * np.float32(n_layer)
    n_seen = n_own + n_layer
    diagonal = _diagonal_indices(n_in)
    mean_square = float(moments[diagonal].mean(dtype=np.float64)) / n_seen if n_seen else 0.0
    # Whatever was not seen at all counts alike; only the ratio of the two terms matters.
    moments[diagonal] += np.float32(_WHITE_ROWS * (mean_square if mean_square > 0 else 1.0))
    return moments


def _diagonal_indices(n_in: int) -> npt.NDArray[np.intp]:
    indices = []
    begin = 0
    for width in _widths(n_in):
        indices.append(begin + np.arange(width) * (width + 1))
        begin += width * width
    return np.concatenate(indices)


@functools.cache
def _triangle(width: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of a lower triangle's numbers, row by row."""
    return np.tril_indices(width)

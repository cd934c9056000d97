"""What a quantised row is made of, for the types whose integers can be chosen once more (feedback.py).

A weight is `super * step * level_values[level] - super_min * minimum`: levels by weight, steps and minimums by group
of weights, the two supers by block. The layouts are ggml's (ggml-common.h, dequantize_row_*).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .quantize import Bytes, Floats

Steps = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Integers:
    """Of n blocks: levels [n, block weights], steps and minimums [n, groups], supers and super_mins [n, 1]."""

    levels: Bytes
    steps: Steps
    minimums: Bytes | None
    supers: Floats
    super_mins: Floats | None


@dataclass(frozen=True)
class IntegerFormat:
    """How one type stores them: `group` weights have one step; `level_values` rise; the bounds are inclusive.

    `unpack` reads blocks [n, block bytes]; `repack` writes levels, steps and minimums into such blocks.
    """

    group: int
    block: int
    level_values: Sequence[int]
    min_step: int
    max_step: int
    max_minimum: int
    unpack: Callable[[Bytes], Integers]
    repack: Callable[[Bytes, Integers], None]

    def values(self, integers: Integers) -> Floats:
        """The weights [n, block]."""
        steps = np.repeat(integers.supers * integers.steps, self.group, axis=1)
        values: Floats = steps * np.array(self.level_values, np.float32)[integers.levels]
        if integers.minimums is not None and integers.super_mins is not None:
            values -= np.repeat(integers.super_mins * integers.minimums, self.group, axis=1)
        return values


def _halves(blocks: Bytes) -> Floats:
    halves: npt.NDArray[np.float16] = np.ascontiguousarray(blocks).view(np.float16)
    floats: Floats = halves.astype(np.float32)
    return floats


def _unpack_pairs(data: Bytes) -> Bytes:
    """Of 64 bytes 256 numbers of two bits: those of 32 bytes at the same place follow each other."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, np.newaxis]
    levels: Bytes = (data.reshape(-1, 2, 1, 32) >> shifts & 3).astype(np.uint8).reshape(-1, 256)
    return levels


def _pack_pairs(levels: Bytes) -> Bytes:
    four = levels.reshape(-1, 2, 4, 32)
    data: Bytes = (four[:, :, 0] | four[:, :, 1] << 2 | four[:, :, 2] << 4 | four[:, :, 3] << 6).astype(np.uint8)
    return data.reshape(-1, 64)


def _unpack_q2_k(blocks: Bytes) -> Integers:
    scales = blocks[:, :16]
    return Integers(
        levels=_unpack_pairs(blocks[:, 16:80]),
        steps=(scales & 15).astype(np.int8),
        minimums=(scales >> 4).astype(np.uint8),
        supers=_halves(blocks[:, 80:82]),
        super_mins=_halves(blocks[:, 82:84]),
    )


def _repack_q2_k(blocks: Bytes, integers: Integers) -> None:
    assert integers.minimums is not None
    blocks[:, :16] = integers.steps.astype(np.uint8) | integers.minimums << 4
    blocks[:, 16:80] = _pack_pairs(integers.levels)


def _unpack_q3_k(blocks: Bytes) -> Integers:
    bits = np.arange(8, dtype=np.uint8)[:, np.newaxis]
    high = (blocks[:, np.newaxis, :32] >> bits & 1).reshape(-1, 256)
    scales = blocks[:, 96:108]
    low = np.concatenate([scales[:, :8] & 15, scales[:, :8] >> 4], axis=1)
    pairs = (scales[:, np.newaxis, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, np.newaxis] & 3).reshape(-1, 16)
    return Integers(
        levels=(_unpack_pairs(blocks[:, 32:96]) | high << 2).astype(np.uint8),
        steps=(low | pairs << 4).astype(np.int8) - np.int8(32),
        minimums=None,
        supers=_halves(blocks[:, 108:110]),
        super_mins=None,
    )


def _repack_q3_k(blocks: Bytes, integers: Integers) -> None:
    bits = np.arange(8, dtype=np.uint8)[:, np.newaxis]
    blocks[:, :32] = np.bitwise_or.reduce((integers.levels >> 2).reshape(-1, 8, 32) << bits, axis=1)
    blocks[:, 32:96] = _pack_pairs((integers.levels & 3).astype(np.uint8))
    steps = (integers.steps + np.int8(32)).astype(np.uint8)
    blocks[:, 96:104] = steps[:, :8] & 15 | (steps[:, 8:] & 15) << 4
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, np.newaxis]
    blocks[:, 104:108] = np.bitwise_or.reduce((steps >> 4).reshape(-1, 4, 4) << shifts, axis=1)


def _unpack_q4_0(blocks: Bytes) -> Integers:
    return Integers(
        levels=np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1),
        steps=np.ones((len(blocks), 1), np.int8),
        minimums=None,
        supers=_halves(blocks[:, :2]),
        super_mins=None,
    )


def _repack_q4_0(blocks: Bytes, integers: Integers) -> None:
    blocks[:, 2:] = integers.levels[:, :16] | integers.levels[:, 16:] << 4


def _unpack_q4_k(blocks: Bytes) -> Integers:
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    nibbles = blocks[:, 16:].reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8)[:, np.newaxis] & 15
    return Integers(
        levels=nibbles.astype(np.uint8).reshape(-1, 256),
        steps=np.concatenate([first & 63, third & 15 | first >> 2 & 48], axis=1).astype(np.int8),
        minimums=np.concatenate([second & 63, third >> 4 | second >> 2 & 48], axis=1).astype(np.uint8),
        supers=_halves(blocks[:, :2]),
        super_mins=_halves(blocks[:, 2:4]),
    )


def _repack_q4_k(blocks: Bytes, integers: Integers) -> None:
    assert integers.minimums is not None
    steps, minimums = integers.steps.astype(np.uint8), integers.minimums
    blocks[:, 4:8] = steps[:, :4] | (steps[:, 4:] & 48) << 2
    blocks[:, 8:12] = minimums[:, :4] | (minimums[:, 4:] & 48) << 2
    blocks[:, 12:16] = steps[:, 4:] & 15 | (minimums[:, 4:] & 15) << 4
    nibbles = integers.levels.reshape(-1, 4, 2, 32)
    blocks[:, 16:] = (nibbles[:, :, 0] | nibbles[:, :, 1] << 4).reshape(-1, 128)


def _unpack_iq4_xs(blocks: Bytes) -> Integers:
    nibbles = blocks[:, 8:].reshape(-1, 8, 1, 16) >> np.array([0, 4], np.uint8)[:, np.newaxis] & 15
    low = (blocks[:, 4:8, np.newaxis] >> np.array([0, 4], np.uint8) & 15).reshape(-1, 8)
    high = (blocks[:, 2:4, np.newaxis] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(-1, 8)
    return Integers(
        levels=nibbles.astype(np.uint8).reshape(-1, 256),
        steps=(low | high << 4).astype(np.int8) - np.int8(32),
        minimums=None,
        supers=_halves(blocks[:, :2]),
        super_mins=None,
    )


def _repack_iq4_xs(blocks: Bytes, integers: Integers) -> None:
    nibbles = integers.levels.reshape(-1, 8, 2, 16)
    blocks[:, 8:] = (nibbles[:, :, 0] | nibbles[:, :, 1] << 4).reshape(-1, 128)
    steps = (integers.steps + np.int8(32)).astype(np.uint8)
    pairs = (steps & 15).reshape(-1, 4, 2)
    blocks[:, 4:8] = pairs[:, :, 0] | pairs[:, :, 1] << 4
    fours = (steps >> 4).reshape(-1, 2, 4) << np.array([0, 2, 4, 6], np.uint8)
    blocks[:, 2:4] = np.bitwise_or.reduce(fours, axis=2)


# ggml's kvalues_iq4nl: sixteen levels that lie closer together around zero.
_IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

INTEGER_FORMATS = {
    "Q2_K": IntegerFormat(16, 256, range(4), 0, 15, 15, _unpack_q2_k, _repack_q2_k),
    "Q3_K": IntegerFormat(16, 256, range(-4, 4), -32, 31, 0, _unpack_q3_k, _repack_q3_k),
    "Q4_0": IntegerFormat(32, 32, range(-8, 8), 1, 1, 0, _unpack_q4_0, _repack_q4_0),
    "Q4_K": IntegerFormat(32, 256, range(16), 0, 63, 63, _unpack_q4_k, _repack_q4_k),
    "IQ4_NL": IntegerFormat(32, 32, _IQ4_VALUES, 1, 1, 0, _unpack_q4_0, _repack_q4_0),
    "IQ4_XS": IntegerFormat(32, 256, _IQ4_VALUES, -32, 31, 0, _unpack_iq4_xs, _repack_iq4_xs),
}

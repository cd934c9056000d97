"""Rounding with error feedback: the layouts of its types, and that what it chooses is better and like the reference."""

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from feedback_reference import improve_row, weighted_error
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from hobbit_py import _core
from hobbit_py.pack import feedback
from hobbit_py.pack.feedback import has_feedback, improve
from hobbit_py.pack.integers import INTEGER_FORMATS, Integers
from hobbit_py.pack.quantize import quantize, tensor_type_named

Floats = npt.NDArray[np.float32]
BLOCK = 256
seeds = st.integers(0, 2**32 - 1)
types = pytest.mark.parametrize("name", INTEGER_FORMATS)


def dequantized(quantized: npt.NDArray[np.uint8], name: str) -> Floats:
    """By gguf's own dequantisers."""
    weights: Floats = gguf.quants.dequantize(quantized, GGMLQuantizationType[name])
    return weights


def widths_of(n_in: int) -> list[int]:
    return [min(BLOCK, n_in - first) for first in range(0, n_in, BLOCK)]


def random_moments(rng: np.random.Generator, n_in: int, n_rows: int = 512, rank: int = 24) -> list[Floats]:
    """Of inputs that go together by blocks, with a few that are much larger than the others."""
    blocks = []
    for width in widths_of(n_in):
        inputs = rng.normal(size=(n_rows, rank)) @ rng.normal(size=(rank, width)) / 4 + rng.normal(size=(n_rows, width))
        inputs *= np.exp(rng.normal(size=width))
        blocks.append((inputs.T @ inputs / n_rows).astype(np.float32))
    return blocks


def flat(blocks: list[Floats]) -> Floats:
    return np.concatenate([block.reshape(-1) for block in blocks])


def weighted_errors(values: Floats, weights: Floats, moments: list[Floats]) -> npt.NDArray[np.float64]:
    """e' H e of every row."""
    errors = (values - weights).astype(np.float64)
    begin, total = 0, np.zeros(len(errors))
    for block in moments:
        part = errors[:, begin : begin + len(block)]
        total += np.einsum("ri,ij,rj->r", part, block.astype(np.float64), part, optimize=True)
        begin += len(block)
    return total


@types
def test_values_are_those_of_ggufs_dequantiser(name: str) -> None:
    kind, own = tensor_type_named(name), INTEGER_FORMATS[name]
    weights = np.random.default_rng(0).normal(size=(32, 512)).astype(np.float32)
    blocks = quantize(weights, kind, None).reshape(-1, kind.block_bytes)
    integers = own.unpack(blocks)
    assert np.array_equal(own.values(integers).reshape(-1), dequantized(blocks, name).reshape(-1))
    again = blocks.copy()
    own.repack(again, integers)
    assert np.array_equal(again, blocks)


@types
@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_any_integers_are_packed_as_they_are(name: str, seed: int) -> None:
    kind, own = tensor_type_named(name), INTEGER_FORMATS[name]
    rng = np.random.default_rng(seed)
    blocks = quantize(rng.normal(size=(4, 256)).astype(np.float32), kind, None).reshape(-1, kind.block_bytes)
    found = own.unpack(blocks)
    chosen = Integers(
        levels=rng.integers(0, len(own.level_values), found.levels.shape).astype(np.uint8),
        steps=rng.integers(own.min_step, own.max_step + 1, found.steps.shape).astype(np.int8),
        minimums=None
        if found.minimums is None
        else rng.integers(0, own.max_minimum + 1, found.minimums.shape).astype(np.uint8),
        supers=found.supers,
        super_mins=found.super_mins,
    )
    own.repack(blocks, chosen)
    assert np.array_equal(own.values(chosen).reshape(-1), dequantized(blocks, name).reshape(-1))


@types
@settings(max_examples=15, deadline=None)
@given(seed=seeds, n_blocks=st.integers(1, 3), n_inputs=st.integers(1, 300), spread=st.floats(0, 6))
def test_the_weighted_error_never_grows(name: str, seed: int, n_blocks: int, n_inputs: int, spread: float) -> None:
    """Also where moments are singular, or some inputs are many times larger than others."""
    kind, rng = tensor_type_named(name), np.random.default_rng(seed)
    n_in = 256 * n_blocks if kind.block_weights == 256 else 32 * (3 * n_blocks + 2)
    weights = (rng.normal(size=(6, n_in)) * np.exp(rng.normal(size=n_in))).astype(np.float32)
    moments = []
    for width in widths_of(n_in):
        inputs = rng.normal(size=(n_inputs, width)) * np.exp(spread * rng.normal(size=width))
        moments.append((inputs.T @ inputs / n_inputs).astype(np.float32))
    plain = quantize(weights, kind, None)
    before = weighted_errors(dequantized(plain, name), weights, moments)
    after = weighted_errors(dequantized(improve(plain, kind, weights, flat(moments)), name), weights, moments)
    scale = weighted_errors(np.zeros_like(weights), weights, moments)  # below 1e-5 of it floats cannot tell
    assert (after <= before + 1e-5 * scale).all()


@types
def test_inputs_that_go_together_lose_much_less(name: str) -> None:
    kind, rng = tensor_type_named(name), np.random.default_rng(1)
    n_in = 512
    weights = rng.normal(size=(64, n_in)).astype(np.float32)
    moments = random_moments(rng, n_in)
    plain = quantize(weights, kind, np.concatenate([block.diagonal() for block in moments]))
    before = weighted_errors(dequantized(plain, name), weights, moments).sum()
    after = weighted_errors(dequantized(improve(plain, kind, weights, flat(moments)), name), weights, moments).sum()
    assert after < 0.7 * before


@types
def test_equals_the_plain_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "_N_ROUNDS", 2)
    kind, own, rng = tensor_type_named(name), INTEGER_FORMATS[name], np.random.default_rng(2)
    n_rows, n_in = 3, 256 if kind.block_weights == 256 else 96
    weights = rng.normal(size=(n_rows, n_in)).astype(np.float32)
    moments = random_moments(rng, n_in)
    plain = quantize(weights, kind, None)
    found = own.unpack(improve(plain, kind, weights, flat(moments)).reshape(-1, kind.block_bytes))
    start = own.unpack(plain.reshape(-1, kind.block_bytes))
    n_blocks = n_in // own.block
    for row in range(n_rows):
        blocks = slice(row * n_blocks, (row + 1) * n_blocks)
        double_weights, double_moments = weights[row].astype(np.float64), moments[0].astype(np.float64)
        expected = improve_row(own, _rows(start, blocks), double_weights, double_moments, 2)
        chosen = _rows(found, blocks)
        same = chosen.levels == expected.levels
        assert same.mean() > 0.99  # floats round a tie otherwise now and then
        assert weighted_error(own, chosen, double_weights, double_moments) == pytest.approx(
            weighted_error(own, expected, double_weights, double_moments), rel=0.01
        )


def test_rows_do_not_depend_on_each_other() -> None:
    kind, rng = tensor_type_named("Q3_K"), np.random.default_rng(3)
    weights = rng.normal(size=(8, 512)).astype(np.float32)
    moments = flat(random_moments(rng, 512))
    plain = quantize(weights, kind, None)
    parts = [improve(plain[rows], kind, weights[rows], moments) for rows in (slice(0, 3), slice(3, 8))]
    assert np.array_equal(np.concatenate(parts), improve(plain, kind, weights, moments))


def test_moments_that_do_not_fit_are_refused() -> None:
    kind = tensor_type_named("Q4_0")
    weights = np.ones((2, 64), np.float32)
    with pytest.raises(ValueError, match="moments"):
        improve(quantize(weights, kind, None), kind, weights, np.ones(64 * 63, np.float32))


def test_a_level_without_a_value_is_refused() -> None:
    native = _core.RoundingFormat()
    native.group, native.super_block, native.values, native.min_step, native.max_step = 32, 32, [-1.0, 1.0], 1, 1
    levels = np.zeros((1, 32), np.uint8)
    levels[0, 5] = 2
    weights, ones = np.ones((1, 32), np.float32), np.ones((1, 1), np.float32)
    with pytest.raises(ValueError, match="level"):
        _core.round_rows(
            native, weights, ones, None, levels, ones.astype(np.int8), None, np.eye(32, dtype=np.float32).reshape(-1), 1
        )


def test_which_types_have_it() -> None:
    assert has_feedback(tensor_type_named("Q2_K"))
    assert not has_feedback(tensor_type_named("IQ3_S"))


def _rows(integers: Integers, blocks: slice) -> Integers:
    return Integers(
        integers.levels[blocks],
        integers.steps[blocks],
        None if integers.minimums is None else integers.minimums[blocks],
        integers.supers[blocks],
        None if integers.super_mins is None else integers.super_mins[blocks],
    )

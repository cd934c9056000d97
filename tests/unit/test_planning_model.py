"""The two small models behind `plan`: reuse of experts, and time from bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hobbit_py.planning.reuse import LITTLE_REUSE, MUCH_REUSE, ReuseCurve
from hobbit_py.planning.speed import MachineSpeed, token_s

share = st.floats(0, 1)


@given(share, share)
def test_more_in_memory_never_reads_more(a: float, b: float) -> None:
    for curve in (LITTLE_REUSE, MUCH_REUSE):
        few, many = sorted((a, b))
        assert 0 <= curve.read_share(many) <= curve.read_share(few) <= 1


@given(share)
def test_much_reuse_reads_no_more_than_little(a: float) -> None:
    assert MUCH_REUSE.read_share(a) <= LITTLE_REUSE.read_share(a)


def test_a_curve_goes_through_its_points() -> None:
    curve = ReuseCurve("", ((0.5, 0.2),))
    assert curve.read_share(0) == 1
    assert curve.read_share(0.25) == pytest.approx(0.6)
    assert curve.read_share(0.5) == pytest.approx(0.2)
    assert curve.read_share(1) == 0


@given(st.floats(1e-6, 10), st.floats(0, 10))
def test_token_time_lies_between_the_maximum_and_the_sum(compute_s: float, io_s: float) -> None:
    assert max(compute_s, io_s) <= token_s(compute_s, io_s) * (1 + 1e-9)
    assert token_s(compute_s, io_s) <= (compute_s + io_s) * (1 + 1e-9)


def test_layers_cost_time_however_small_they_are() -> None:
    speed = MachineSpeed(1e9, 1e9, 2)
    assert speed.compute_s(0, 10) == pytest.approx(3.5e-3)
    assert speed.compute_s(1e9, 0) == 1
    assert speed.io_s(5e8) == 0.5

"""The bound on exact mode's speed, against times added up by hand."""

from __future__ import annotations

import numpy as np
import pytest
from overlap_bound import Bound, Machine, bound

# A layer takes 1 s up to its router and 2 s an expert; an expert takes 2 s to read while cores wait, 3 s beside them.
MACHINE = Machine(read_bytes_s=3.0, busy_read_bytes_s=2.0, token_s=10.0, layer_s=1.0, between_s=0.0)


def bound_of(missing: list[list[int]], known_ahead: int, machine: Machine = MACHINE, *, across: bool = False) -> Bound:
    return bound(np.array(missing, np.int32), 6.0, 2, machine, known_ahead, across_tokens=across, n_parts=1)


def test_nothing_missing_is_computing_alone() -> None:
    found = bound_of([[0, 0], [0, 0]], 1)
    assert found.token_s == pytest.approx(10.0)
    assert found.idle_s == pytest.approx(10.0)
    assert found.over_roofline == pytest.approx(1.0)


def test_a_missing_expert_is_read_beside_those_that_are_there() -> None:
    # In each layer 1 s to the router, 2 s for the one that is there, 2/3 s of waiting and 2 s for the other.
    found = bound_of([[1, 1]], 0)
    assert found.token_s == pytest.approx(2 * (1 + 2 + 2 / 3 + 2))
    assert found.idle_s == pytest.approx(2 * (1 + 2))
    assert found.over_roofline == pytest.approx(found.token_s / 10)


def test_what_is_known_a_layer_ahead_is_read_meanwhile() -> None:
    found = bound_of([[1, 1]], 1)
    assert found.token_s == pytest.approx(1 + 2 + 2 / 3 + 2 + 5)
    assert found.idle_s == pytest.approx(1 + 4)


def test_the_next_token_is_known_only_across_tokens() -> None:
    within, across = bound_of([[0, 0], [1, 0]], 1), bound_of([[0, 0], [1, 0]], 1, across=True)
    assert within.token_s == pytest.approx((20 + 2 / 3) / 2)
    assert across.token_s == pytest.approx(10.0)


def test_time_between_tokens_comes_before_their_first_layer() -> None:
    machine = Machine(read_bytes_s=3.0, busy_read_bytes_s=2.0, token_s=12.0, layer_s=1.0, between_s=2.0)
    found = bound_of([[0, 0], [2, 0]], 1, machine, across=True)
    # Known 7 s before the second token begins its experts, and 12 bytes take 6 s beside computing.
    assert found.token_s == pytest.approx(12.0)
    assert bound_of([[0, 0], [2, 0]], 1, machine).token_s > found.token_s


def test_a_matrix_is_multiplied_while_the_next_one_is_read() -> None:
    # Of two halves of the missing expert one is there after 2 s of computing, which read 4 of 6 bytes. It takes 1 s, in
    # which the last two bytes of the other come.
    missing = np.array([[1, 0]], np.int32)
    found = bound(missing, 6.0, 2, MACHINE, 0, across_tokens=False, n_parts=2)
    assert found.token_s == pytest.approx(10.0)
    assert found.idle_s == pytest.approx(1 + 1 + 5)

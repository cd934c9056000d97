"""`hobbit tune`: what the search measures, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hobbit_py.policies import Reroute
from hobbit_py.tune.candidate import (
    NEVER_WAIT,
    REROUTE_TOLERANCES,
    TILTS,
    WIDE_TOLERANCES,
    Candidate,
    Measured,
    Rerouting,
    Speeds,
    lo_alone,
    rerouting_ladder,
)
from hobbit_py.tune.search import search, wait_ladder

HI_LADDER, SKIP_LADDER = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1], [0.02, 0.05]
FRONTIER = [Candidate(hi_above, 0.0, lo_share=hi_above + 0.3) for hi_above in HI_LADDER]
NARROW, WIDE = [Rerouting(0.15), Rerouting(0.3, 0.01)], [Rerouting(0.3), Rerouting(0.5), Rerouting(0.7, 0.02)]


class Landscape:
    """A made-up model: what settings lose and read."""

    def __init__(
        self,
        loss_of_lo: float,
        *,
        skip_loss: float = 1.0,
        never_wait_loss: float = 1.0,
        flat_loss: float = 1.0,
        reroute_loss: float = 1.0,
        lo_alone_loss: float = 1.0,
    ) -> None:
        self.loss_of_lo, self.skip_loss, self.never_wait_loss = loss_of_lo, skip_loss, never_wait_loss
        self.flat_loss, self.reroute_loss, self.lo_alone_loss = flat_loss, reroute_loss, lo_alone_loss
        self.asked: list[Candidate] = []

    def measure(self, candidate: Candidate) -> Measured:
        self.asked.append(candidate)
        if candidate.is_lo_alone:
            loss = self.lo_alone_loss + self.reroute_loss * candidate.reroute_below
            return Measured(candidate, loss, 0.0, loss, 0.02, 0.02 - 0.01 * candidate.reroute_below)
        loss = self.loss_of_lo * candidate.hi_above + self.skip_loss * candidate.skip_below
        loss += self.never_wait_loss * max(0.0, candidate.wait_above - candidate.hi_above)
        loss += 0.0 if candidate.tilt else self.flat_loss
        loss += self.reroute_loss * candidate.reroute_below
        bytes_ratio = 0.9 - candidate.hi_above - candidate.skip_below + 0.01 * candidate.tilt
        bytes_ratio -= candidate.reroute_below
        return Measured(candidate, loss, 0.0, loss, bytes_ratio, bytes_ratio - 0.1 * candidate.wait_above)

    def search(
        self, max_loss: float = 0.01, reroutings: Sequence[Rerouting] = ()
    ) -> tuple[Measured | None, list[Measured]]:
        lo_alone_reroutings = WIDE if reroutings else []
        return search(FRONTIER, HI_LADDER, SKIP_LADDER, self.measure, max_loss, reroutings, lo_alone_reroutings)

    def chosen(self, max_loss: float = 0.01, reroutings: Sequence[Rerouting] = ()) -> Candidate:
        measured, _ = self.search(max_loss, reroutings)
        assert measured is not None
        return measured.candidate


@pytest.mark.parametrize("n_lossy", range(len(FRONTIER)))
def test_bisection_finds_the_first_within_the_loss(n_lossy: int) -> None:
    landscape = Landscape(loss_of_lo=0.01 / (FRONTIER[n_lossy].hi_above + 0.05))
    chosen, measured = landscape.search()
    assert chosen is not None
    assert chosen.candidate == FRONTIER[n_lossy]
    assert [m.candidate for m in measured] == landscape.asked
    of_frontier = [c for c in landscape.asked if c in FRONTIER]
    assert len(of_frontier) <= 3
    slow = next(c for c in FRONTIER if Landscape(landscape.loss_of_lo).measure(c).loss <= 0.01)
    assert chosen.candidate == slow


def test_search_skips_as_far_as_the_loss_allows() -> None:
    assert Landscape(loss_of_lo=0.0, skip_loss=0.3).chosen() == replace(FRONTIER[0], skip_below=0.02)  # 0.05: 1.5%


def test_search_waits_for_as_little_as_the_loss_allows() -> None:
    for never_wait_loss, wait_above in ((0.0, NEVER_WAIT), (0.005, 0.6), (0.012, 0.5), (1.0, 0.0)):
        chosen = Landscape(loss_of_lo=0.021, never_wait_loss=never_wait_loss).chosen()
        assert (chosen.hi_above, chosen.wait_above) == (0.4, wait_above)


def test_search_tilts_only_where_the_loss_asks_for_it() -> None:
    for flat_loss, tilt in ((0.001, 0.0), (0.01, TILTS[0])):
        chosen = Landscape(loss_of_lo=0.021, flat_loss=flat_loss).chosen()
        assert (chosen.hi_above, chosen.tilt) == (0.4, tilt)


def test_nothing_is_rerouted_unless_asked_for() -> None:
    landscape = Landscape(loss_of_lo=0.021, reroute_loss=0.0)
    assert landscape.chosen().reroute_below == 0.0
    assert all(c.reroute_below == 0.0 for c in landscape.asked)


@pytest.mark.parametrize(
    ("reroute_loss", "hi_above", "rerouting"),
    [
        (0.0, 0.4, NARROW[1]),
        (0.01, 0.4, NARROW[0]),  # 0.84% + 0.15%; the wider one would lose 1.14%
        (0.02, 0.3, NARROW[0]),  # 0.84% + 0.3% is too much; of the next point 0.63% + 0.3%
        (1.0, 0.4, Rerouting()),
    ],
)
def test_search_reroutes_as_far_as_the_loss_allows(reroute_loss: float, hi_above: float, rerouting: Rerouting) -> None:
    landscape = Landscape(loss_of_lo=0.021, reroute_loss=reroute_loss)
    chosen = landscape.chosen(reroutings=NARROW)
    assert chosen.hi_above == hi_above
    assert (chosen.reroute_below, chosen.reroute_fall) == (rerouting.below, rerouting.fall)
    assert chosen.lo_share == pytest.approx(hi_above + 0.3)
    assert sum(c.reroute_below > 0 and not c.is_lo_alone for c in landscape.asked) <= 3


def test_search_takes_lo_copies_alone_where_they_are_fine_enough() -> None:
    for lo_alone_loss, is_chosen in ((0.004, True), (0.012, False)):
        assert Landscape(loss_of_lo=0.021, lo_alone_loss=lo_alone_loss).chosen().is_lo_alone is is_chosen


def test_lo_copies_alone_are_rerouted_as_far_as_the_loss_allows_and_only_if_asked_for() -> None:
    landscape = Landscape(loss_of_lo=0.021, lo_alone_loss=0.004, reroute_loss=0.011)
    assert landscape.chosen() == lo_alone()
    assert landscape.chosen(reroutings=NARROW) == lo_alone(WIDE[1])  # 0.4% + 0.55%; at 0.7 it would lose 1.17%


def test_what_rerouting_fine_copies_changes_is_half_as_bad_as_it_looks() -> None:
    thresholds = Candidate(0.4, 0.0, 0.9, reroute_below=0.3)
    rerouted = Measured(lo_alone(WIDE[1]), loss=0.006, loss_se=0.0, kl_mean=0.02, bytes_ratio=0.1, time_ratio=0.1)
    for fine in (rerouted, replace(rerouted, candidate=thresholds, has_own_hi=True)):
        assert fine.expected_loss == pytest.approx((0.006 + 0.02) / 3)
        plain = replace(fine.candidate, reroute_below=0.0)
        assert replace(fine, candidate=plain).expected_loss == pytest.approx((0.006 + 0.04) / 3)
    assert replace(rerouted, candidate=thresholds).expected_loss == pytest.approx((0.006 + 0.04) / 3)


@pytest.mark.parametrize(
    ("reroute_loss", "hi_above", "rerouting"),
    [
        (0.0, 0.4, WIDE[2]),
        (0.003, 0.4, WIDE[1]),  # 0.84% + 0.15%; at 0.7 it would lose 1.05%
        (0.01, 0.3, WIDE[0]),  # 0.84% + 0.3% is too much; of the next point 0.63% + 0.3%
        (1.0, 0.4, Rerouting()),
    ],
)
def test_more_is_rerouted_beside_own_hi_copies(reroute_loss: float, hi_above: float, rerouting: Rerouting) -> None:
    landscape = Landscape(loss_of_lo=0.021, reroute_loss=reroute_loss)
    chosen = landscape.chosen(reroutings=WIDE)
    assert chosen.hi_above == hi_above
    assert (chosen.reroute_below, chosen.reroute_fall) == (rerouting.below, rerouting.fall)
    assert sum(c.reroute_below > 0 and not c.is_lo_alone for c in landscape.asked) <= 5


def test_tolerances_are_those_of_the_middle_layer_and_fall_with_depth() -> None:
    for rerouting, middle in zip(rerouting_ladder(WIDE_TOLERANCES, 8, 13), WIDE_TOLERANCES, strict=True):
        assert rerouting.below - 6 * rerouting.fall == pytest.approx(middle)
        assert rerouting.below / (rerouting.below - 12 * rerouting.fall) == pytest.approx(7.0)


def test_tolerances_are_larger_and_do_not_fall_where_two_experts_are_used() -> None:
    ladder = rerouting_ladder(REROUTE_TOLERANCES, 2, 8)
    assert [r.below for r in ladder] == pytest.approx([4 * t for t in REROUTE_TOLERANCES])
    assert [r.fall for r in ladder] == [0.0, 0.0]


@pytest.mark.parametrize(("n_used", "n_layers"), [(1, 12), (2, 1), (4, 12), (8, 1), (128, 48)])
def test_every_rerouting_of_a_ladder_makes_a_filter(n_used: int, n_layers: int) -> None:
    ladder = rerouting_ladder(WIDE_TOLERANCES, n_used, n_layers)
    assert all(isinstance(r.router_filter(), Reroute) for r in ladder)
    assert all(r.below - r.fall * (n_layers - 1) > 0 for r in ladder)
    assert Rerouting().router_filter() is None


def test_time_follows_from_bytes() -> None:
    speeds = Speeds(drive_bytes_s=1e9, compute_s=0.02)
    assert speeds.token_s(50e6, 50e6) == pytest.approx(0.07)  # everything is waited for
    assert speeds.token_s(15e6, 5e6) == pytest.approx(0.025)  # the drive has time
    assert speeds.token_s(50e6, 5e6) == pytest.approx(0.05)  # the drive is the limit


def test_search_never_skips_what_would_be_in_hi() -> None:
    asked = Landscape(loss_of_lo=0.0, skip_loss=0.0)
    search([Candidate(0.02, 0.0, 0.5)], [0.02], [0.01, 0.05], asked.measure, 0.01)
    assert {c.skip_below for c in asked.asked} == {0.0, 0.01}


def test_search_finds_nothing_where_nothing_is_within() -> None:
    chosen, measured = Landscape(loss_of_lo=1.0).search(0.001, NARROW)
    assert chosen is None
    assert measured[-1].candidate == FRONTIER[-1]
    assert all(m.candidate in FRONTIER for m in measured)


def test_search_measures_no_setting_twice() -> None:
    for loss_of_lo in (0.0, 0.02, 0.2):
        landscape = Landscape(loss_of_lo, skip_loss=0.0, reroute_loss=0.0)
        landscape.search(0.01, NARROW)
        assert len(set(landscape.asked)) == len(landscape.asked)


def test_at_most_three_values_of_wait_above_follow_never() -> None:
    assert wait_ladder(HI_LADDER, 0.6) == [NEVER_WAIT]
    assert wait_ladder(HI_LADDER, 0.4) == [NEVER_WAIT, 0.6, 0.5]
    for hi_above in HI_LADDER:
        waits = wait_ladder([x / 20 for x in range(20, 0, -1)], hi_above)
        assert len(waits) <= 4
        assert waits == sorted(waits, reverse=True)
        assert waits[-1] > hi_above


def test_an_unlucky_loss_does_not_lead_the_search_astray() -> None:
    landscape = Landscape(loss_of_lo=0.01 / (FRONTIER[2].hi_above + 0.05))
    unlucky = {FRONTIER[3], FRONTIER[2]}  # the first that bisection asks for, and what it ends with

    def measure(candidate: Candidate) -> Measured:
        found = landscape.measure(candidate)
        return replace(found, loss=0.0105, kl_mean=0.9 * found.loss) if candidate in unlucky else found

    chosen, measured = search(FRONTIER, HI_LADDER, (), measure, 0.01)
    assert chosen is not None
    assert chosen.candidate == FRONTIER[4]
    assert [m.candidate for m in measured][:4] == [FRONTIER[3], FRONTIER[1], FRONTIER[2], FRONTIER[4]]


def test_a_lucky_loss_is_not_taken_at_its_word() -> None:
    lucky = Measured(Candidate(1.0, 0.0, 0.9), loss=0.001, loss_se=0.006, kl_mean=0.03, bytes_ratio=0.1, time_ratio=0.1)
    sound = Measured(
        Candidate(0.3, 0.0, 0.9), loss=0.009, loss_se=0.004, kl_mean=0.008, bytes_ratio=0.3, time_ratio=0.3
    )
    by_candidate = {lucky.candidate: lucky, sound.candidate: sound}

    def measure(candidate: Candidate) -> Measured:
        return by_candidate.get(candidate, replace(sound, candidate=candidate, loss=1.0))

    chosen, measured = search([lucky.candidate, sound.candidate], (), (), measure, 0.01)
    assert lucky in measured
    assert chosen == sound

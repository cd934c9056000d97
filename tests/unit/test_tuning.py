"""`hobbit tune`: the search, the thresholds of a target mix, and the file that keeps the result."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sample_tuning import TUNING

from hobbit_py.mixed import DEFAULT_TILT, default_lo_share, default_policy, device_policy, format_loss
from hobbit_py.policies import HI, WeightThresholds
from hobbit_py.tune import load_tuning, save_tuning, tuning_path
from hobbit_py.tune.routing import RoutingRecorder, hi_thresholds, mix_thresholds, skip_thresholds
from hobbit_py.tune.search import LO_SHARES, NEVER_WAIT, TILTS, Candidate, Measured, Speeds, search


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    model, lo = tmp_path / "model.gguf", tmp_path / "model.lo-Q2_K.gguf"
    model.write_bytes(b"m" * 1000)
    lo.write_bytes(b"l" * 300)
    return model, lo


HI_LADDER, SKIP_LADDER = [0.6, 0.3, 0.1], [0.02, 0.05]


class Landscape:
    """A made-up model: what settings lose and read."""

    def __init__(
        self, loss_of_lo: float, skip_loss: float = 1.0, never_wait_loss: float = 1.0, flat_loss: float = 1.0
    ) -> None:
        self.loss_of_lo, self.skip_loss, self.never_wait_loss = loss_of_lo, skip_loss, never_wait_loss
        self.flat_loss = flat_loss
        self.asked: list[Candidate] = []

    def measure(self, candidate: Candidate) -> Measured:
        self.asked.append(candidate)
        loss = self.loss_of_lo * candidate.hi_above + self.skip_loss * candidate.skip_below
        loss += self.never_wait_loss * max(0.0, candidate.wait_above - candidate.hi_above)
        loss += 0.0 if candidate.tilt else self.flat_loss
        bytes_ratio = 0.9 - candidate.hi_above - candidate.skip_below + 0.1 * abs(candidate.lo_share - 0.75)
        bytes_ratio += 0.01 * candidate.tilt
        return Measured(candidate, loss, 0.0, 0.0, bytes_ratio, bytes_ratio - 0.1 * candidate.wait_above)

    def search(self, max_loss: float) -> tuple[Measured | None, list[Measured]]:
        return search(HI_LADDER, SKIP_LADDER, self.measure, max_loss)


def test_search_takes_the_first_step_within_the_loss() -> None:
    landscape = Landscape(loss_of_lo=0.02)
    chosen, measured = landscape.search(0.01)
    assert chosen is not None
    assert (chosen.candidate.hi_above, chosen.candidate.skip_below) == (0.3, 0.0)  # 0.6 loses 1.2%
    assert [m.candidate for m in measured] == landscape.asked
    assert chosen.candidate.lo_share == 0.75


def test_search_skips_as_far_as_the_loss_allows() -> None:
    chosen, _ = Landscape(loss_of_lo=0.0, skip_loss=0.3).search(0.01)
    assert chosen is not None
    assert chosen.candidate == Candidate(0.6, 0.02, 0.75)  # 0.05 would lose 1.5%


def test_search_waits_for_as_little_as_the_loss_allows() -> None:
    for never_wait_loss, wait_above in ((0.0, NEVER_WAIT), (0.01, 0.6), (1.0, 0.0)):
        chosen, _ = Landscape(loss_of_lo=0.02, never_wait_loss=never_wait_loss).search(0.01)
        assert chosen is not None
        assert (chosen.candidate.hi_above, chosen.candidate.wait_above) == (0.3, wait_above)


def test_search_tilts_only_where_the_loss_asks_for_it() -> None:
    for flat_loss, tilt in ((0.001, 0.0), (0.01, TILTS[0])):
        chosen, _ = Landscape(loss_of_lo=0.02, flat_loss=flat_loss).search(0.01)
        assert chosen is not None
        assert (chosen.candidate.hi_above, chosen.candidate.tilt) == (0.3, tilt)


def test_time_follows_from_bytes() -> None:
    speeds = Speeds(drive_bytes_s=1e9, compute_s=0.02)
    assert speeds.token_s(50e6, 50e6) == pytest.approx(0.07)  # everything is waited for
    assert speeds.token_s(15e6, 5e6) == pytest.approx(0.025)  # the drive has time
    assert speeds.token_s(50e6, 5e6) == pytest.approx(0.05)  # the drive is the limit


def test_search_never_skips_what_would_be_in_hi() -> None:
    asked = Landscape(loss_of_lo=0.0, skip_loss=0.0)
    search([0.02], [0.01, 0.05], asked.measure, 0.01)
    assert {c.skip_below for c in asked.asked} == {0.0, 0.01}


def test_search_finds_nothing_where_nothing_is_within() -> None:
    chosen, measured = Landscape(loss_of_lo=1.0).search(0.001)
    assert chosen is None
    assert [m.candidate.hi_above for m in measured] == HI_LADDER
    assert all(m.candidate.skip_below == 0.0 for m in measured)


def test_search_measures_no_setting_twice() -> None:
    for loss_of_lo in (0.0, 0.02, 0.2):
        landscape = Landscape(loss_of_lo, skip_loss=0.0)
        landscape.search(0.01)
        assert len(set(landscape.asked)) == len(landscape.asked)
        assert {c.lo_share for c in landscape.asked} <= set(LO_SHARES)


def recorded_weights() -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    rows = -np.sort(-rng.dirichlet(np.ones(8), 5000).astype(np.float32), axis=1)
    recorder = RoutingRecorder()
    for row in rows:
        assert list(recorder.choose(0, row, np.zeros(8, np.int8))) == [HI] * 8
    weights = recorder.weights()
    assert np.array_equal(weights, rows)
    return weights


def test_mix_thresholds_give_the_mix() -> None:
    weights = recorded_weights()
    scores = np.cumsum(weights, axis=1) - weights
    mix = mix_thresholds(weights)
    assert (scores <= mix.t1).mean() == pytest.approx(0.67, abs=0.001)
    assert (scores > mix.t2).mean() == pytest.approx(0.03, abs=0.001)


def test_ladders_are_quantiles_of_the_weights() -> None:
    weights = recorded_weights()
    ladder = hi_thresholds(weights)
    assert [float((weights >= t).mean()) * 8 for t in ladder] == pytest.approx([0.5, 0.75, 1.0, 1.5, 2.0], abs=0.01)
    assert [(weights < t).mean() for t in skip_thresholds(weights)] == pytest.approx([0.01, 0.03], abs=0.001)
    # With two experts used, two in hi a token would be exact mode.
    assert len(hi_thresholds(np.sort(weights[:, :2])[:, ::-1])) == 4


def test_stored_beside_the_model(pair: tuple[Path, Path]) -> None:
    model, lo = pair
    assert load_tuning([model], lo) is None
    path = save_tuning([model], lo, TUNING)
    assert path == model.with_name("model.hobbit.json")
    assert load_tuning([model], lo) == TUNING
    save_tuning([model], lo, replace(TUNING, hi_above=0.5))
    loaded = load_tuning([model], lo)
    assert loaded is not None
    assert loaded.hi_above == 0.5
    assert sorted(p.name for p in model.parent.iterdir()) == ["model.gguf", "model.hobbit.json", "model.lo-Q2_K.gguf"]


def test_a_failed_write_leaves_the_old_file(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, lo = pair
    path = save_tuning([model], lo, TUNING)
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_tuning([model], lo, replace(TUNING, hi_above=0.5))
    assert path.read_bytes() == before
    assert len(list(model.parent.iterdir())) == 3


@pytest.mark.parametrize("changed", ["model", "lo", "lo renamed"])
def test_counts_for_these_very_files_alone(pair: tuple[Path, Path], changed: str) -> None:
    model, lo = pair
    save_tuning([model], lo, TUNING)
    if changed == "model":
        model.write_bytes(b"m" * 1001)
    elif changed == "lo":
        lo.write_bytes(b"l" * 301)
    else:
        lo = lo.rename(lo.with_name("model.lo-Q3_K.gguf"))
    assert load_tuning([model], lo) is None


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"hi_above": None},
        {"hi_above": "0.5"},
        {"hi_above": True},
        {"hi_above": 1.5},
        {"lo_share": -0.1},
        {"loss": float("nan")},
        {"tokens": 10**400},
        {"model": []},
    ],
    ids=lambda change: str(change)[:40],
)
def test_what_cannot_be_used_counts_as_absent(pair: tuple[Path, Path], change: dict[str, object]) -> None:
    model, lo = pair
    path = save_tuning([model], lo, TUNING)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert load_tuning([model], lo) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000], ids=lambda c: repr(c[:4]))
def test_a_damaged_file_counts_as_absent(pair: tuple[Path, Path], content: bytes) -> None:
    model, lo = pair
    tuning_path(model).write_bytes(content)
    assert load_tuning([model], lo) is None


def test_one_file_for_all_parts_of_a_split_model() -> None:
    assert tuning_path("a/m-00001-of-00003.gguf") == Path("a/m.hobbit.json")


@pytest.mark.parametrize(("loss", "text"), [(0.004, "0.4%"), (0.0, "0.0%"), (-0.0001, "0.0%"), (-0.004, "-0.4%")])
def test_loss_in_words(loss: float, text: str) -> None:
    assert format_loss(loss) == text


def test_defaults_depend_on_the_experts_used() -> None:
    assert default_policy(2, 0.5, 8) == WeightThresholds.tilted(0.5, DEFAULT_TILT, 8)
    for memory_share, hi_above in ((0.1, 0.21), (0.25, 0.21), (0.375, 0.225), (0.5, 0.24), (0.9, 0.24)):
        policy = default_policy(8, memory_share, 13)
        assert policy.hi_above - 6 * policy.fall == pytest.approx(hi_above)
        assert policy.hi_above / (policy.hi_above - 12 * policy.fall) == pytest.approx(1.25 / 0.75)
        assert policy == WeightThresholds(policy.hi_above, fall=policy.fall)
    assert device_policy(2, 0.43) == WeightThresholds(0.8)
    assert device_policy(2, 0.53) == WeightThresholds(1.0)
    assert device_policy(8, 0.53) == WeightThresholds(0.4)


def test_by_default_lo_copies_get_no_more_than_makes_every_expert_resident() -> None:
    lo_ratio = 0.4
    for memory_share in (0.65, 0.9):
        lo_share = default_lo_share(8, memory_share, lo_ratio)
        n_in_hi, n_in_lo = memory_share * (1 - lo_share), memory_share * lo_share / lo_ratio
        assert n_in_hi + n_in_lo == pytest.approx(1)
    assert default_lo_share(8, 0.25, lo_ratio) == default_lo_share(8, 0.5, lo_ratio) == 0.45  # no room for all
    assert default_lo_share(2, 0.25, lo_ratio) == 0.25
    assert default_lo_share(8, 1.0, lo_ratio) == 0.0
    assert default_lo_share(8, 0.5, 1.2) == 0.45  # copies that are no smaller

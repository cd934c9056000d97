"""Counters, gauges and the figures made of them."""

import mmap
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

from hobbit_py.stats import Stats, format_share, peak_rss_bytes

GAUGES = (
    "resident_bytes_hi",
    "resident_bytes_lo",
    "expert_memory_bytes",
    "memory_bytes",
    "precision",
    "dropped_mass",
    "resident_bytes_device",
    "host_rounds_as_device",
    "device_expert_bytes",
)


def test_hit_rate_counts_both_precisions_and_skips() -> None:
    stats = Stats(n_hits_hi=5, n_hits_lo=1, n_misses_hi=2, n_misses_lo=1, n_skipped=3, n_streamed=1000)
    assert stats.hit_rate == pytest.approx(6 / 12)


def test_hit_rate_of_nothing_is_one_and_is_not_shown() -> None:
    for stats in (Stats(), Stats(n_streamed=64)):
        assert (stats.hit_rate, stats.measured_hit_rate) == (1.0, None)
        assert format_share(stats.measured_hit_rate) == "-"
    assert format_share(Stats(n_hits_hi=3, n_misses_lo=1).measured_hit_rate) == "75.0%"


def test_read_bytes_is_the_sum() -> None:
    assert Stats(read_bytes_hi=30, read_bytes_lo=12).read_bytes == 42


def test_since_subtracts_counters_and_keeps_gauges() -> None:
    counters = [field.name for field in fields(Stats) if field.name not in GAUGES]
    earlier = Stats(
        **dict.fromkeys(counters, 10), resident_bytes_hi=7, memory_bytes=9, precision="exact", dropped_mass=0.1
    )
    later = Stats(
        **{name: 10 + idx for idx, name in enumerate(counters)},
        resident_bytes_hi=70,
        resident_bytes_lo=5,
        expert_memory_bytes=6,
        memory_bytes=90,
        precision="mixed",
        dropped_mass=0.25,
    )
    delta = later.since(earlier)
    assert {name: getattr(delta, name) for name in counters} == {name: idx for idx, name in enumerate(counters)}
    assert {name: getattr(delta, name) for name in GAUGES} == {name: getattr(later, name) for name in GAUGES}


def test_stats_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Stats().n_reads = 1  # type: ignore[misc]


def test_peak_rss_follows_memory_that_is_touched() -> None:
    n_bytes = 64 << 20
    before = peak_rss_bytes()
    assert 1 << 20 < before < 1 << 40
    # More than whatever the process touched earlier and gave back.
    with mmap.mmap(-1, before + n_bytes) as block:
        for offset in range(0, len(block), mmap.PAGESIZE):
            block[offset] = 1
    assert peak_rss_bytes() >= before + n_bytes - (1 << 20)


@pytest.mark.parametrize(("platform", "unit_bytes"), [("darwin", 1), ("freebsd", 1024)])
def test_peak_rss_without_proc(monkeypatch: pytest.MonkeyPatch, platform: str, unit_bytes: int) -> None:
    def no_proc(*_args: object, **_kwargs: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.open", no_proc)
    monkeypatch.setattr("resource.getrusage", lambda _who: type("Usage", (), {"ru_maxrss": 5000})())
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_rss_bytes() == 5000 * unit_bytes

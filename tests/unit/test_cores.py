"""How many threads compute, and how long they spin, by the number of cores."""

import pytest

from hobbit_py import cores


@pytest.mark.parametrize(("n_cores", "n_threads"), [(1, 1), (2, 2), (3, 3), (4, 3), (8, 7), (16, 14), (32, 28)])
def test_reads_get_a_core_where_there_are_many(monkeypatch: pytest.MonkeyPatch, n_cores: int, n_threads: int) -> None:
    monkeypatch.setattr(cores, "n_usable_cores", lambda: n_cores)
    assert cores.n_compute_threads(has_reads=True) == n_threads
    assert cores.n_compute_threads(has_reads=False) == n_cores


def test_threads_spin_longer_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for n_cores in (2, 16):
        monkeypatch.setattr(cores, "n_usable_cores", lambda n=n_cores: n)
        counts.append(cores.openmp_spin_count())
    assert counts[0] < counts[1]

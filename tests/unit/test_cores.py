"""What threads do with cores, by their number."""

import pytest

from hobbit_py import cores


@pytest.mark.parametrize(("n_cores", "n_spare"), [(1, 0), (2, 0), (3, 0), (4, 1), (8, 1), (16, 2), (32, 4)])
def test_reads_get_a_core_where_there_are_many(monkeypatch: pytest.MonkeyPatch, n_cores: int, n_spare: int) -> None:
    monkeypatch.setattr(cores, "n_usable_cores", lambda: n_cores)
    assert cores.n_spare_cores() == n_spare


def test_threads_spin_longer_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for n_cores in (2, 16):
        monkeypatch.setattr(cores, "n_usable_cores", lambda n=n_cores: n)
        counts.append(cores.openmp_spin_count())
    assert counts[0] < counts[1]

"""The memory budget: what the machine and its cgroup have free, and when a budget is too small."""

import os
from pathlib import Path

import pytest

from hobbit_py import MemoryBudgetError, UsageError, memory
from hobbit_py.memory import MemoryNeeds, check_budget

MIB = 1 << 20
GIB = 1 << 30
NEEDS = MemoryNeeds(
    process_bytes=60 * MIB,
    dense_bytes=100 * MIB,
    context_bytes=20 * MIB,
    compute_bytes=10 * MIB,
    output_bytes=0,
    io_bytes=0,
)


class Machine:
    """A fake /proc and /sys/fs/cgroup."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc = folder / "proc"
        self.cgroup = folder / "cgroup"
        monkeypatch.setattr(memory, "_PROC", self.proc)
        monkeypatch.setattr(memory, "_CGROUP_ROOT", self.cgroup)
        self.write(self.proc / "meminfo", f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {8 * GIB // 1024} kB\n")
        self.write(self.proc / "self/statm", "1000 500 100 1 0 400 0\n")

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def join(self, *lines: str) -> None:
        self.write(self.proc / "self/cgroup", "".join(f"{line}\n" for line in lines))

    def limit_v2(self, path: str, used: int, *, reclaimable: int = 0, **limits: int | str) -> None:
        folder = self.cgroup / path
        self.write(folder / "memory.current", f"{used}\n")
        self.write(
            folder / "memory.stat",
            f"anon {used - reclaimable}\ninactive_file {reclaimable // 2}\nactive_file {reclaimable // 2}\n",
        )
        for name, limit in limits.items():
            self.write(folder / f"memory.{name}", f"{limit}\n")

    def limit_v1(self, path: str, limit: int, used: int, *, reclaimable: int = 0) -> None:
        folder = self.cgroup / "memory" / path
        self.write(folder / "memory.limit_in_bytes", f"{limit}\n")
        self.write(folder / "memory.usage_in_bytes", f"{used}\n")
        self.write(
            folder / "memory.stat",
            f"active_file 0\ninactive_file 0\ntotal_inactive_file {reclaimable}\ntotal_active_file 0\n",
        )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_no_cgroup(machine: Machine) -> None:
    assert memory.available_bytes() == 8 * GIB
    assert memory.total_memory_bytes() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.resident_bytes() == 500 * os.sysconf("SC_PAGE_SIZE")


def test_v2_limit(machine: Machine) -> None:
    machine.join("0::/user.slice/app")
    machine.limit_v2("user.slice/app", 300 * MIB, reclaimable=100 * MIB, max=GIB, high="max")
    assert memory.total_memory_bytes() == GIB
    assert memory.available_bytes() == GIB - 200 * MIB


def test_v2_high_binds(machine: Machine) -> None:
    machine.join("0::/app")
    machine.limit_v2("app", 100 * MIB, max="max", high=512 * MIB)
    assert memory.available_bytes() == 412 * MIB


def test_v2_parent_binds(machine: Machine) -> None:
    machine.join("0::/a/b/c")
    machine.limit_v2("a/b/c", 10 * MIB, max="max")
    machine.limit_v2("a/b", 20 * MIB, max=4 * GIB)
    machine.limit_v2("a", 1500 * MIB, max=2 * GIB)
    assert memory.available_bytes() == 2 * GIB - 1500 * MIB
    assert memory.total_memory_bytes() == 2 * GIB


@pytest.mark.parametrize("path", ["/", "/docker/0123", "/../../elsewhere"])
def test_v2_in_a_container(machine: Machine, path: str) -> None:
    """The path may be the host's: the container's limit is in the root's files."""
    machine.join(f"0::{path}")
    machine.limit_v2("", 0, max=3 * GIB)
    assert memory.available_bytes() == 3 * GIB


def test_v1_limit(machine: Machine) -> None:
    machine.join("5:devices:/", "4:cpu,memory:/box", "0::/")
    machine.limit_v1("box", 700 * MIB, 500 * MIB, reclaimable=150 * MIB)
    machine.limit_v1("", 9223372036854771712, 8 * GIB)
    assert memory.total_memory_bytes() == 700 * MIB
    assert memory.available_bytes() == 350 * MIB


def test_v1_in_a_container(machine: Machine) -> None:
    machine.join("4:memory:/docker/0123")
    machine.limit_v1("", 2 * GIB, GIB)
    assert memory.available_bytes() == GIB


def test_a_cgroup_above_its_limit_has_nothing_free(machine: Machine) -> None:
    machine.join("0::/app")
    machine.limit_v2("app", 600 * MIB, max=512 * MIB)
    assert memory.available_bytes() == 0


def test_damaged_cgroup_files_are_passed_over(machine: Machine) -> None:
    machine.join("0::/app")
    machine.write(machine.cgroup / "app/memory.max", "lots\n")
    machine.write(machine.cgroup / "app/memory.current", "1\n")
    assert memory.available_bytes() == 8 * GIB


@pytest.mark.parametrize(
    ("free", "expected"), [(64 * GIB, 0.9 * 64 * GIB), (4 * GIB, 3.5 * GIB), (GIB, 0.75 * GIB), (0, 0)]
)
def test_auto_leaves_headroom(monkeypatch: pytest.MonkeyPatch, free: int, expected: float) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: free)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 50 * MIB)
    assert memory.auto_budget() == pytest.approx(expected + 50 * MIB, abs=1)


def test_parse_budget(machine: Machine) -> None:
    machine.join("0::/app")
    machine.limit_v2("app", 0, max=2 * GIB)
    assert memory.parse_budget("auto") is None
    assert memory.parse_budget("1GiB") == GIB
    assert memory.parse_budget(123456789) == 123456789
    with pytest.raises(UsageError, match=r"3\.00 GiB is more than the 2\.00 GiB that this machine has"):
        memory.parse_budget("3GiB")


def test_margin_grows_with_the_model() -> None:
    assert NEEDS.total_bytes == (60 + 100 + 20 + 10 + 32) * MIB
    large = MemoryNeeds(0, 100 * GIB, 0, 0, 0, 0)
    assert large.total_bytes == 101 * GIB


@pytest.mark.parametrize("is_auto", [False, True])
def test_budget_below_the_floor_names_one_that_works(is_auto: bool) -> None:
    token_slot_bytes = 5 * MIB + 1
    floor_bytes = NEEDS.total_bytes + token_slot_bytes
    check_budget(floor_bytes, NEEDS, token_slot_bytes, is_auto=is_auto)
    with pytest.raises(MemoryBudgetError) as caught:
        check_budget(floor_bytes - 1, NEEDS, token_slot_bytes, is_auto=is_auto)
    error = caught.value
    assert f"{error.floor_bytes // MIB}MiB" in str(error)
    assert floor_bytes < error.floor_bytes < floor_bytes + 16 * MIB
    assert ("free memory" in str(error)) == is_auto
    check_budget(error.floor_bytes, NEEDS, token_slot_bytes)

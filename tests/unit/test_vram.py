"""Which device computes and what a VRAM budget leaves for experts."""

from dataclasses import dataclass

import pytest

from hobbit_py.errors import MemoryBudgetError, UsageError
from hobbit_py.vram import DeviceChoice, auto_vram, check_vram, choose_device, parse_vram, slot_bytes

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    name: str
    is_gpu: bool = False
    is_unified: bool = False


CPU = Device("CPU")
GPU = Device("CUDA0", is_gpu=True)
JETSON = Device("CUDA0", is_gpu=True, is_unified=True)


def choose(
    devices: list[Device],
    *,
    device: str | None = None,
    vram: str | None = None,
    expert_vram: str | None = None,
    unified: bool | None = None,
) -> DeviceChoice:
    return choose_device(devices, device=device, vram=vram, expert_vram=expert_vram, unified=unified)


def test_nothing_said_is_the_cpu() -> None:
    assert choose([GPU, CPU]) == DeviceChoice("CPU", has_tier=False)


def test_a_budget_takes_the_first_gpu() -> None:
    assert choose([GPU, Device("CUDA1", is_gpu=True), CPU], vram="8GiB") == DeviceChoice("CUDA0", has_tier=True)
    assert choose([GPU, CPU], vram="auto") == DeviceChoice("CUDA0", has_tier=True)
    assert choose([GPU, CPU], device="CUDA0") == DeviceChoice("CUDA0", has_tier=True)


def test_shared_memory_has_no_tier() -> None:
    assert choose([JETSON, CPU], device="CUDA0") == DeviceChoice("CUDA0", is_unified=True)
    assert choose([JETSON, CPU], unified=True) == DeviceChoice("CUDA0", is_unified=True)
    assert choose([GPU, CPU], unified=True) == DeviceChoice("CUDA0", is_unified=True)
    assert choose([JETSON, CPU], vram="8GiB", unified=False) == DeviceChoice("CUDA0", has_tier=True)
    with pytest.raises(UsageError, match="shares the main memory"):
        choose([JETSON, CPU], vram="8GiB")


def test_the_cpu_stands_for_a_device() -> None:
    assert choose([CPU], device="CPU", expert_vram="8MiB") == DeviceChoice("CPU", has_tier=True)
    with pytest.raises(UsageError, match="no memory of its own"):
        choose([CPU], device="CPU", vram="8GiB")


@pytest.mark.parametrize("wish", [{"vram": "8GiB"}, {"vram": "auto"}, {"expert_vram": "1GiB"}, {"unified": True}])
def test_a_build_without_a_gpu(wish: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"has none \(only: CPU\).*CMAKE_ARGS=-DGGML_CUDA=on"):
        choose([CPU], **wish)  # type: ignore[arg-type]


def test_an_unknown_device_names_the_known() -> None:
    with pytest.raises(UsageError, match=r"'CUDA7'.*CUDA0, CPU"):
        choose([GPU, CPU], device="CUDA7")


def test_both_budgets() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        choose([GPU, CPU], vram="8GiB", expert_vram="4GiB")


def test_parse() -> None:
    assert parse_vram(None) is None
    assert parse_vram("auto") is None
    assert parse_vram("2GiB") == 2 * GIB


def test_auto_leaves_room() -> None:
    assert auto_vram(24 * GIB, 0) == pytest.approx(24 * GIB * 0.95, abs=2)
    assert auto_vram(GIB, 0) == GIB - (256 << 20)
    assert auto_vram(GIB, 4 * GIB) == 5 * GIB - (256 << 20)
    assert auto_vram(0, 0) == 0


def test_a_budget_below_the_floor_names_one_that_works() -> None:
    with pytest.raises(MemoryBudgetError, match="too small") as raised:
        check_vram(GIB, 2 * GIB)
    check_vram(raised.value.floor_bytes, 2 * GIB)
    assert slot_bytes(raised.value.floor_bytes, 2 * GIB) >= 0
    assert slot_bytes(8 * GIB, 2 * GIB) > 5 * GIB

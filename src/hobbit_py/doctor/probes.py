"""Looks at the machine: what is mapped, what the processor has, whether the kernel lets us use io_uring."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from pathlib import Path

_SYS_IO_URING_SETUP = 425  # the same number on every architecture: it is newer than their common table
_IO_URING_PARAMS_BYTES = 120
_FEATURES_OF_FLAGS = {"avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512", "asimddp": "DOTPROD"}


def mapped_libraries(name: str) -> list[str] | None:
    """Paths of the mapped shared libraries whose file name begins with `name`; None where the system does not tell."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if Path(path).name.startswith(name))


def unused_features(system_info: str, flags: frozenset[str]) -> list[str]:
    """Vector extensions that the processor has (its flags) and that ggml was built without.

    `system_info` is what llama_print_system_info returns: "AVX = 1 | AVX2 = 1 | ...".
    """
    built = set(re.findall(r"(\w+) = 1", system_info))
    return [feature for flag, feature in _FEATURES_OF_FLAGS.items() if flag in flags and feature not in built]


def processor_flags() -> frozenset[str]:
    """The processor's features as the kernel names them; empty where unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def io_uring_error() -> str | None:
    """None if the kernel lets this process make an io_uring, else why not."""
    if not sys.platform.startswith("linux"):
        return f"{platform.system()} has none"
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(_IO_URING_PARAMS_BYTES)
    descriptor = libc.syscall(ctypes.c_long(_SYS_IO_URING_SETUP), ctypes.c_uint(1), parameters)
    if descriptor < 0:
        return os.strerror(ctypes.get_errno())
    os.close(descriptor)
    return None


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver shows."""
    folders = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    found = []
    for path in folders:
        try:
            match = re.search(r"^Model:\s*(.*)$", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        except OSError:
            continue
        found.append(match[1].strip() if match else path.parent.name)
    if not found and Path("/dev/nvhost-gpu").exists():  # Jetson's driver has no such table
        found.append("NVIDIA Tegra")
    return found

"""The checks: each looks at one thing and says what it found, and what to do if that is not as it should be."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..bench.drive import DriveError, best_random_reads
from ..bundled import bundled_model
from ..cores import n_usable_cores
from ..errors import HobbitError, HostError
from ..memory import available_bytes, total_memory_bytes
from ..sizes import format_bytes
from . import probes

_MIN_FREE_BYTES = 2 << 30
_SLOW_DRIVE_BYTES_S = 500e6  # SATA's limit: less, and decoding waits for the drive most of the time
_READ_BYTES = 1 << 20
_SPIN_COUNT_HIGH = 1_000_000


class Level(str, Enum):
    """How a check ended."""

    ok = "ok"
    warning = "warning"
    error = "error"


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, what was found, and the remedy where there is something to remedy."""

    name: str
    level: Level
    found: str
    fix: str = ""


def run_checks(model: Path | None = None) -> Iterator[Check]:
    """Runs all checks; the drive is measured on the model's file if one is given, else on the bundled model's."""
    host = _check_host()
    yield host
    checks: list[Callable[[], Check]] = [_check_python]
    if host.level is Level.ok:
        checks += [_check_one_ggml, _check_cpu_features]
    checks += [_check_threads, _check_memory, _check_address_space]
    for check in checks:
        yield check()
    if model is not None and host.level is Level.ok:
        yield _check_model(model)
    yield _check_drive(model)
    yield _check_io_uring()
    yield _check_gpu()


def _check_host() -> Check:
    try:
        from .. import _host
    except HostError as error:
        return Check("llama-cpp-python", Level.error, str(error), "install the version named")
    except ImportError as error:
        fix = "install hobbit_py again: pip install --force-reinstall --no-deps hobbit_py"
        return Check("native core", Level.error, f"cannot be loaded: {error}", fix)
    found = (
        f"llama-cpp-python {_host.SUPPORTED_LLAMA_CPP_PYTHON}, ggml {_host.SUPPORTED_GGML}, backend interface "
        f"{_host.SUPPORTED_BACKEND_API}: the versions this release needs"
    )
    return Check("llama-cpp-python", Level.ok, found)


def _check_python() -> Check:
    return Check("Python", Level.ok, f"{platform.python_version()} on {platform.platform()}")


def _check_one_ggml() -> Check:
    found = probes.mapped_libraries("libggml-base")
    if found is None:
        return Check("one ggml", Level.warning, f"{platform.system()} does not tell which libraries are mapped")
    if len(found) == 1:
        return Check("one ggml", Level.ok, found[0])
    fix = "remove the other package, or LD_PRELOAD and LD_LIBRARY_PATH entries, that bring a second ggml"
    return Check("one ggml", Level.error, f"{len(found)} are mapped: {', '.join(found) or 'none'}", fix)


def _check_cpu_features() -> Check:
    from .. import _host

    unused = probes.unused_features(_host.llama_cpp.llama_print_system_info().decode(), probes.processor_flags())
    if not unused:
        return Check("CPU features", Level.ok, "llama-cpp-python uses the vector extensions of this processor")
    fix = (
        "CMAKE_ARGS=-DGGML_NATIVE=ON pip install --force-reinstall --no-deps --no-cache-dir "
        f"llama-cpp-python=={_host.SUPPORTED_LLAMA_CPP_PYTHON}"
    )
    return Check("CPU features", Level.warning, f"llama-cpp-python was built without {', '.join(unused)}", fix)


def _check_threads() -> Check:
    n_usable = n_usable_cores()
    found = f"{n_usable} of {os.cpu_count()} may be used"
    spin = os.environ.get("GOMP_SPINCOUNT", "")
    active = os.environ.get("OMP_WAIT_POLICY", "").lower() == "active"
    if active or spin == "infinite" or (spin.isdecimal() and int(spin) >= _SPIN_COUNT_HIGH):
        fix = "unset OMP_WAIT_POLICY and GOMP_SPINCOUNT: spinning threads take the cores that reads need"
        return Check("cores", Level.warning, f"{found}, and OpenMP's threads spin while they wait", fix)
    return Check("cores", Level.ok, found)


def _check_memory() -> Check:
    free, total = available_bytes(), total_memory_bytes()
    found = f"{format_bytes(free)} free of {format_bytes(total or 0)}, limits of control groups included"
    if free >= _MIN_FREE_BYTES:
        return Check("memory", Level.ok, found)
    return Check("memory", Level.warning, found, "end other programs, or raise the container's limit")


def _check_address_space() -> Check:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return Check("address space", Level.ok, "not limited")
    fix = "ulimit -v unlimited: the experts' tensors reserve addresses, not memory, as large as the model"
    return Check("address space", Level.warning, f"limited to {format_bytes(limit)}", fix)


def _check_model(path: Path) -> Check:
    from ..inspection import inspect_model

    try:
        model = inspect_model(path)
    except HobbitError as error:
        return Check("model", Level.error, str(error), "see above")
    if not model.groups:
        fix = "use llama.cpp itself; hobbit_py is for mixtures of experts"
        return Check("model", Level.warning, f"{model.architecture} without experts", fix)
    found = (
        f"{model.architecture}, {format_bytes(model.expert_bytes)} of experts, {format_bytes(model.dense_bytes)} others"
    )
    return Check("model", Level.ok, found)


def _check_drive(model: Path | None) -> Check:
    path = model or bundled_model()
    try:
        bytes_s = best_random_reads(path, _READ_BYTES)
    except DriveError as error:
        return Check("drive", Level.warning, str(error), "keep models on a local file system with direct reads")
    except OSError as error:
        return Check("drive", Level.error, f"{str(path)!r} cannot be read: {error.strerror}", "name another file")
    found = f"{bytes_s / 1e6:.0f} MB/s at direct random reads of {format_bytes(_READ_BYTES)} from {path.parent}"
    if bytes_s < _SLOW_DRIVE_BYTES_S:
        fix = "keep models on an NVMe drive; 'hobbit pack' makes small copies of experts that need fewer bytes"
        return Check("drive", Level.warning, found, fix)
    return Check("drive", Level.ok, found)


def _check_io_uring() -> Check:
    error = probes.io_uring_error()
    if error is None:
        return Check("io_uring", Level.ok, "available")
    return Check("io_uring", Level.ok, f"not available ({error}): experts are read by threads, which needs no io_uring")


def _check_gpu() -> Check:
    found = probes.gpus()
    if not found:
        return Check("GPU", Level.ok, "none found, none is needed")
    if "llama_cpp" in sys.modules and sys.modules["llama_cpp"].llama_supports_gpu_offload():
        return Check("GPU", Level.ok, f"{', '.join(found)}; llama-cpp-python was built with GPU support")
    return Check("GPU", Level.ok, f"{', '.join(found)}; llama-cpp-python was built without GPU support")

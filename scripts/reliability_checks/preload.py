"""Compiles the libraries that make the world fail, and talks to them from inside the process they are loaded into."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

HERE = Path(__file__).parent
PRELOADED = "HOBBIT_PRELOADED"
FOREVER = 2**63


def build(name: str, folder: Path) -> Path:
    """The shared library made of `<name>.c`."""
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    library = folder / f"{name}.so"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", library, HERE / f"{name}.c", "-ldl", "-lpthread"], check=True)
    return library


def run_preloaded(name: str, arguments: Sequence[str]) -> int | None:
    """Runs this program again with the library loaded; None if this is that run already."""
    if PRELOADED in os.environ:
        return None
    with tempfile.TemporaryDirectory(prefix="hobbit-reliability.") as folder:
        library = str(build(name, Path(folder)))
        environment = {**os.environ, **preloading(library)}
        return subprocess.run([sys.executable, *arguments], env=environment, check=False).returncode


def preloading(library: str) -> dict[str, str]:
    """Environment that loads the library; behind what is preloaded already, since a sanitizer has to come first."""
    others = os.environ.get("LD_PRELOAD")
    return {"LD_PRELOAD": f"{others}:{library}" if others else library, PRELOADED: library}


class Kind(IntEnum):
    """What happens to a read; as in read_faults.c."""

    FAIL = 0
    SHORTEN = 1
    STALL = 2
    CALL = 3


@dataclass(frozen=True)
class Fault:
    """Reads number `first` to `last` of the chosen files; `value`: errno, bytes of 1000, milliseconds."""

    first: int
    last: int
    kind: Kind
    value: int = 0

    def __str__(self) -> str:
        what = errno.errorcode.get(self.value) if self.kind is Kind.FAIL else f"{self.kind.name.lower()} {self.value}"
        last = "" if self.last == self.first else "-..." if self.last >= FOREVER else f"-{self.last}"
        return f"{what} at {self.first}{last}"


class _NativeFault(ctypes.Structure):
    _fields_ = (
        ("first", ctypes.c_uint64),
        ("last", ctypes.c_uint64),
        ("kind", ctypes.c_int32),
        ("value", ctypes.c_int32),
    )


_Callback = ctypes.CFUNCTYPE(None)


class ReadFaults:
    """The preloaded library of this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ[PRELOADED])
        for name in ("faults_reads", "faults_hit", "faults_misaligned"):
            getattr(self._library, name).restype = ctypes.c_uint64
        self._callback = _Callback()

    def script(self, path_part: str, faults: Sequence[Fault], on_call: Callable[[], None] | None = None) -> None:
        """What happens to reads of files whose path contains `path_part` from now on."""
        native = (_NativeFault * max(1, len(faults)))(*((f.first, f.last, f.kind, f.value) for f in faults))
        callback = _Callback(on_call or (lambda: None))
        self._library.faults_script(path_part.encode(), native, len(faults), callback)
        self._callback = callback  # kept for as long as it may be called

    def clear(self) -> None:
        """Nothing fails any more."""
        self.script("", [])

    @property
    def n_reads(self) -> int:
        return int(self._library.faults_reads())

    @property
    def n_hit(self) -> int:
        """Reads to which something happened."""
        return int(self._library.faults_hit())

    @property
    def n_misaligned(self) -> int:
        """Direct reads that a drive of HOBBIT_FAULTS_ALIGN would refuse."""
        return int(self._library.faults_misaligned())

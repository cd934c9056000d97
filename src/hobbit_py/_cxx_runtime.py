"""Whether a shared library brings a C++ runtime of its own into the process.

A compiler that finds no shared libstdc++ links the static one into every library, which then exports it. The dynamic
linker makes some of its symbols one for the process, such as the numbers of a locale's facets, and leaves others apart.
So where two copies are loaded, and numpy loads the shared one, the second finds one facet in the place of another: a
number is written to a stream through a codecvt, which crashes or writes nothing. Which copy that is depends on what was
imported first, so nothing but the build can mend it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_WRITE_NUMBER = "_ZNSo9_M_insertIlEERSoT_"  # std::ostream << long
_SHARED_RUNTIME = "libstdc++.so"


class _SymbolInfo(ctypes.Structure):
    """Dl_info."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("file_address", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("symbol_address", ctypes.c_void_p),
    )


def own_runtime(library: ctypes.CDLL) -> str | None:
    """The file name of the library whose copy of libstdc++ `library` uses; None: it is the shared one, or hidden."""
    try:
        address = ctypes.cast(getattr(library, _WRITE_NUMBER), ctypes.c_void_p)
        dladdr = ctypes.CDLL(None).dladdr
    except AttributeError:  # another C++ library, or one that nobody else can see
        return None
    info = _SymbolInfo()
    if not dladdr(address, ctypes.byref(info)) or info.file is None:
        return None
    name = Path(os.fsdecode(info.file)).name
    return None if name.startswith(_SHARED_RUNTIME) else name

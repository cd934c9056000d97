"""Memory as the runtime keeps experts in: what is measured in other memory is not what a model gets."""

from __future__ import annotations

import contextlib
import mmap

_HUGE_PAGE_BYTES = 2 << 20


def arena_like(n_bytes: int) -> mmap.mmap:
    """At least `n_bytes` of private memory, there already and, where there are any, in huge pages.

    A read into pages of 4 KiB is handed to the drive page by page, on a virtual machine half as fast; a product over
    them waits for the TLB.
    """
    n_bytes = -(-n_bytes // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    buffer = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            buffer.madvise(mmap.MADV_HUGEPAGE)
    for first in range(0, n_bytes, _HUGE_PAGE_BYTES):
        buffer[first : first + _HUGE_PAGE_BYTES] = bytes(_HUGE_PAGE_BYTES)
    return buffer

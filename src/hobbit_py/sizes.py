"""Byte sizes as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

from .errors import UsageError

_EXAMPLE = "write a size like 8GiB, 512MiB or 1.5GB"
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[a-z]*)", re.IGNORECASE)
# A bare letter is binary, as in llama.cpp, docker and systemd.
_UNIT_BYTES = {"": 1, "b": 1, "tb": 10**12, "gb": 10**9, "mb": 10**6, "kb": 10**3} | {
    spelling: 1 << shift
    for letter, shift in (("k", 10), ("m", 20), ("g", 30), ("t", 40))
    for spelling in (letter, f"{letter}ib")
}
_MAX_BYTES = (1 << 63) - 1


def parse_bytes(size: int | str) -> int:
    """Returns the bytes of "8GiB", "512M", "1.5GB", "4096" or a plain integer.

    KiB, MiB, GiB, TiB and the bare letters are binary; kB, MB, GB, TB are decimal; case does not matter.
    A fraction of a byte is dropped. Raises UsageError for anything else, for negative sizes and beyond 2^63-1.
    """
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        raise UsageError(f"{size!r} is not a size; {_EXAMPLE}.")
    if isinstance(size, int):
        n_bytes = size
    else:
        match = _SIZE.fullmatch(size.strip()) if size.isascii() and len(size) <= 64 else None
        if match is None:
            raise UsageError(f"{size[:64]!r} is not a size; {_EXAMPLE}.")
        unit_bytes = _UNIT_BYTES.get(match["unit"].lower())
        if unit_bytes is None:
            raise UsageError(f"{size!r} has the unknown unit {match['unit']!r}; {_EXAMPLE}.")
        n_bytes = int(Decimal(match["number"]) * unit_bytes)
    if not 0 <= n_bytes <= _MAX_BYTES:
        raise UsageError(f"The size {size} is {'negative' if n_bytes < 0 else 'beyond 2^63-1 bytes'}; {_EXAMPLE}.")
    return n_bytes


def format_bytes(n_bytes: int) -> str:
    """Returns n_bytes in binary units with about three digits: "0 B", "1.50 KiB", "12.0 GiB"."""
    if abs(n_bytes) < 1024:
        return f"{n_bytes} B"
    value, units = n_bytes / 1024, ["KiB", "MiB", "GiB", "TiB"]
    # 1023.5 and more would print as 1024.
    while abs(value) >= 1023.5 and len(units) > 1:
        value /= 1024
        del units[0]
    n_decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{n_decimals}f} {units[0]}"

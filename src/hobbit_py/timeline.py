"""A profile of generation as a Chrome trace: open it in Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HobbitError, UsageError

if TYPE_CHECKING:
    from .llama import Llama

MAX_SPANS = 2_000_000  # some thousand tokens; 48 bytes each
_COMPUTE, _STALL, _READ, _QUEUED = range(4)
_NAMES = {_READ: "read", _QUEUED: "queued"}
_FIRST_READER_TID = 10


def start(llama: Llama, max_spans: int = MAX_SPANS) -> None:
    """Begins to record what compute and the drive do; HobbitError for a model without experts."""
    if llama._engine is None:
        raise HobbitError("This model has no experts: it runs as plain llama.cpp and there is nothing to record.")
    llama._engine.start_timeline(max_spans)


def write(llama: Llama, path: Path) -> int:
    """Ends recording and writes the trace; returns the number of spans. Raises UsageError."""
    assert llama._engine is not None, "start() came first"
    rows = llama._engine.take_timeline().tolist()
    try:
        path.write_text(json.dumps({"traceEvents": list(_events(rows)), "displayTimeUnit": "ms"}), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The trace {str(path)!r} cannot be written: {error.strerror}; give another place.") from error
    return len(rows)


def _events(rows: list[list[int]]) -> Iterator[dict[str, Any]]:
    n_readers = 1 + max((lane for kind, lane, *_ in rows if kind == _READ), default=-1)
    lanes = {_COMPUTE: "compute", _STALL: "stall", _QUEUED: "waiting to be read"}
    lanes |= {_FIRST_READER_TID + i: f"reader {i}" for i in range(n_readers)}
    for tid, name in lanes.items():
        yield {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}}
        yield {"ph": "M", "pid": 1, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}
    first_us = min((start_us for _, _, start_us, *_ in rows), default=0)
    for i, (kind, lane, start_us, end_us, layer_idx, n_bytes) in enumerate(rows):
        event: dict[str, Any] = {"pid": 1, "ts": start_us - first_us, "name": _NAMES.get(kind, f"layer {layer_idx}")}
        if kind in (_READ, _QUEUED):
            event["args"] = {"bytes": n_bytes}
        if kind == _QUEUED:  # they overlap: async events, which viewers stack
            event |= {"cat": "queue", "tid": _QUEUED, "id": i}
            yield event | {"ph": "b"}
            yield event | {"ph": "e", "ts": end_us - first_us}
        else:
            tid = _FIRST_READER_TID + lane if kind == _READ else kind
            yield event | {"ph": "X", "tid": tid, "dur": end_us - start_us}

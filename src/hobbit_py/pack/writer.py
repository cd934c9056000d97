"""Packing: reads rows of experts, quantises them on all cores, writes them to their place."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from ..cores import n_usable_cores
from ..errors import HobbitError, ModelFileError, UsageError
from .feedback import has_feedback, improve
from .fingerprint import Fingerprint
from .gguf_file import open_header
from .imatrix import Imatrix
from .layout import Chunk, LoLayout, plan_layout
from .partial import PartialFile
from .paths import default_out
from .quantize import dequantize, is_valid, prepare, quantize, requires_importance
from .source import ExpertFiles, ModelExperts, open_model
from .types import LoTypes

# Syncing data costs little next to quantising, but not nothing; this is the most work that a crash can lose.
_CHECKPOINT_S = 1.0

# llama.cpp's quantiser refuses these without an importance matrix, though ggml does not need one.
_POOR_WITHOUT_IMATRIX = ("IQ1_M", "IQ2_S", "IQ3_XXS")

Progress = Callable[[float], None]
Note = Callable[[str], None]


def pack(
    model_path: str | os.PathLike[str],
    lo: str | LoTypes = "Q2_K",
    out: str | os.PathLike[str] | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
    *,
    feedback: bool = True,
    note: Note | None = None,
) -> Path:
    """Writes the lo copy of a model: its expert tensors alone, in another type. Returns the file's path.

    The file appears under its name when it is complete. If this is interrupted, `<out>.partial` stays and the next call
    with the same arguments continues it. The result does not depend on n_threads. Memory is about 20 MiB a thread.

    Args:
        model_path: GGUF file, or the first part of a split one.
        lo: The type of all expert matrices and of kinds that differ: "Q2_K", "Q2_K,down=Q4_0". Where its blocks do not
            divide a row, the nearest type that does is taken.
        out: Default: `<model>.lo-<types>.gguf` beside the model. An existing lo copy is replaced, another file is not.
        imatrix: Importance matrix made by `hobbit imatrix`, or by llama-imatrix in either of its formats.
        feedback: Round with error feedback where the importance matrix says how inputs go together.
        n_threads: None: every core this process may use.
        progress: Called in the calling thread with the fraction done, 0.0 to 1.0; what it raises ends the packing.
        note: Called with sentences for the user, e.g. about types that do not fit.

    Raises:
        UsageError: An argument cannot be used.
        ModelFileError: The model or the importance matrix is missing, damaged or of the wrong kind.
        ReadError: The drive failed.
        HobbitError: The result cannot be written; on a full drive nothing is left behind.
    """
    note = note or (lambda _sentence: None)
    lo = LoTypes.parse(lo) if isinstance(lo, str) else lo
    n_threads = n_usable_cores() if n_threads is None else n_threads
    if n_threads < 1:
        raise UsageError(f"n_threads is {n_threads} and must be at least 1.")
    model_path = Path(model_path)
    model = open_model(model_path)
    _check_model(model, lo)
    out = default_out(model_path, lo) if out is None else Path(out)
    _check_out(out, model)
    if imatrix is None:
        return _pack(model, lo, out, None, False, n_threads, progress, note)
    with Imatrix(Path(imatrix)) as importance:
        return _pack(model, lo, out, importance, feedback, n_threads, progress, note)


def _pack(
    model: ModelExperts,
    lo: LoTypes,
    out: Path,
    imatrix: Imatrix | None,
    feedback: bool,
    n_threads: int,
    progress: Progress | None,
    note: Note,
) -> Path:
    layout = plan_layout(model, lo, Fingerprint.of(model), imatrix, feedback, note)
    _check_importance(layout, imatrix, note)
    for type_of_some in {tensor.type for tensor in layout.tensors}:
        prepare(type_of_some)
    chunks = layout.chunks()
    with ExpertFiles(model) as files, PartialFile(out, layout.header, layout.n_bytes, len(chunks)) as partial:
        _run(_Packing(layout, chunks, files, imatrix, feedback, partial), n_threads, progress)
        partial.finish()
    return out


class _Packing:
    """The work: chunks that are not done yet, each of which any thread can make."""

    def __init__(
        self,
        layout: LoLayout,
        chunks: list[Chunk],
        files: ExpertFiles,
        imatrix: Imatrix | None,
        feedback: bool,
        partial: PartialFile,
    ) -> None:
        self.partial = partial
        self.pending = [chunk_idx for chunk_idx in range(len(chunks)) if not partial.is_done(chunk_idx)]
        self._tensors = layout.tensors
        self._chunks = chunks
        self._files = files
        self._imatrix = imatrix
        self._feedback = feedback
        self._n_weights_all = sum(self.n_weights(chunk_idx) for chunk_idx in range(len(chunks)))
        self.n_weights_left = sum(map(self.n_weights, self.pending))

    @property
    def fraction_done(self) -> float:
        return 1.0 - self.n_weights_left / self._n_weights_all

    def n_weights(self, chunk_idx: int) -> int:
        chunk = self._chunks[chunk_idx]
        return chunk.n_rows * self._tensors[chunk.tensor_idx].source.n_in

    def make(self, chunk_idx: int) -> None:
        """Reads, quantises and writes one chunk. Called from several threads."""
        tensor_idx, expert_idx, first_row, n_rows = self._chunks[chunk_idx]
        tensor = self._tensors[tensor_idx]
        source = tensor.source
        row_idx = expert_idx * source.n_out + first_row
        data = np.empty(n_rows * source.row_bytes, np.uint8)
        self._files.read_into(source.file_idx, source.offset + row_idx * source.row_bytes, data)
        weights = dequantize(data, source.type).reshape(n_rows, source.n_in)
        # Some of ggml's quantisers end the process on such weights.
        if not np.isfinite(weights).all():
            raise ModelFileError(
                f"Expert {expert_idx} of {source.name} has weights that are not finite; get the model again."
            )
        importance = None
        if self._imatrix is not None and self._imatrix.has(source.name):
            importance = self._imatrix.row(source.name, source.n_in, expert_idx)
        quantized = quantize(weights, tensor.type, importance)
        if not is_valid(quantized, tensor.type):
            raise HobbitError(
                f"Expert {expert_idx} of {source.name} has weights too large for {tensor.type.name}; take another type."
            )
        imatrix = self._imatrix if self._feedback and has_feedback(tensor.type) else None
        if imatrix is not None and imatrix.has_moments(source.name):
            moments = imatrix.moments(source.name, source.n_in, expert_idx)
            quantized = improve(quantized, tensor.type, weights, moments)
        self.partial.write(tensor.offset + row_idx * tensor.row_bytes, quantized)


def _run(packing: _Packing, n_threads: int, progress: Progress | None) -> None:
    """Makes all chunks; on an error or an interrupt what was made is marked as done before it is raised."""
    made: SimpleQueue[int | BaseException | None] = SimpleQueue()  # None: a thread has ended
    pending = _Shared(packing.pending)

    def work() -> None:
        try:
            for chunk_idx in pending:
                packing.make(chunk_idx)
                made.put(chunk_idx)
        except BaseException as error:
            pending.close()
            made.put(error)
        finally:
            made.put(None)

    threads = [
        threading.Thread(target=work, name=f"hobbit-pack-{i}") for i in range(min(n_threads, len(packing.pending)))
    ]
    if progress is not None:
        progress(packing.fraction_done)
    unmarked: list[int] = []
    failure: BaseException | None = None
    n_running = 0
    try:
        for thread in threads:
            thread.start()
            n_running += 1
        checkpoint_time = time.monotonic() + _CHECKPOINT_S
        while n_running > 0:
            result = made.get()
            if result is None:
                n_running -= 1
                continue
            if isinstance(result, BaseException):
                failure = failure or result
                continue
            unmarked.append(result)
            packing.n_weights_left -= packing.n_weights(result)
            if time.monotonic() >= checkpoint_time:
                packing.partial.mark_done(unmarked)
                unmarked.clear()
                checkpoint_time = time.monotonic() + _CHECKPOINT_S
            if progress is not None:
                progress(packing.fraction_done)
    finally:
        pending.close()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        while not made.empty():  # made after `progress` had raised, or not reported yet
            result = made.get()
            if isinstance(result, int):
                unmarked.append(result)
        packing.partial.mark_done(unmarked)
    if failure is not None:
        raise failure


class _Shared:
    """An iterator that threads take from in turn."""

    def __init__(self, items: list[int]) -> None:
        self._items: Iterator[int] = iter(items)
        self._lock = threading.Lock()

    def __iter__(self) -> _Shared:
        return self

    def __next__(self) -> int:
        with self._lock:
            return next(self._items)

    def close(self) -> None:
        """Ends the iteration for all threads."""
        with self._lock:
            self._items = iter(())


def _check_model(model: ModelExperts, lo: LoTypes) -> None:
    for tensor in model.tensors:
        if not tensor.type.can_dequantize:
            path = str(model.paths[tensor.file_idx])
            raise ModelFileError(f"{path!r} has {tensor.name} of type {tensor.type.name}, which cannot be quantised.")
    kinds = {tensor.kind for tensor in model.tensors}
    for kind, type_name in lo.by_kind:
        if kind not in kinds:
            raise UsageError(
                f"The lo type '{kind}={type_name}' names a kind of matrix that {str(model.paths[0])!r} does not have; "
                f"it has {', '.join(sorted(kinds))}."
            )


def _check_out(out: Path, model: ModelExperts) -> None:
    """Refuses to replace anything but a lo copy."""
    if not out.parent.is_dir():
        raise UsageError(f"{str(out.parent)!r} is not a folder; choose another place with -o.")
    if not out.exists():
        return
    if out.is_dir():
        raise UsageError(f"{str(out)!r} is a folder; name a file with -o.")
    try:
        with open_header(out) as header:
            is_ours = Fingerprint.read_from(header, out) is not None
    except ModelFileError:
        is_ours = False
    if not is_ours or any(out.samefile(path) for path in model.paths):
        raise UsageError(f"{str(out)!r} exists and is not a lo copy; remove it or choose another name with -o.")


def _check_importance(layout: LoLayout, imatrix: Imatrix | None, note: Note) -> None:
    n_without: dict[str, int] = {}
    for tensor in layout.tensors:
        source = tensor.source
        if imatrix is not None and imatrix.has(source.name):
            imatrix.check_shape(source.name, source.n_in, source.n_expert)
        elif requires_importance(tensor.type):
            why = "none was given" if imatrix is None else "the one given lacks it"
            raise UsageError(
                f"{tensor.type.name} needs an importance matrix for {source.name}, and {why}; make one with "
                f"'hobbit imatrix' and give it with --imatrix, or choose another type."
            )
        elif imatrix is not None:
            n_without[source.kind] = n_without.get(source.kind, 0) + 1
    for kind, n_layers in n_without.items():
        note(f"The importance matrix lacks the {kind} matrices of {n_layers} layers: they are packed without it.")
    poor = {tensor.type.name for tensor in layout.tensors} & set(_POOR_WITHOUT_IMATRIX)
    if imatrix is None and poor:
        note(f"{' and '.join(sorted(poor))} lose much accuracy without an importance matrix; give one with --imatrix.")

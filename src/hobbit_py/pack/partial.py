"""The unfinished file: written under another name, remembers what is done, and is renamed when it is complete.

    header without its magic | tensor data | one byte for each chunk, 1 once its data is on the drive

Until the end it has no magic number, so it cannot be mistaken for a GGUF even under another name. A chunk is marked
only after its data was synced: after a crash the marks may lag behind the data, never run ahead of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from ..errors import HobbitError, UsageError
from ..sizes import format_bytes
from .quantize import Bytes

_N_MAGIC_BYTES = 4
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class PartialFile:
    """`<out>.partial`, locked against other processes. A context manager: leaving it closes the file and keeps it.

    write() may be called from any thread, everything else from one.
    """

    def __init__(self, out: Path, header: bytes, n_bytes: int, n_chunks: int) -> None:
        """Continues the file that is there if it has the same header, else begins a new one of n_bytes.

        Raises UsageError if it cannot be made there and HobbitError if the drive is full or another process packs it.
        """
        self.path = out.with_name(f"{out.name}.partial")
        self._out = out
        self._n_bytes = n_bytes
        self._done = bytearray(n_chunks)
        self._fd = self._open_locked()
        try:
            if not self._continues(header):
                self._begin(header)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if isinstance(error, _OutOfSpaceError):
            self._remove()  # a full drive is not the place for half a file
        os.close(self._fd)

    def is_done(self, chunk_idx: int) -> bool:
        """Tells whether the chunk's data is in the file and on the drive."""
        return self._done[chunk_idx] != 0

    def write(self, offset: int, data: Bytes) -> None:
        """Writes data at its place in the finished file; HobbitError if the drive is full."""
        view = data.reshape(-1).data
        try:
            while view:
                n = os.pwrite(self._fd, view, offset)
                view = view[n:]
                offset += n
        except OSError as error:
            raise self._explain(error) from None

    def mark_done(self, chunk_indices: Iterable[int]) -> None:
        """Syncs the data and remembers that these chunks need not be made again."""
        indices = list(chunk_indices)
        if not indices:
            return
        try:
            _sync_data(self._fd)
            for chunk_idx in indices:
                self._done[chunk_idx] = 1
            first, end = min(indices), max(indices) + 1
            os.pwrite(self._fd, self._done[first:end], self._n_bytes + first)
        except OSError as error:
            raise self._explain(error) from None

    def finish(self) -> None:
        """Turns the file, of which every chunk is done, into the finished one at its own name."""
        assert all(self._done)
        try:
            os.ftruncate(self._fd, self._n_bytes)
            os.pwrite(self._fd, b"GGUF", 0)
            os.fsync(self._fd)
            self.path.replace(self._out)
            folder = os.open(self._out.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._explain(error) from None

    def _open_locked(self) -> int:
        while True:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise UsageError(f"{str(self._out)!r} cannot be written: {error.strerror}.") from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise HobbitError(f"Another process is packing {str(self._out)!r}; wait for it, or end it.") from None
            except OSError as error:
                if error.errno not in _NO_LOCKS_HERE:
                    os.close(fd)
                    raise
            # Whoever held the lock before may have renamed or removed the file that was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), self.path.stat()):
                    return fd
            os.close(fd)

    def _continues(self, header: bytes) -> bool:
        """Takes over the marks if the file was begun with this header."""
        n_found = os.fstat(self._fd).st_size
        n_chunks = len(self._done)
        if n_found not in (self._n_bytes, self._n_bytes + n_chunks):
            return False
        if os.pread(self._fd, len(header), 0)[_N_MAGIC_BYTES:] != header[_N_MAGIC_BYTES:]:
            return False
        if n_found == self._n_bytes:  # cut to its final size, so everything was done
            self._done = bytearray(b"\1" * n_chunks)
        else:
            self._done = bytearray(os.pread(self._fd, n_chunks, self._n_bytes))
        return True

    def _begin(self, header: bytes) -> None:
        n_total = self._n_bytes + len(self._done)
        try:
            os.ftruncate(self._fd, 0)
            free = os.statvfs(self._fd)
            n_free = free.f_bavail * free.f_frsize
            if n_free < n_total:
                raise _OutOfSpaceError(
                    f"{str(self._out)!r} needs {format_bytes(n_total)} on a drive with {format_bytes(n_free)} free; "
                    f"make room or choose another place with -o."
                )
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, n_total)
            else:
                os.ftruncate(self._fd, n_total)
            # Last: without it the file is not one to continue.
            os.pwrite(self._fd, header[_N_MAGIC_BYTES:], _N_MAGIC_BYTES)
        except OSError as error:
            self._remove()
            raise self._explain(error) from None
        except BaseException:
            self._remove()
            raise

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _explain(self, error: OSError) -> HobbitError:
        reason = f"{str(self.path)!r} cannot be written: {error.strerror}"
        if error.errno in _OUT_OF_SPACE:
            return _OutOfSpaceError(
                f"{reason}; make room for {format_bytes(self._n_bytes)} or choose another place with -o."
            )
        return HobbitError(f"{reason}.")


class _OutOfSpaceError(HobbitError):
    """The drive, a quota or the largest file that the system allows is too small."""

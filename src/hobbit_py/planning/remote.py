"""A model on the hub as files that have its headers and nothing else: read by ranges, the rest left sparse.

Everything that reads headers alone works on them as on the model, llama.cpp's dry run included.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import HobbitError, ModelFileError
from ..hub.choose import RemoteFile, choose
from ..hub.client import explained, hub, list_files
from ..hub.reference import Reference
from ..pack.gguf_file import open_header

_FIRST_BYTES = 4 << 20  # the vocabulary is nearly all of a header: 1 to 10 MB
_MAX_BYTES = 512 << 20


@contextlib.contextmanager
def fetched_headers(reference: Reference) -> Iterator[Path]:
    """The (first) file of the model with its headers, in a folder that is gone after the block. Raises HobbitError."""
    model = choose(reference, list_files(reference.repo))
    with tempfile.TemporaryDirectory(prefix="hobbit-plan-") as folder:
        paths = [Path(folder) / file.name.rpartition("/")[2] for file in model.files]
        for file, path in zip(model.files, paths, strict=True):
            _fetch_header(reference, file, path)
        yield paths[0]


def _fetch_header(reference: Reference, file: RemoteFile, path: Path) -> None:
    with explained(str(reference)):
        remote = hub().HfFileSystem().open(f"{reference.repo}/{file.name}", "rb", cache_type="none")
        with remote, path.open("wb") as local:
            _copy_header(remote, local, file, path)
            local.truncate(file.n_bytes)


def _copy_header(remote: IO[bytes], local: IO[bytes], file: RemoteFile, path: Path) -> None:
    """Copies more and more of the beginning until it is a whole header: what is cut off cannot be parsed."""
    n_bytes = 0
    wanted_bytes = _FIRST_BYTES
    while n_bytes < min(file.n_bytes, _MAX_BYTES):
        chunk = remote.read(wanted_bytes - n_bytes)
        local.write(chunk)
        local.flush()
        n_bytes += len(chunk)
        if n_bytes >= 4 and not _begins_as_gguf(path):
            raise ModelFileError(f"{file.name} on the hub is not a GGUF file: it does not begin with the letters GGUF.")
        with contextlib.suppress(ModelFileError), open_header(path):
            return
        if not chunk:
            break
        wanted_bytes *= 2
    raise HobbitError(f"The header of {file.name} on the hub cannot be read: it is damaged, or beyond 512 MiB.")


def _begins_as_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"

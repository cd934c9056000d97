"""Fetching a model into the hub's own cache, which other tools share, and checking what came.

huggingface_hub begins an interrupted file anew, which for files of tens of GB will not do. So a file is fetched into a
partial one of ours, by ranges, and becomes the cache's blob when it is complete and its hash is right; huggingface_hub
then finds it there and does the rest.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import HobbitError, UsageError
from .cache import cached_model
from .choose import RemoteFile, RemoteModel, choose
from .client import explained, hub, list_files
from .reference import Reference

Progress = Callable[[str, int, int], None]
"""Called with what is done to which file, its bytes so far and in all."""

_HASH_BYTES = 8 << 20


def resolve(model: str, progress: Progress | None = None) -> Path:
    """The file of a model on the hub, fetched if it is not on this machine yet; the first part of a split one.

    Raises UsageError for a name that is none, HobbitError if it cannot be fetched.
    """
    reference = Reference.parse(model)
    # Without asking the hub: what is complete runs off line too.
    return cached_model(reference) or pull(reference, progress)


def pull(reference: Reference, progress: Progress | None = None) -> Path:
    """Fetches what is missing or newer on the hub, continuing what was interrupted; returns the (first) file.

    What was fetched is compared with the hub's SHA-256. Raises UsageError, HobbitError.
    """
    model = choose(reference, list_files(reference.repo))
    _check_space(reference, model)
    first, *_ = [_fetch(reference, file, progress) for file in model.files]
    return first


def _check_space(reference: Reference, model: RemoteModel) -> None:
    with explained(str(reference)):
        plans = [hub().hf_hub_download(reference.repo, file.name, dry_run=True) for file in model.files]
    missing_bytes = sum(plan.file_size for plan in plans if plan.will_download)
    folder = _blobs_of(reference.repo)
    if folder.exists():
        missing_bytes -= sum(partial.stat().st_size for partial in folder.glob("*.hobbit-partial"))
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if missing_bytes > free_bytes:
        raise UsageError(
            f"{reference} needs {missing_bytes / 1e9:.1f} GB and the drive of {folder} has {free_bytes / 1e9:.1f} GB "
            "free; make room, or set HF_HOME to a folder on another drive."
        )


def _blobs_of(repo: str) -> Path:
    name: str = hub().file_download.repo_folder_name(repo_id=repo, repo_type="model")
    cache = Path(hub().constants.HF_HUB_CACHE)
    return cache.joinpath(name, "blobs")


def _fetch(reference: Reference, file: RemoteFile, progress: Progress | None) -> Path:
    with explained(str(reference)):
        # Larger files are served in another way alone, which huggingface_hub knows and which cannot be continued.
        by_ranges = file.n_bytes <= hub().constants.MAX_HTTP_DOWNLOAD_SIZE
        if by_ranges and hub().hf_hub_download(reference.repo, file.name, dry_run=True).will_download:
            _fetch_blob(reference.repo, file, progress)
        return Path(hub().hf_hub_download(reference.repo, file.name, tqdm_class=_bar_class(file, progress)))


def _fetch_blob(repo: str, file: RemoteFile, progress: Progress | None) -> None:
    url = hub().hf_hub_url(repo, file.name)
    metadata = hub().get_hf_file_metadata(url)
    blob = _blobs_of(repo) / metadata.etag
    partial = blob.with_name(f"{blob.name}.hobbit-partial")
    blob.parent.mkdir(parents=True, exist_ok=True)
    with hub().utils.WeakFileLock(partial.with_name(f"{partial.name}.lock")), partial.open("ab") as data:
        if blob.exists():  # another process has fetched it meanwhile
            return
        hub().file_download.http_get(
            metadata.location,
            data,
            resume_size=data.tell(),
            headers=hub().utils.build_hf_headers(),
            expected_size=metadata.size,
            tqdm_class=_bar_class(file, progress),
        )
        data.flush()
        if file.sha256 is not None and _sha256(partial, file, progress) != file.sha256:
            partial.unlink()
            raise HobbitError(f"{file.name} was damaged on its way and has been removed; run the same command again.")
        partial.replace(blob)
    partial.with_name(f"{partial.name}.lock").unlink(missing_ok=True)


def _sha256(path: Path, file: RemoteFile, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    n_done = 0
    with path.open("rb") as data:
        while chunk := data.read(_HASH_BYTES):
            digest.update(chunk)
            n_done += len(chunk)
            if progress is not None:
                progress(f"checking {file.name}", n_done, file.n_bytes)
    return digest.hexdigest()


def _bar_class(file: RemoteFile, progress: Progress | None) -> type[Any]:
    """A tqdm that draws nothing and reports to `progress`: huggingface_hub has no other way to tell."""
    from tqdm.std import tqdm

    class Reporter(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **keywords: Any) -> None:  # noqa: ANN401
            keywords.pop("name", None)
            self.n_done = int(keywords.get("initial") or 0)
            super().__init__(*arguments, **{**keywords, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self.n_done += int(n or 0)
            if progress is not None:
                progress(f"fetching {file.name}", min(self.n_done, file.n_bytes), file.n_bytes)
            return None

    return Reporter

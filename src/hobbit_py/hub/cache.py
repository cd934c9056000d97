"""The models in the hub's cache on this machine: finding, listing and removing them."""

from __future__ import annotations

import glob
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from .choose import RemoteFile, RemoteModel, choose, models_in, part_stem
from .client import hub
from .reference import Reference


@dataclass(frozen=True)
class CachedModel:
    """A model on this machine; `path` is its (first) file."""

    reference: Reference
    path: Path
    n_bytes: int
    last_used: float
    """Seconds since the epoch."""
    complete: bool


def list_models() -> list[CachedModel]:
    """All GGUF models in the cache, by name."""
    found = []
    for repo in _repos():
        for revision in repo.revisions:
            for model in models_in(revision.files):
                reference = Reference(repo.repo_id, model.quant)
                complete = _is_complete(reference, model)
                path = revision.snapshot_path / model.files[0].name
                found.append(CachedModel(reference, path, model.n_bytes, repo.last_accessed, complete))
    return sorted(found, key=lambda model: (str(model.reference), str(model.path)))


def cached_model(reference: Reference) -> Path | None:
    """The (first) file of a model that is complete on this machine; of several revisions the newest. None if none."""
    for repo in _repos():
        if repo.repo_id != reference.repo:
            continue
        for revision in sorted(repo.revisions, key=lambda r: r.last_modified, reverse=True):
            try:
                model = choose(reference, revision.files)
            except UsageError:
                continue
            return revision.snapshot_path / model.files[0].name
    return None


def remove_model(reference: Reference) -> int:
    """Removes a quantisation, or with none named all of a repository; returns the bytes freed. Raises UsageError."""
    repo = next((repo for repo in _repos() if repo.repo_id == reference.repo), None)
    if repo is None:
        raise UsageError(f"{reference.repo} is not on this machine; 'hobbit list' shows what is.")
    if reference.quant is None:
        blobs = [path for path in repo.repo_path.rglob("*") if path.is_file() and not path.is_symlink()]
        n_bytes = sum(path.stat().st_size for path in blobs)
        shutil.rmtree(repo.repo_path)
        return n_bytes
    wanted = reference.quant.upper()
    links = [
        revision.snapshot_path / file.name
        for revision in repo.revisions
        for model in models_in(revision.files)
        if model.quant.upper() == wanted
        for file in model.files
    ]
    if not links:
        raise UsageError(f"{reference} is not on this machine; 'hobbit list' shows what is.")
    paths = {path for link in links for path in (link.resolve(), *_made_beside(link))}
    n_bytes = sum(path.stat().st_size for path in paths)
    for path in [*links, *paths]:
        path.unlink(missing_ok=True)
    if not any(path.is_file() for path in (repo.repo_path / "snapshots").rglob("*")):
        shutil.rmtree(repo.repo_path)
    return n_bytes


def _made_beside(link: Path) -> list[Path]:
    """What our own commands made for a model: its lo copies, what was measured of it."""
    stem = part_stem(link.name)
    return [path for path in link.parent.glob(f"{glob.escape(stem)}.*") if not path.is_symlink() and path.is_file()]


@dataclass(frozen=True)
class _Revision:
    snapshot_path: Path
    files: tuple[RemoteFile, ...]
    last_modified: float


@dataclass(frozen=True)
class _Repo:
    repo_id: str
    repo_path: Path
    revisions: tuple[_Revision, ...]
    last_accessed: float


def _repos() -> list[_Repo]:
    """The repositories of models in the cache.

    huggingface_hub's own scan passes over a repository in which anything is amiss, and a process that was killed while
    it fetched a file leaves enough for that: a temporary file beside the names of revisions.
    """
    separator: str = hub().constants.REPO_ID_SEPARATOR
    prefix = f"models{separator}"
    folders = Path(hub().constants.HF_HUB_CACHE).glob(f"{prefix}*")
    return [
        _repo(folder, folder.name.removeprefix(prefix).replace(separator, "/"))
        for folder in sorted(folders)
        if folder.is_dir()
    ]


def _repo(folder: Path, repo_id: str) -> _Repo:
    revisions, last_accessed = [], 0.0
    for snapshot in sorted(path for path in folder.glob("snapshots/*") if path.is_dir()):
        files, last_modified = [], 0.0
        for path in sorted(snapshot.rglob("*")):
            if path.is_file():  # not a link whose file is gone
                stat = path.stat()
                files.append(RemoteFile(path.relative_to(snapshot).as_posix(), stat.st_size))
                last_modified = max(last_modified, stat.st_mtime)
                last_accessed = max(last_accessed, stat.st_atime)
        revisions.append(_Revision(snapshot, tuple(files), last_modified))
    return _Repo(repo_id, folder, tuple(revisions), last_accessed)


def _is_complete(reference: Reference, model: RemoteModel) -> bool:
    try:
        choose(Reference(reference.repo, model.quant), model.files)
    except UsageError:
        return False
    return True

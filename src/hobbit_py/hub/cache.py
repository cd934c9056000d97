"""The models in the hub's cache on this machine: finding, listing and removing them."""

from __future__ import annotations

import glob
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
            for model in models_in(_files_of(revision)):
                reference = Reference(repo.repo_id, model.quant)
                complete = _is_complete(reference, model)
                path = Path(revision.snapshot_path) / model.files[0].name
                found.append(CachedModel(reference, path, model.n_bytes, repo.last_accessed, complete))
    return sorted(found, key=lambda model: (str(model.reference), str(model.path)))


def cached_model(reference: Reference) -> Path | None:
    """The (first) file of a model that is complete on this machine; of several revisions the newest. None if none."""
    for repo in _repos():
        if repo.repo_id != reference.repo:
            continue
        for revision in sorted(repo.revisions, key=lambda r: r.last_modified, reverse=True):
            try:
                model = choose(reference, _files_of(revision))
            except UsageError:
                continue
            return Path(revision.snapshot_path) / model.files[0].name
    return None


def remove_model(reference: Reference) -> int:
    """Removes a quantisation, or with none named all of a repository; returns the bytes freed. Raises UsageError."""
    repo = next((repo for repo in _repos() if repo.repo_id == reference.repo), None)
    if repo is None:
        raise UsageError(f"{reference.repo} is not on this machine; 'hobbit list' shows what is.")
    if reference.quant is None:
        shutil.rmtree(repo.repo_path)
        return int(repo.size_on_disk)
    wanted = reference.quant.upper()
    links = [
        Path(revision.snapshot_path) / file.name
        for revision in repo.revisions
        for model in models_in(_files_of(revision))
        if model.quant.upper() == wanted
        for file in model.files
    ]
    if not links:
        raise UsageError(f"{reference} is not on this machine; 'hobbit list' shows what is.")
    paths = {path for link in links for path in (link.resolve(), *_made_beside(link))}
    n_bytes = sum(path.stat().st_size for path in paths)
    for path in [*links, *paths]:
        path.unlink(missing_ok=True)
    if not any(path.is_file() for path in (Path(repo.repo_path) / "snapshots").rglob("*")):
        shutil.rmtree(repo.repo_path)
    return n_bytes


def _made_beside(link: Path) -> list[Path]:
    """What our own commands made for a model: its lo copies, what was measured of it."""
    stem = part_stem(link.name)
    return [path for path in link.parent.glob(f"{glob.escape(stem)}.*") if not path.is_symlink() and path.is_file()]


def _repos() -> list[Any]:
    try:
        info = hub().scan_cache_dir()
    except hub().errors.CacheNotFound:  # nothing was ever fetched
        return []
    return [repo for repo in info.repos if repo.repo_type == "model"]


def _files_of(revision: Any) -> list[RemoteFile]:  # noqa: ANN401
    root = Path(revision.snapshot_path)
    return [RemoteFile(Path(file.file_path).relative_to(root).as_posix(), file.size_on_disk) for file in revision.files]


def _is_complete(reference: Reference, model: RemoteModel) -> bool:
    try:
        choose(Reference(reference.repo, model.quant), model.files)
    except UsageError:
        return False
    return True

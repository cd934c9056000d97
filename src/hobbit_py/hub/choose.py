"""Which files of a repository make up the model that is wanted."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .reference import Reference

_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|MXFP4\w*|NVFP4\w*|BF16|F16|F32))(?![A-Za-z0-9])", re.I
)
_NO_MODEL = re.compile(r"(^|/)mmproj|imatrix|\.lo-", re.IGNORECASE)  # image projectors, calibration data, lo copies
_DEFAULT_QUANT = "Q4_K_M"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; sha256 is None where the hub does not tell."""

    name: str
    n_bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class RemoteModel:
    """The files of one quantisation, in the order of their parts."""

    quant: str
    files: tuple[RemoteFile, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.n_bytes for file in self.files)


def models_in(files: Sequence[RemoteFile]) -> list[RemoteModel]:
    """The models among a repository's files, smallest first; parts of a split one together."""
    groups: dict[str, list[RemoteFile]] = defaultdict(list)
    for file in files:
        if file.name.endswith(".gguf") and not _NO_MODEL.search(file.name):
            groups[part_stem(file.name)].append(file)
    models = [
        RemoteModel(_quant_of(stem), tuple(sorted(group, key=lambda f: f.name))) for stem, group in groups.items()
    ]
    return sorted(models, key=lambda model: (model.n_bytes, model.quant))


def part_stem(name: str) -> str:
    """A file's name without ".gguf" and the number of its part: what all parts of a model share."""
    return _PART.sub("", name.removesuffix(".gguf"))


def choose(reference: Reference, files: Sequence[RemoteFile]) -> RemoteModel:
    """The model that is wanted: the quantisation named, else the only one, else Q4_K_M.

    Raises UsageError, which names the quantisations there are; also if parts are missing.
    """
    models = models_in(files)
    if not models:
        raise UsageError(f"{reference.repo} has no GGUF model; look for a repository whose name ends with GGUF.")
    if reference.quant is None:
        found = models if len(models) == 1 else [m for m in models if m.quant.upper() == _DEFAULT_QUANT]
    else:
        found = [m for m in models if m.quant.upper() == reference.quant.upper()]
    if len(found) != 1:
        there = ", ".join(dict.fromkeys(m.quant for m in models))
        problem = "several models" if reference.quant is None or found else f"no quantisation {reference.quant}"
        raise UsageError(f"{reference.repo} has {problem}; name one of {there}: {reference.repo}:{models[0].quant}.")
    _check_parts(reference, found[0])
    return found[0]


def _check_parts(reference: Reference, model: RemoteModel) -> None:
    part = _PART.search(model.files[0].name.removesuffix(".gguf"))
    n_parts = int(part[2]) if part else 1
    if len(model.files) != n_parts:
        raise UsageError(
            f"{reference.repo} has {len(model.files)} of the {n_parts} parts of {model.quant}: its upload is not "
            "complete; choose another quantisation."
        )


def _quant_of(stem: str) -> str:
    """The quantisation that a file's name tells, in its own spelling; the last part of the name if none."""
    found = _QUANT.findall(stem)
    return str(found[-1]) if found else stem.rpartition("/")[2]

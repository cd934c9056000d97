"""What a figure was measured on: the model's sizes and the machine."""

from __future__ import annotations

import platform
import statistics
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from .. import __version__
from ..cores import n_usable_cores
from ..pack.gguf_file import open_header
from ..pack.source import open_model


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model in bytes."""

    file_bytes: int
    """All parts."""
    expert_bytes: int
    """All experts in hi."""
    matrix_bytes: int
    """One matrix of one expert, the median: what a demand load reads."""
    largest_file: Path
    expert_bytes_per_token: int
    """Bytes of the experts that a token uses."""


def model_sizes(path: Path) -> ModelSizes:
    """Reads a model's headers; raises ModelFileError, also for a model without experts."""
    model = open_model(path)
    with open_header(model.paths[0]) as header:
        n_used = header.get_u32(f"{model.architecture}.expert_used_count") or 0
    largest = max(range(len(model.paths)), key=lambda idx: model.file_bytes[idx])
    matrices = [tensor.n_bytes // tensor.n_expert for tensor in model.tensors]
    return ModelSizes(
        file_bytes=sum(model.file_bytes),
        expert_bytes=model.n_bytes,
        matrix_bytes=int(statistics.median(matrices)),
        largest_file=model.paths[largest],
        expert_bytes_per_token=n_used * sum(matrices),
    )


@dataclass(frozen=True)
class Machine:
    """Where and with which releases something was measured."""

    system: str
    processor: str
    n_cores: int
    hobbit_py: str
    llama_cpp_python: str


def this_machine() -> Machine:
    """Describes the machine this process runs on."""
    return Machine(
        system=platform.platform(),
        processor=processor_name(),
        n_cores=n_usable_cores(),
        hobbit_py=__version__,
        llama_cpp_python=version("llama-cpp-python"),
    )


def processor_name() -> str:
    """The processor's name as the system gives it, else the machine's architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model\t")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

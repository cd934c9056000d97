"""What is written to a drive for keeps: how each is written, and how to tell the old state from the new one."""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from sample_tuning import TUNING
from tiny_models import write_model
from traces import random_trace

from hobbit_py.bench.stored import StoredBench, bench_path, load_bench, save_bench
from hobbit_py.pack import find_lo, pack
from hobbit_py.pack.imatrix_file import TensorImportance, write_imatrix
from hobbit_py.predict.stored import load_traces, save_traces, traces_path
from hobbit_py.simulate.trace import load_trace, save_trace
from hobbit_py.tune import save_tuning
from hobbit_py.tune.stored import load_tuning, tuning_path
from hobbit_py.warm_start import hot_set_paths, load_hot_set, save_hot_set

_BENCH = StoredBench(file_bytes=0, reuse=((0.5, 0.5),), processor="one", n_threads=1, compute_s=1.0)
OLD, NEW = 1, 2


class Case(ABC):
    """Something that is written in a folder. State 0 is none, OLD and NEW are two that differ."""

    name: str
    begins_with: tuple[int, ...] = (0, OLD)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:  # noqa: B027 (most need nothing)
        """What must be there before anything is written; nothing is killed here."""

    @abstractmethod
    def write(self, state: int) -> None: ...

    @abstractmethod
    def path(self) -> Path:
        """The file that is written."""

    def check_usable(self, state: int) -> bool:
        """Whether the program itself reads what is there as this state."""
        return state == 0 or self.path().exists()


class ModelCase(Case):
    def prepare(self) -> None:
        write_model(self.model, "llama", n_layer=1, n_expert=4)
        write_model(self.lo, "llama", n_layer=1, n_expert=4, experts_quant="Q4_0")

    @property
    def model(self) -> Path:
        return self.folder / "model.gguf"

    @property
    def lo(self) -> Path:
        return self.folder / "model.lo-Q4_0.gguf"


class Pack(ModelCase):
    name = "pack"

    def prepare(self) -> None:
        write_model(self.model, "llama", n_layer=1, n_expert=2)

    def write(self, state: int) -> None:
        pack(self.model, "Q2_K" if state == OLD else "Q4_0", self.path(), n_threads=1)

    def path(self) -> Path:
        return self.folder / "model.lo-X.gguf"

    def check_usable(self, state: int) -> bool:
        return (find_lo(self.model) is not None) == (state != 0)


class Tune(ModelCase):
    name = "tune"

    def write(self, state: int) -> None:
        save_tuning([self.model], self.lo, dataclasses.replace(TUNING, tokens=1024 * state))

    def path(self) -> Path:
        return tuning_path(self.model)

    def check_usable(self, state: int) -> bool:
        tuning = load_tuning([self.model], self.lo)
        return (tuning.tokens if tuning else 0) == 1024 * state


class TraceSave(Case):
    name = "trace"

    def write(self, state: int) -> None:
        save_trace(self.path(), random_trace(n_tokens=200, seed=state))

    def path(self) -> Path:
        return self.folder / "trace.npz"

    def check_usable(self, state: int) -> bool:
        if state == 0:
            return not self.path().exists()
        return np.array_equal(load_trace(self.path()).tokens, random_trace(n_tokens=200, seed=state).tokens)


class ImatrixSave(Case):
    name = "imatrix"

    def write(self, state: int) -> None:
        squares = np.full((4, 64), float(state), np.float32)
        tensors = [TensorImportance(f"blk.{i}.ffn_up_exps.weight", squares, np.full(4, 7.0)) for i in range(3)]
        write_imatrix(self.path(), tensors, lambda _name: None, dataset="text", n_chunks=1, chunk_tokens=64)

    def path(self) -> Path:
        return self.folder / "imatrix.gguf"


class HotSet(ModelCase):
    name = "warm start"

    def write(self, state: int) -> None:
        save_hot_set([str(self.model)], [(0, i, 0) for i in range(state)])

    def path(self) -> Path:
        return hot_set_paths(self.model)[0]

    def check_usable(self, state: int) -> bool:
        return len(load_hot_set([str(self.model)])) == state


class RequestTraces(ModelCase):
    name = "request traces"

    def write(self, state: int) -> None:
        save_traces([str(self.model)], [np.full(4, state, np.float32)] * state, [])

    def path(self) -> Path:
        return traces_path(self.model)

    def check_usable(self, state: int) -> bool:
        return len(load_traces([str(self.model)], 4)[0]) == state


class Bench(ModelCase):
    name = "bench"

    def write(self, state: int) -> None:
        save_bench(self.model, dataclasses.replace(_BENCH, file_bytes=state))

    def path(self) -> Path:
        return bench_path(self.model)

    def check_usable(self, state: int) -> bool:
        return state == 0 or load_bench(self.model, state) is not None


class Pull(Case):
    """Of a model in two parts; `url` is a hub's. State OLD cannot be: files of the cache are named by their content."""

    name = "pull"
    begins_with = (0,)
    url = ""

    def _set_home(self) -> None:
        # Read once, when huggingface_hub is imported: every step of a case is a process of its own.
        os.environ |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def write(self, state: int) -> None:
        self._set_home()
        from hobbit_py.hub.fetch import pull
        from hobbit_py.hub.reference import Reference

        pull(Reference.parse("someone/Model-GGUF:Q8_0"))

    def path(self) -> Path:
        found = sorted((self.folder / "hf").rglob("*-of-00002.gguf"))
        return found[-1] if len(found) == 2 else self.folder / "none"

    def check_usable(self, state: int) -> bool:
        self._set_home()
        from hobbit_py.hub.cache import cached_model
        from hobbit_py.hub.reference import Reference

        return (cached_model(Reference.parse("someone/Model-GGUF:Q8_0")) is not None) == (state != 0)


CASES: tuple[type[Case], ...] = (Pack, Tune, TraceSave, ImatrixSave, HotSet, RequestTraces, Bench, Pull)

"""Our own parsers, each behind a function that takes any bytes: what fuzzers and tests feed them with.

Most bytes are no file at all, and a file of ours with wrong bytes fails at its checksum or its braces. So the first
byte of an input says what the rest is: the file itself, or changes to a sound one (a value of a key, an array, some
bytes of a header), which is then written properly. A parser must take it for absent, refuse it with one sentence, or
return what the rest of the package can work with.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter
from sample_tuning import TUNING
from tiny_models import write_model
from traces import random_trace

from hobbit_py._host import _core
from hobbit_py._native_policies import to_native_hybrid
from hobbit_py.bench.stored import StoredBench, bench_path, load_bench, save_bench
from hobbit_py.cli.native_log import keep_native_errors
from hobbit_py.errors import HobbitError, UsageError
from hobbit_py.pack import pack, verify
from hobbit_py.pack.imatrix import Imatrix
from hobbit_py.policies.eviction import Lru
from hobbit_py.policies.presets import PRESETS
from hobbit_py.predict import (
    GateMap,
    HybridMaps,
    TrainedGates,
    gates_path,
    hybrid_path,
    load_hybrid,
    load_traces,
    save_gates,
    save_hybrid,
    save_traces,
    traces_path,
)
from hobbit_py.simulate import load_trace, save_trace
from hobbit_py.simulate.predictions import guesses_of
from hobbit_py.simulate.replay import make_replay, run_replay
from hobbit_py.trained import give_gates
from hobbit_py.tune import EvictionTuning, load_eviction, load_tuning, save_tuning, tuned_copies, tuning_path
from hobbit_py.warm_start import hot_set_paths, load_hot_set, save_hot_set

Arrays = dict[str, npt.NDArray[Any]]
_DTYPES = ["<f4", "<i4", "<i8", "<u2", "<f8", "<U3", "?", "<c8", "<M8[s]", "V3", "<f2", "S2"]
_NUMBERS = [0, 1, -1, 2**31, 2**63 - 1, -(2**63), 10**400, 0.5, 1e300, -0.0]


class Bytes:
    """Takes numbers off an input; zeros when it is used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self, n_bytes: int = 1) -> int:
        taken, self._data = self._data[:n_bytes], self._data[n_bytes:]
        return int.from_bytes(taken, "little")

    def pick(self, items: list[Any]) -> Any:  # noqa: ANN401
        return items[self.number() % len(items)]

    def take(self, n_bytes: int) -> bytes:
        taken, self._data = self._data[:n_bytes], self._data[n_bytes:]
        return taken

    @property
    def rest(self) -> bytes:
        return self._data


@dataclass(frozen=True)
class Target:
    """`path` is the file that `read` looks at; `sound` what is in it when nothing is wrong."""

    path: Path
    sound: bytes
    change: Callable[[bytes, Bytes], bytes]
    read: Callable[[], object]

    def run(self, data: bytes) -> bool:
        """Tells whether the parser took it; raises what no parser may raise."""
        source = Bytes(data)
        self.path.write_bytes(source.rest if source.number() % 4 == 0 else self.change(self.sound, source))
        try:
            return bool(self.read())
        except HobbitError as error:
            text = str(error)
            assert text.endswith("."), text
            assert "\n" not in text, text
            return False


def change_json(sound: bytes, source: Bytes) -> bytes:
    """Other values for some keys, at any depth."""
    stored = json.loads(sound)
    while source.rest and stored:
        place = stored
        key: Any = source.pick(sorted(place))
        while source.number() % 2 and isinstance(place[key], (dict, list)) and place[key]:
            place = place[key]
            key = source.pick(sorted(place) if isinstance(place, dict) else list(range(len(place))))
        choices = [None, True, [], {}, "x", [[]], source.take(source.number() % 8).decode("latin-1"), *_NUMBERS]
        place[key] = source.pick(choices)
        if source.number() % 16 == 0 and isinstance(place, dict):
            del place[key]
    return json.dumps(stored).encode()


def change_arrays(sound: bytes, source: Bytes) -> bytes:
    """Other arrays under known names and new ones, and single elements of those that are there."""
    with np.load(io.BytesIO(sound)) as file:
        arrays: Arrays = {name: file[name] for name in file.files}
    while source.rest:
        name = source.pick(sorted(arrays))
        how = source.number() % 4
        if how == 0:
            arrays[name] = _array(source)
        elif how == 1:
            arrays[f"map_{source.pick(_NUMBERS)}_{source.number(2)}"] = _array(source)
        elif how == 2 and arrays[name].nbytes:
            changed = bytearray(arrays[name].tobytes())
            place = source.number(2) % len(changed)
            new = source.take(8)[: len(changed) - place]
            changed[place : place + len(new)] = new
            if arrays[name].dtype.kind != "U":  # most numbers are no characters
                arrays[name] = np.frombuffer(bytes(changed), arrays[name].dtype).reshape(arrays[name].shape)
        elif how == 3 and len(arrays) > 1:
            del arrays[name]
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def _array(source: Bytes) -> npt.NDArray[Any]:
    dtype = np.dtype(source.pick(_DTYPES))
    shape = [source.number() % 9 for _ in range(source.number() % 4)]
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = source.take(n_bytes).ljust(n_bytes, b"\0")
    if dtype.kind == "U":
        raw = bytes(n_bytes)
    return np.frombuffer(raw, dtype).reshape(shape)


def change_bytes(sound: bytes, source: Bytes) -> bytes:
    """Some bytes in the first 4 KiB, where the header of a GGUF is; the end cut off now and then."""
    content = bytearray(sound)
    while source.rest:
        place = source.number(2) % 4096
        new = source.take(source.number() % 9)
        content[place : place + len(new)] = new
    return bytes(content[: source.number(3)] if source.number() % 8 == 7 else content)


def make_targets(folder: Path) -> dict[str, Target]:
    """Each with files of its own in the folder; llama.cpp's log is silent from here on."""
    keep_native_errors()
    model = write_model(folder / "model.gguf", "qwen3moe", n_layer=1, n_expert=4)
    paths = [str(model)]
    engine = _core.Engine(str(model), _core.EngineOptions())
    return {
        "lo": _lo(model, folder),
        "imatrix": _imatrix(folder, legacy=False),
        "old-imatrix": _imatrix(folder, legacy=True),
        "trace": _trace(folder),
        "tune": _tune(model),
        "bench": _bench(model),
        "hot-set": _hot_set(paths, engine),
        "request-traces": _request_traces(paths, engine),
        "hybrid": _hybrid(paths, engine),
        "gates": _gates(paths, engine),
    }


def _lo(model: Path, folder: Path) -> Target:
    lo = pack(model, lo="Q4_0", n_threads=1)

    def read() -> bool:
        verify([model], lo)
        return True

    return Target(lo, lo.read_bytes(), change_bytes, read)


def _imatrix(folder: Path, *, legacy: bool) -> Target:
    name, n_expert, n_in = "blk.0.ffn_up_exps.weight", 4, 8
    path = folder / f"imatrix-{legacy}"
    numbers = np.arange(n_expert * n_in, dtype=np.float32).reshape(n_expert, n_in)
    if legacy:
        head = np.array([1, len(name)], "<i4").tobytes() + name.encode() + np.array([3, numbers.size], "<i4").tobytes()
        path.write_bytes(head + numbers.tobytes())
    else:
        writer = GGUFWriter(path, "")
        writer.add_type("imatrix")
        writer.add_tensor(f"{name}.in_sum2", numbers)
        writer.add_tensor(f"{name}.counts", np.ones((n_expert, 1), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def read() -> bool:
        with Imatrix(path) as imatrix:
            if not imatrix.has(name):
                return False
            imatrix.check_shape(name, n_in, n_expert)
            return all(np.isfinite(imatrix.row(name, n_in, i)).all() for i in range(n_expert))

    return Target(path, path.read_bytes(), change_bytes, read)


def _trace(folder: Path) -> Target:
    path = folder / "t.npz"
    save_trace(path, random_trace(n_tokens=4, n_layers=2))

    def read() -> bool:
        trace = load_trace(path)
        replay = make_replay(trace, 1 << 16, Lru())
        run_replay(trace, replay, guesses_of(trace, PRESETS["hobbit"]))
        return True

    with np.load(path) as file:
        out = io.BytesIO()
        np.savez(out, **{name: file[name] for name in file.files})
    return Target(path, out.getvalue(), change_arrays, read)


def _tune(model: Path) -> Target:
    save_tuning([model], model, TUNING, [EvictionTuning("exact", "lru", {}, 0.9, 100, 1 << 20)])
    path = tuning_path(model)

    def read() -> bool:
        is_usable = load_tuning([model], model) is not None or load_eviction([model], 1 << 20, "exact") is not None
        tuned_copies(model)
        save_tuning([model], None, None)  # keeps what is usable
        return is_usable

    return Target(path, path.read_bytes(), change_json, read)


def _bench(model: Path) -> Target:
    n_bytes = model.stat().st_size
    save_bench(model, StoredBench(n_bytes, ((0.5, 0.5),), "a processor", 2, 1.0))
    path = bench_path(model)
    return Target(path, path.read_bytes(), change_json, lambda: load_bench(model, n_bytes) is not None)


def _hot_set(paths: list[str], engine: _core.Engine) -> Target:
    save_hot_set(paths, [(0, 1, 0), (0, 2, 0)])
    options = _core.LoaderOptions()
    options.expert_memory_bytes = 1 << 20
    engine.set_expert_memory(options)
    path = hot_set_paths(paths[0])[0]

    def read() -> bool:
        copies = load_hot_set(paths)
        engine.warm([(layer, expert, _core.Precision(precision)) for layer, expert, precision in copies])
        return bool(copies)

    return Target(path, path.read_bytes(), change_json, read)


def _request_traces(paths: list[str], engine: _core.Engine) -> Target:
    traces = engine.request_traces()
    save_traces(paths, [], [np.ones(traces.n_cells, np.float32)])
    path = traces_path(paths[0])

    def read() -> bool:
        found = load_traces(paths, traces.n_cells)
        for of_prompts, matrices in zip((True, False), found, strict=True):
            for counts in matrices:
                traces.add(of_prompts, counts)
        return any(found)

    return Target(path, path.read_bytes(), change_arrays, read)


def _gates(paths: list[str], engine: _core.Engine) -> Target:
    n_embd = engine.get_int(f"{engine.architecture}.embedding_length", 0)
    n_expert = engine.n_expert
    layers = [layer for layer, n in enumerate(n_expert) if n > 0]
    maps = {}
    for place, layer in enumerate(layers):
        n_rows = sum(n_expert[other] for other in layers[place : place + 2])
        maps[layer] = GateMap(np.ones((n_rows, n_embd), np.float16), np.zeros(n_rows, np.float32))
    save_gates(paths, TrainedGates(1, maps))
    path = gates_path(paths[0])
    return Target(path, path.read_bytes(), change_arrays, partial(give_gates, engine))


def _hybrid(paths: list[str], engine: _core.Engine) -> Target:
    save_hybrid(paths, HybridMaps(np.zeros(10, np.int32), 2, {(0, 1): np.zeros((0, 0), np.float32)}))
    path = hybrid_path(paths[0])

    def read() -> bool:
        maps = load_hybrid(paths)
        if maps is None:
            return False
        try:
            engine.set_hybrid_weights(to_native_hybrid(maps))
        except ValueError as error:  # as llama.py does
            raise UsageError(f"{error}.") from None
        return True

    return Target(path, path.read_bytes(), change_arrays, read)

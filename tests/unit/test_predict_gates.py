"""What gates learn, from made-up layers that depend on each other linearly, and the file they are kept in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hobbit_py.predict import (
    GateMap,
    RouterSamples,
    TrainedGates,
    fit_gates,
    gates_path,
    load_gates,
    save_gates,
    trained_recall,
)

N_TOKENS, N_TRAINED, SEQUENCE = 640, 500, 64
LAYERS = [1, 2, 4]  # the others have no experts
N_EXPERT = {1: 8, 2: 6, 4: 8}
N_EMBD, N_USED = 12, 2
Floats = npt.NDArray[np.float32]


def router_of(layer: int) -> Floats:
    return np.random.default_rng([7, layer]).normal(size=(N_EXPERT[layer], N_EMBD)).astype(np.float32)


ROUTERS = {layer: router_of(layer) for layer in LAYERS}


def completed(logits: Floats, *, has_biases: bool) -> Floats:
    """As a sigmoid and a bias on the selection make them, if there are any."""
    if not has_biases:
        return logits
    bias = np.random.default_rng(9).normal(size=logits.shape[1])
    return np.log(np.maximum(1 / (1 + np.exp(-logits)) + 0.1 * (bias - bias.min()), 1e-9)).astype(np.float32)


def taken(*, has_biases: bool = False) -> Iterator[tuple[npt.NDArray[np.int32], Floats, Floats, Floats]]:
    """Tokens whose input turns by a fixed amount from layer to layer, and whose next token is the same turned again."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(N_EMBD, N_EMBD)))[0].astype(np.float32)
    width = max(N_EXPERT.values())
    first = rng.normal(size=N_EMBD).astype(np.float32)
    for number in range(N_TOKENS):
        if number % SEQUENCE == 0:
            first = rng.normal(size=N_EMBD).astype(np.float32)
        rows, gates, inputs, logits = [], [], [], []
        x = first
        for place, layer in enumerate(LAYERS):
            made = ROUTERS[layer] @ x
            chosen = np.argsort(-completed(made[None], has_biases=has_biases)[0], kind="stable")[:N_USED]
            rows.append([number + 1, 0, layer, 0, *chosen])
            ahead = np.full((3, width), np.nan, np.float32)
            for d, other in enumerate(LAYERS[place + 1 :]):
                ahead[d, : N_EXPERT[other]] = completed((ROUTERS[other] @ x)[None], has_biases=has_biases)
            gates.append(ahead)
            inputs.append(x)
            logits.append(np.pad(made, (0, width - len(made)), constant_values=np.nan))
            x = turn @ x
        first = 0.9 * (turn @ first) + 0.45 * rng.normal(size=N_EMBD).astype(np.float32)
        yield np.array(rows, np.int32), np.stack(gates), np.stack(inputs), np.stack(logits)


def samples_in(folder: Path, *, has_biases: bool = False) -> RouterSamples:
    samples = RouterSamples(folder, N_TOKENS, SEQUENCE)
    for one in taken(has_biases=has_biases):
        assert samples.add(one)
    return samples


@pytest.mark.parametrize("has_biases", [False, True])
def test_gates_learn_how_inputs_change_from_layer_to_layer(tmp_path: Path, has_biases: bool) -> None:
    with closing(samples_in(tmp_path, has_biases=has_biases)) as samples:
        gates = fit_gates(samples, ROUTERS, N_TRAINED)
        untrained = TrainedGates(gates.n_ahead, {layer: stacked(layer) for layer in LAYERS})
        for distance in (1, 2):
            before, after = (trained_recall(g, samples, ROUTERS, N_TRAINED, distance) for g in (untrained, gates))
            assert before < 0.6
            assert after > 0.85
        assert trained_recall(gates, samples, ROUTERS, N_TRAINED, 3) == 0.0  # there are no such layers
    assert [len(gates.maps[layer].rows) for layer in LAYERS] == [8 + 6 + 8, 6 + 8, 8]
    assert not list(tmp_path.iterdir())


def stacked(layer: int) -> GateMap:
    """The routers as they are."""
    rows = np.concatenate([0 * ROUTERS[layer], *(ROUTERS[other] for other in LAYERS if other > layer)])
    return GateMap(rows.astype(np.float16), np.zeros(len(rows), np.float32))


def test_gates_learn_what_the_next_token_of_a_sequence_uses(tmp_path: Path) -> None:
    with closing(samples_in(tmp_path)) as samples:
        gates = fit_gates(samples, ROUTERS, N_TRAINED)
        follows = np.flatnonzero(samples.has_next()[N_TRAINED:]) + N_TRAINED
        assert not set(follows.tolist()) & {511, 575, 639}
        assert len(follows) == N_TOKENS - N_TRAINED - 3
        for layer in LAYERS:
            n = N_EXPERT[layer]
            own = gates.maps[layer].rows[:n].astype(np.float32)
            chances = samples.inputs(layer)[follows] @ own.T + gates.maps[layer].biases[:n]
            used = samples.selected(layer)[follows + 1]
            is_used = np.zeros(chances.shape, bool)
            np.put_along_axis(is_used, used, True, axis=1)
            assert chances.mean() == pytest.approx(N_USED / n, abs=0.02)
            assert chances[is_used].mean() > chances[~is_used].mean() + 0.1


def test_a_pass_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    with closing(RouterSamples(tmp_path, N_TOKENS, SEQUENCE)) as samples:
        passes = taken()
        assert samples.add(next(passes))
        assert not samples.add(tuple(array[:-1] for array in next(passes)))  # type: ignore[arg-type]


def model_file(folder: Path, n_bytes: int = 100) -> list[str]:
    path = folder / "model.gguf"
    path.write_bytes(b"x" * n_bytes)
    return [str(path)]


GATES = TrainedGates(3, {1: GateMap(np.ones((4, 2), np.float16), np.zeros(4, np.float32))})


def test_gates_are_kept_for_this_model_only(tmp_path: Path) -> None:
    paths = model_file(tmp_path)
    assert load_gates(paths) is None
    assert save_gates(paths, GATES) == gates_path(paths[0]) == tmp_path / "model.hobbit-gates.npz"
    loaded = load_gates(paths)
    assert loaded is not None
    assert loaded.n_ahead == 3
    assert np.array_equal(loaded.maps[1].rows, GATES.maps[1].rows)
    assert np.array_equal(loaded.maps[1].biases, GATES.maps[1].biases)
    model_file(tmp_path, 101)
    assert load_gates(paths) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": np.int64(2)},
        {"n_ahead": np.int64(-1)},
        {"n_ahead": np.zeros(2, np.int64)},
        {"n_ahead": np.float32(1)},
        {"rows_1": np.ones((4, 2), np.float32)},
        {"rows_1": np.ones(4, np.float16)},
        {"rows_1": np.full((4, 2), np.inf, np.float16)},
        {"rows_2": np.ones((4, 2), np.float16)},
        {"biases_1": np.zeros(3, np.float32)},
        {"biases_1": np.full(4, np.nan, np.float32)},
        {"biases_1": np.array(["a"] * 4)},
        {"rows_2": np.ones((4, 3), np.float16), "biases_2": np.zeros(4, np.float32)},
    ],
    ids=str,
)
def test_gates_that_make_no_sense_count_as_absent(tmp_path: Path, changes: dict[str, object]) -> None:
    paths = model_file(tmp_path)
    path = save_gates(paths, GATES)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]
    assert load_gates(paths) is None
    path.write_bytes(b"no archive")
    assert load_gates(paths) is None

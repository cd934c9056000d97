"""Second moments of experts' inputs: what is stored of them, and what is made of much, little and nothing."""

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFWriter

from hobbit_py.errors import ModelFileError
from hobbit_py.pack.imatrix import Imatrix
from hobbit_py.pack.moments import correlations, estimate, moments_of, n_triangles

Floats = npt.NDArray[np.float32]
N_IN = 300  # a block of 256 columns and one of 44
GATE, UP, DOWN = (f"blk.0.ffn_{kind}_exps.weight" for kind in ("gate", "up", "down"))


def inputs(seed: int, n_rows: int = 400) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n_rows, 9)) @ rng.normal(size=(9, N_IN)) + rng.normal(size=(n_rows, N_IN))).astype("f4")


def blocks(moments: Floats) -> list[Floats]:
    return [moments[: 256 * 256].reshape(256, 256), moments[256 * 256 :].reshape(44, 44)]


def products(rows: Floats) -> list[Floats]:
    return [rows[:, :256].T @ rows[:, :256], rows[:, 256:].T @ rows[:, 256:]]


def triangles(rows: Floats) -> Floats:
    """Sums of products, as the recorder keeps them."""
    return np.concatenate([block[np.tril_indices(len(block))] for block in products(rows)])


def test_stored_correlations_give_the_moments_again() -> None:
    rows = inputs(0)
    sums = triangles(rows)
    assert len(sums) == n_triangles(N_IN)
    stored = correlations(sums[np.newaxis], N_IN)
    assert stored.dtype == np.int8
    squares = np.square(rows).mean(axis=0)
    for found, expected in zip(blocks(moments_of(stored[0], squares)), products(rows), strict=True):
        mean = expected / len(rows)
        sizes = np.sqrt(mean.diagonal())
        assert np.array_equal(found, found.T)
        np.testing.assert_allclose(found.diagonal(), mean.diagonal(), rtol=1e-5)
        assert np.abs((found - mean) / sizes / sizes[:, np.newaxis]).max() < 0.5 / 127 + 1e-5


def test_an_input_that_is_always_zero_goes_with_nothing() -> None:
    rows = inputs(0)
    rows[:, 7] = 0
    stored = correlations(triangles(rows)[np.newaxis], N_IN)
    block = blocks(moments_of(stored[0], np.square(rows).mean(axis=0)))[0]
    assert not block[7].any()
    assert np.isfinite(block).all()


def test_estimates_follow_what_was_seen() -> None:
    rows, others = inputs(0), inputs(1)
    own, layer = (
        np.concatenate([b.ravel() for b in products(rows)]),
        np.concatenate([b.ravel() for b in products(others)]),
    )

    def likeness(moments: Floats, to: Floats) -> float:
        return float(np.corrcoef(moments, to)[0, 1])

    few, many = (estimate(own, n_rows, layer, N_IN) for n_rows in (1, 1e6))
    assert likeness(many, own) > 0.999
    assert likeness(few, layer) > likeness(few, own)
    unseen = blocks(estimate(None, 0, None, N_IN))[0]
    assert np.array_equal(unseen, unseen[0, 0] * np.eye(256, dtype=np.float32))
    for moments in (few, many, estimate(own, 0, None, N_IN), estimate(own * 0, 5, layer * 0, N_IN)):
        assert all((block.diagonal() > 0).all() for block in blocks(moments))


def write(path, experts: list[Floats], *, shared: bool = False, kind: type = np.int8, n: int | None = None) -> None:
    """An importance matrix whose gate matrices have correlations; those of `up` have the same input."""
    writer = GGUFWriter(path, "")
    writer.add_type("imatrix")
    for name in (GATE, UP, DOWN):
        writer.add_tensor(f"{name}.in_sum2", np.stack([np.square(rows).sum(axis=0) for rows in experts]))
        writer.add_tensor(f"{name}.counts", np.array([[len(rows)] for rows in experts], np.float32))
    sums = np.stack([triangles(rows) for rows in experts])
    stored = correlations(sums.sum(axis=0, keepdims=True) if shared else sums, N_IN)
    writer.add_tensor(f"{GATE}.in_corr", np.ascontiguousarray(stored[:, :n]).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_experts_have_their_own(tmp_path) -> None:
    experts = [inputs(0), inputs(1, 40000)]
    write(tmp_path / "imatrix.gguf", experts)
    with Imatrix(tmp_path / "imatrix.gguf") as imatrix:
        assert [imatrix.has_moments(name) for name in (GATE, UP, DOWN)] == [True, True, False]
        imatrix.check_shape(GATE, N_IN, 2)
        for expert_idx, rows in enumerate(experts):
            found = imatrix.moments(GATE, N_IN, expert_idx)
            assert np.array_equal(found, imatrix.moments(UP, N_IN, expert_idx))
            own = np.concatenate([block.ravel() for block in products(rows)]) / len(rows)
            layer = np.concatenate([b.ravel() for b in products(np.concatenate(experts))]) / sum(map(len, experts))
            expected = estimate(own.astype(np.float32), len(rows), layer.astype(np.float32), N_IN)
            np.testing.assert_allclose(found, expected, atol=0.01 * expected.max())


def test_experts_share_those_of_their_layer(tmp_path) -> None:
    experts = [inputs(0), inputs(1)]
    write(tmp_path / "imatrix.gguf", experts, shared=True)
    with Imatrix(tmp_path / "imatrix.gguf") as imatrix:
        imatrix.check_shape(GATE, N_IN, 2)
        layer = np.concatenate([block.ravel() for block in products(np.concatenate(experts))]) / 800
        expected = estimate(None, 0, layer.astype(np.float32), N_IN)
        for expert_idx in range(2):
            found = imatrix.moments(UP, N_IN, expert_idx)
            np.testing.assert_allclose(found, expected, atol=0.01 * expected.max())


@pytest.mark.parametrize("broken", [{"n": 100}, {"kind": np.int16}])
def test_correlations_of_another_size_or_type_are_refused(tmp_path, broken) -> None:
    write(tmp_path / "imatrix.gguf", [inputs(0), inputs(1)], **broken)
    with pytest.raises(ModelFileError, match="correlations"), Imatrix(tmp_path / "imatrix.gguf") as imatrix:
        imatrix.check_shape(UP, N_IN, 2)


def test_a_truncated_file_is_refused(tmp_path) -> None:
    path = tmp_path / "imatrix.gguf"
    write(path, [inputs(0), inputs(1)])
    path.write_bytes(path.read_bytes()[:-20000])
    with pytest.raises(ModelFileError, match="truncated"), Imatrix(path):
        pass

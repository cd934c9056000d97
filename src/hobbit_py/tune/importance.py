"""How much each input of each expert matters on a text: what an importance matrix holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..pack.imatrix_file import Products, TensorImportance

if TYPE_CHECKING:
    from ..evaluate import Windows
    from ..llama import Llama


# A gigabyte is what the experts of a small model need to have their own; of larger ones a layer's share theirs.
MAX_MOMENTS_BYTES = 1 << 30


def record_importance(
    llama: Llama,
    windows: Sequence[Windows],
    progress: Callable[[float], None] | None = None,
    *,
    max_moments_bytes: int = MAX_MOMENTS_BYTES,
) -> list[TensorImportance]:
    """Runs the windows in batches and sums up the squared inputs of every expert.

    Within max_moments_bytes also how inputs go together (csrc/moe/input_moments.h), which `products_of` reads then.

    `llama` should be made with `logits_all=True`: of tokens whose logits nobody wants, llama.cpp leaves out the last
    layer. Raises UsageError for a dense model.
    """
    engine = llama._engine
    if engine is None:
        raise UsageError("This model has no experts, so there is no lo copy that an importance matrix could improve.")
    engine.record_importance(max_moments_bytes)
    n_tokens = sum(w.n_tokens for w in windows)
    n_done = 0
    for window in (window for w in windows for window in w.inputs):
        llama.reset()
        llama.eval(window)
        n_done += len(window)
        if progress is not None:
            progress(n_done / n_tokens)
    return [TensorImportance(*tensor) for tensor in engine.importance()]


def products_of(llama: Llama) -> Products:
    """What record_importance() found out of how inputs go together."""
    engine = llama._engine
    assert engine is not None
    return engine.moments

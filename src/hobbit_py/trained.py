"""Gates trained for a model (`hobbit_py.predict.gates`): where a run of it uses them."""

from __future__ import annotations

from ._host import _core
from ._native_policies import to_native_gates
from .policies import EvictionPolicy, Prefetch
from .policies.eviction import NextUse
from .predict import load_gates


def give_gates(engine: _core.Engine) -> bool:
    """Gives the engine the gates that lie beside the model, if there are any that fit it; returns whether."""
    gates = load_gates(engine.paths)
    if gates is None:
        return False
    n_embd = engine.get_int(f"{engine.architecture}.embedding_length", 0)
    if any(gate_map.rows.shape[1] != n_embd for gate_map in gates.maps.values()):
        return False
    try:
        engine.set_trained_gates(to_native_gates(gates, len(engine.n_expert)))
    except ValueError:  # other layers than this model's
        return False
    return True


def uses_gates(prefetch: Prefetch, eviction: EvictionPolicy) -> bool:
    """Whether predictor or eviction policy listen to them."""
    if prefetch.predictor == "trained-gates":
        return True
    if isinstance(eviction, NextUse):
        return eviction.trained_weight > 0
    return hasattr(eviction, "on_next_token")

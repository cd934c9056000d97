"""What mixed precision costs in accuracy and saves in bytes, against other ways to read less.

    python scripts/accuracy_sweep.py --model m.gguf --lo m.lo-Q2_K.gguf --lo m.lo-Q3_K.gguf --uniform m-Q3_K.gguf \\
        --text a.txt --text b.txt --out accuracy.jsonl
    python scripts/accuracy_report.py accuracy.jsonl --plot docs/accuracy.png

Every point is a teacher-forced run over the same windows, one token at a time, with an expert arena of a share of the
hi experts' bytes; its predictions are compared with exact mode's, token by token. Bytes are relative to exact mode with
the same arena. Text should be such as the model was not trained on. One JSON line a point is appended to --out; points
that are there already are not run again.

Router filters are run with `--only filter` alone, in exact mode and with high thresholds (docs/router_filters.md).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from sizes import parse_numbers

from hobbit_py import HobbitError, Llama
from hobbit_py.evaluate import Evaluation, Reference, Windows, cut_windows, evaluate
from hobbit_py.mixed import DEFAULT_TILT, default_lo_share, default_policy
from hobbit_py.policies import (
    HI,
    LO,
    AlwaysLow,
    CachePrior,
    HobbitThresholds,
    PrecisionPolicy,
    RouterFilter,
    Substitute,
    WeightThresholds,
)

WINDOW = 256
DEFAULT = "default"
HI_ABOVE = (0.1, 0.2, 0.3, 0.4, 0.7)  # in every layer, besides the default
HOBBIT_THRESHOLDS = ((0.0, 1.0), (0.6, 0.9))
LO_SHARE = 0.25  # besides the default
SKIP_ONLY = (0.9, 0.8, 0.6)
RANDOM_LO = (0.4, 0.7)
FILTER = "filter"  # the method that is run only if it is asked for
EXACT_FILTERS = (
    *(CachePrior(strength, 2) for strength in (0.02, 0.05, 0.1)),
    *(CachePrior(strength, 4) for strength in (0.1, 0.2)),
    *(Substitute(margin, 1) for margin in (0.3, 0.5)),
)
MIXED_FILTERS = (
    None,
    *(CachePrior(strength, 2) for strength in (0.05, 0.1)),
    *(Substitute(margin, 1) for margin in (0.3, 0.5)),
    Substitute(0.5, 2),
)
FILTERED = ((0.3, 0.75), (0.4, 0.9))  # hi above, with the default tilt, and lo share


class RandomLow:
    """The control: every missing expert goes lo with the same probability, whatever its weight."""

    def __init__(self, lo_probability: float) -> None:
        self._lo_probability = lo_probability
        self._rng = np.random.default_rng(0)

    def choose(
        self, layer: int, gate_weights: npt.NDArray[np.float32], resident: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.int64]:
        goes_lo = self._rng.random(len(gate_weights)) < self._lo_probability
        return np.where(goes_lo & (resident != HI), LO, HI)


@dataclass(frozen=True)
class Point:
    """One run: a method and its setting, with an arena of a share of the expert bytes."""

    model: str
    arena: float
    method: str  # exact, weight, hobbit, uniform, fewer experts, skip only, random, filter
    setting: str
    lo: str = ""  # type of the copies, or of the whole model
    path: Path = field(default=Path(), compare=False)
    keywords: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[str, float, str, str, str]:
        return self.model, self.arena, self.method, self.setting, self.lo


@dataclass(frozen=True)
class Model:
    path: Path
    arch: str
    n_layers: int
    n_expert_used: int
    expert_bytes: int

    @classmethod
    def read(cls, path: Path) -> Model:
        reader = gguf.GGUFReader(path)
        arch = str(reader.fields["general.architecture"].contents())
        n_used = int(reader.fields[f"{arch}.expert_used_count"].contents())
        n_layers = int(reader.fields[f"{arch}.block_count"].contents())
        return cls(path, arch, n_layers, n_used, expert_bytes_of(reader))


def expert_bytes_of(reader: gguf.GGUFReader) -> int:
    return sum(int(t.n_bytes) for t in reader.tensors if "_exps.weight" in t.name)


def expert_type(path: Path) -> str:
    """The experts' type, as `hobbit pack` names it: "Q3_K", or "Q2_K,down=Q3_K"."""
    types = {
        t.name.split(".")[2]: t.tensor_type.name for t in gguf.GGUFReader(path).tensors if "_exps.weight" in t.name
    }
    down = types.pop("ffn_down_exps")
    others = sorted(set(types.values()))
    return "/".join(others) if others == [down] else f"{'/'.join(others)},down={down}"


def points_of(model: Model, los: Sequence[Path], uniforms: Sequence[Path], arena: float) -> Iterator[Point]:
    """All points of one model and arena, exact mode first."""

    def point(method: str, setting: str, lo: str = "", path: Path = model.path, **keywords: object) -> Point:
        return Point(model.path.name, arena, method, setting, lo, path, keywords)

    def mixed(
        method: str, setting: str, lo: Path, policy: PrecisionPolicy, lo_share: float | None = None, **more: object
    ) -> Point:
        lo_ratio = expert_bytes_of(gguf.GGUFReader(lo)) / model.expert_bytes
        share = default_lo_share(model.n_expert_used, arena, lo_ratio) if lo_share is None else lo_share
        return point(method, setting, expert_type(lo), lo_path=lo, policy=policy, lo_share=share, **more)

    default = default_policy(model.n_expert_used, arena, model.n_layers)
    yield point("exact", "", precision="exact")
    for lo in los:
        yield mixed("weight", DEFAULT, lo, default)
    for uniform in uniforms:
        yield point("uniform", "whole model", expert_type(uniform), uniform, precision="exact")
    for n_used in range(model.n_expert_used - 1, model.n_expert_used // 2 - 1, -1):
        overrides = {f"{model.arch}.expert_used_count": n_used}
        yield point("fewer experts", f"{n_used} of {model.n_expert_used}", precision="exact", kv_overrides=overrides)
    for lo in los:
        yield mixed("weight", "every miss lo, lo share 1", lo, AlwaysLow(), 1.0)
    for threshold in SKIP_ONLY:
        # A lo file is needed for a policy to be asked; no memory goes to its copies and none is ever read.
        yield mixed("skip only", f"beyond {threshold:g}", los[0], HobbitThresholds(threshold, threshold), 0.0)
    for hi_above in HI_ABOVE:
        for lo in los:
            yield mixed("weight", f"hi above {hi_above:g}", lo, WeightThresholds(hi_above))
    for lo in los:
        yield mixed("weight", f"{DEFAULT}, lo share {LO_SHARE:g}", lo, default, LO_SHARE)
    for t1, t2 in HOBBIT_THRESHOLDS:
        for lo in los:
            yield mixed("hobbit", f"T1={t1:g} T2={t2:g}", lo, HobbitThresholds(t1, t2))
    for probability in RANDOM_LO:
        for lo in los:
            yield mixed("random", f"p={probability:g}", lo, RandomLow(probability))
    for router_filter in EXACT_FILTERS:
        setting = f"exact, {filter_text(router_filter)}"
        yield point(FILTER, setting, precision="exact", router_filter=router_filter)
    for hi_above, lo_share in FILTERED:
        for router_filter in MIXED_FILTERS:
            setting = f"hi above {hi_above:g}, lo share {lo_share:g}, {filter_text(router_filter)}"
            for lo in los:
                policy = WeightThresholds.tilted(hi_above, DEFAULT_TILT, model.n_layers)
                yield mixed(FILTER, setting, lo, policy, lo_share, router_filter=router_filter)


def filter_text(router_filter: RouterFilter | None) -> str:
    """As one writes it, "Substitute(0.3, 1)"."""
    if router_filter is None:
        return "no filter"
    amount = router_filter.strength if isinstance(router_filter, CachePrior) else router_filter.margin
    return f"{type(router_filter).__name__}({amount:g}, {router_filter.n_protected})"


def is_asked(point: Point, only: Sequence[str] | None) -> bool:
    """Whether to run it: if its setting or its method is named, or, with nothing named, everything but filters."""
    return point.setting in only or point.method in only if only else point.method != FILTER


def load(point: Point, model: Model, n_threads: int) -> Llama:
    keywords = dict(point.keywords)
    return Llama(
        point.path,
        expert_memory=int(model.expert_bytes * point.arena),
        lo=keywords.pop("lo_path", None),
        n_ctx=WINDOW,
        n_threads=n_threads,
        prefetch=False,  # what is read ahead depends on the machine's speed
        **keywords,
    )


def windows_of_texts(llama: Llama, texts: Sequence[bytes], n_tokens: int) -> Windows:
    """Windows of all texts in turn, n_tokens together; all but the first prediction of a window are scored."""
    per_text = -(-n_tokens // (len(texts) * WINDOW)) * WINDOW
    begin = llama.tokenize(b"", add_bos=True, special=True)
    parts = [
        cut_windows(
            llama.tokenize(text[: 16 * per_text], add_bos=True, special=True)[:per_text],
            WINDOW,
            bos=begin[0] if begin else None,
            first_scored=1,
        )
        for text in texts
    ]
    return Windows(
        tuple(window for part in parts for window in part.inputs),
        tuple(targets for part in parts for targets in part.targets),
        first_scored=1,
    )


def record(point: Point, evaluation: Evaluation, exact_bytes: float) -> dict[str, Any]:
    share_hi, share_lo, share_skip = evaluation.shares
    assert evaluation.divergence is not None
    return {
        **dict(zip(("model", "arena", "method", "setting", "lo"), point.key, strict=True)),
        "perplexity": evaluation.perplexity,
        **asdict(evaluation.divergence),
        "share_hi": share_hi,
        "share_lo": share_lo,
        "share_skip": share_skip,
        "dropped_mass": evaluation.stats.dropped_mass,
        "read_bytes_per_token": evaluation.read_bytes_per_token,
        "bytes_ratio": evaluation.read_bytes_per_token / exact_bytes,
        "tokens": evaluation.n_tokens,
        "tok_s": evaluation.n_tokens / evaluation.elapsed_s,
    }


def sweep(model: Model, points: Sequence[Point], args: argparse.Namespace, done: set[tuple[Any, ...]]) -> None:
    """Runs what is not done yet; the exact run of an arena always, for its predictions and bytes."""
    exact, *others = points
    others = [p for p in others if p.key not in done and is_asked(p, args.only)]
    if not others and exact.key in done:
        return
    texts = [path.read_bytes() for path in args.text]
    llama = load(exact, model, args.threads)
    windows = windows_of_texts(llama, texts, args.tokens)
    with Reference(windows.n_scored, llama.n_vocab()) as reference:
        evaluation = evaluate(llama, windows, record=reference)
        llama.close()
        exact_bytes = evaluation.read_bytes_per_token
        for point in others:
            llama = load(point, model, args.threads)
            evaluation = evaluate(llama, windows, against=reference)
            llama.close()
            write(args.out, record(point, evaluation, exact_bytes))
        if exact.key not in done and not args.only:
            # Once more: what differs from itself would be noise of the method.
            llama = load(exact, model, args.threads)
            write(args.out, record(exact, evaluate(llama, windows, against=reference), exact_bytes))
            llama.close()


def write(path: Path, figures: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")
    print(
        f"{figures['model']} {figures['arena']:g} {figures['method']} {figures['lo']} {figures['setting']}: "
        f"{100 * figures['loss']:+.2f}% +- {100 * figures['loss_se']:.2f}, bytes x{figures['bytes_ratio']:.3f}",
        flush=True,
    )


def read_done(path: Path) -> set[tuple[Any, ...]]:
    if not path.exists():
        return set()
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {(r["model"], r["arena"], r["method"], r["setting"], r["lo"]) for r in records}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="GGUF with the hi experts")
    parser.add_argument("--lo", type=Path, action="append", required=True, help="a lo copy of it; several times")
    parser.add_argument("--uniform", type=Path, action="append", default=[], help="a quantisation of the whole model")
    parser.add_argument("--text", type=Path, action="append", required=True, help="text to predict; several times")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of a point, over all texts")
    parser.add_argument("--arenas", type=parse_numbers, default=[25, 50], help="percent of the expert bytes")
    parser.add_argument(
        "--only", action="append", help="run this setting or method alone, e.g. 'default'; several times"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, appended")
    args = parser.parse_args()
    try:
        model = Model.read(args.model)
        done = read_done(args.out)
        for percent in args.arenas:
            sweep(model, list(points_of(model, args.lo, args.uniform, percent / 100)), args, done)
    except (HobbitError, OSError) as error:
        print(f"accuracy_sweep: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

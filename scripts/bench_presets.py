"""Whether reading ahead pays: every preset with and without it, on the same tokens, in turns.

    python scripts/bench_presets.py wide.gguf --capacity 25 --tokens 512 --out presets.jsonl
    python scripts/bench_presets.py wide.gguf --presets expertflow,baseline --check --max-loss 0.02

Two models of a preset are loaded, one that reads ahead and one that does not, each with room for --capacity percent of
the experts. The tokens of a text are evaluated one by one, as in decoding, a block of --block tokens by one model and
then by the other, which of them first by turns: both see the same tokens, and a machine or drive that drifts hurts both
alike. Sequences have --window tokens; the first --warm tokens are not counted. A preset that reads nothing ahead is
compared with itself, which shows how much of a difference is chance.

The model is linked into a folder of its own with the files beside it (lo copy, trained predictor), so that what presets
keep between runs is not left behind. `expertflow` needs a trained predictor: `hobbit_py.train_predictor`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import hobbit_py
from hobbit_py.policies import PRESETS, preset_of
from hobbit_py.predict.stored import traces_path
from hobbit_py.stats import Stats

SCRIPTS = Path(__file__).parent
WAYS = ("ahead", "without")


@dataclass(frozen=True)
class Block:
    """Some tokens evaluated by one model. Bytes and times are of the whole block; bytes of copies read ahead count when
    they are judged."""

    preset: str
    way: str
    block_idx: int
    n_tokens: int
    seconds: float
    stall_s: float
    hit_rate: float
    read_bytes: int
    useful_bytes: int
    late_bytes: int
    wasted_bytes: int
    cancelled_bytes: int


@dataclass(frozen=True)
class Summary:
    """A preset over all blocks; `speedup` is time without over time with, block by block: median, least, most."""

    preset: str
    precision: str
    n_blocks: int
    tok_s: dict[str, float]
    speedup: tuple[float, float, float]
    stall_ms: dict[str, float]
    hit_rate: dict[str, float]
    read_mb: dict[str, float]
    useful_mb: float
    late_mb: float
    wasted_mb: float
    cancelled_mb: float


def link_model(model: Path, folder: Path) -> Path:
    """Links to the model and what lies beside it, but for request traces: every run begins without."""
    for path in model.parent.glob(f"{model.stem}.*"):
        if path.name != traces_path(model).name:
            (folder / path.name).symlink_to(path.resolve())
    return folder / model.name


def load(path: Path, preset: str, way: str, options: argparse.Namespace, memory: int) -> hobbit_py.Llama:
    return hobbit_py.Llama(
        path,
        preset=preset,
        prefetch=None if way == "ahead" else False,
        expert_memory=memory,
        n_ctx=options.window,
        n_threads=options.threads,
    )


def expert_slots_bytes(path: Path) -> int:
    """Memory with a slot for every expert."""
    llama = hobbit_py.Llama(path, precision="exact", expert_memory=0, prefetch=False, n_ctx=64)
    try:
        assert llama._engine is not None
        return int(llama._engine.all_slots_bytes)
    finally:
        llama.close()


def evaluate(llama: hobbit_py.Llama, tokens: Sequence[int], n_done: int, window: int) -> tuple[float, Stats]:
    """Evaluates tokens one by one, `n_done` came before; returns seconds and what was counted."""
    before, started = llama.stats(), time.perf_counter()
    for i, token in enumerate(tokens, n_done):
        if i % window == 0:
            llama.reset()
        llama.eval([token])
    return time.perf_counter() - started, llama.stats().since(before)


def measure(path: Path, preset: str, memory: int, options: argparse.Namespace) -> tuple[list[Block], str]:
    """All blocks of a preset, in the order they ran, and its precision."""
    models = {way: load(path, preset, way, options, memory) for way in WAYS}
    try:
        first = models["without"]
        text = first.tokenize(options.text.read_bytes())
        n_needed = options.warm + options.tokens
        tokens = (text * -(-n_needed // len(text)))[:n_needed]
        for llama in models.values():
            evaluate(llama, tokens[: options.warm], 0, options.window)
        blocks = []
        for block_idx, n_done in enumerate(range(options.warm, n_needed, options.block)):
            part = tokens[n_done : n_done + options.block]
            for way in WAYS if block_idx % 2 == 0 else reversed(WAYS):
                seconds, stats = evaluate(models[way], part, n_done, options.window)
                blocks.append(
                    Block(
                        preset=preset,
                        way=way,
                        block_idx=block_idx,
                        n_tokens=len(part),
                        seconds=seconds,
                        stall_s=stats.stall_us / 1e6,
                        hit_rate=stats.hit_rate,
                        read_bytes=stats.read_bytes,
                        useful_bytes=stats.prefetch_useful_bytes,
                        late_bytes=stats.prefetch_late_bytes,
                        wasted_bytes=stats.prefetch_wasted_bytes,
                        cancelled_bytes=stats.prefetch_cancelled_bytes,
                    )
                )
        return blocks, first.stats().precision
    finally:
        for llama in models.values():
            llama.close()


def summarise(preset: str, precision: str, blocks: Sequence[Block]) -> Summary:
    ways = {way: [b for b in blocks if b.way == way] for way in WAYS}
    n_tokens = sum(b.n_tokens for b in ways["ahead"])
    by_idx = {way: {b.block_idx: b for b in ways[way]} for way in WAYS}
    ratios = [by_idx["without"][i].seconds / b.seconds for i, b in by_idx["ahead"].items()]

    def per_token(way: str, name: str) -> float:
        return float(sum(getattr(b, name) for b in ways[way])) / n_tokens

    return Summary(
        preset=preset,
        precision=precision,
        n_blocks=len(ratios),
        tok_s={way: statistics.median(b.n_tokens / b.seconds for b in ways[way]) for way in WAYS},
        speedup=(statistics.median(ratios), min(ratios), max(ratios)),
        stall_ms={way: per_token(way, "stall_s") * 1e3 for way in WAYS},
        hit_rate={way: statistics.mean(b.hit_rate for b in ways[way]) for way in WAYS},
        read_mb={way: per_token(way, "read_bytes") / 1e6 for way in WAYS},
        useful_mb=per_token("ahead", "useful_bytes") / 1e6,
        late_mb=per_token("ahead", "late_bytes") / 1e6,
        wasted_mb=per_token("ahead", "wasted_bytes") / 1e6,
        cancelled_mb=per_token("ahead", "cancelled_bytes") / 1e6,
    )


def table(rows: Sequence[Summary]) -> list[str]:
    """Markdown; MB and ms are of a token."""
    lines = [
        "| preset | precision | tok/s without | with | time without / with (min to max) | stall ms without | with "
        "| MB read without | with | useful | late | wasted | cancelled |",
        "|" + "---|" * 13,
    ]
    for row in rows:
        median, least, most = row.speedup
        lines.append(
            f"| `{row.preset}` | {row.precision} | {row.tok_s['without']:.2f} | {row.tok_s['ahead']:.2f} "
            f"| {median:.3f} ({least:.2f} to {most:.2f}) | {row.stall_ms['without']:.2f} | {row.stall_ms['ahead']:.2f} "
            f"| {row.read_mb['without']:.1f} | {row.read_mb['ahead']:.1f} | {row.useful_mb:.2f} | {row.late_mb:.2f} "
            f"| {row.wasted_mb:.2f} | {row.cancelled_mb:.2f} |"
        )
    stall = {row.preset: row.stall_ms["ahead"] for row in rows}
    if stall.get("baseline") and "expertflow" in stall:
        share = stall["expertflow"] / stall["baseline"]
        lines.append(f"\nStall of expertflow over that of baseline: {share:.1%}")
    return lines


def run(options: argparse.Namespace) -> int:
    names = list(PRESETS) if options.presets == "all" else options.presets.split(",")
    rows: list[Summary] = []
    out = options.out.open("w", encoding="utf-8") if options.out else None
    with tempfile.TemporaryDirectory(prefix="bench_presets.") as folder:
        path = link_model(options.model, Path(folder))
        memory = int(expert_slots_bytes(path) * options.capacity / 100)
        for name in names:
            blocks, precision = measure(path, name, memory, options)
            rows.append(summarise(name, precision, blocks))
            print(f"{name}: {rows[-1].speedup[0]:.3f}", file=sys.stderr, flush=True)
            if out is not None:
                out.writelines(json.dumps({"kind": "block", **asdict(block)}) + "\n" for block in blocks)
                out.write(json.dumps({"kind": "summary", **asdict(rows[-1])}) + "\n")
                out.flush()
    print("\n".join(table(rows)))
    compared = [row for row in rows if preset_of(row.preset).predictor != "none"]
    slow = [row.preset for row in compared if row.speedup[0] < 1 / (1 + options.max_loss)]
    if slow:
        print(f"slower than without reading ahead by more than {options.max_loss:.0%}: {', '.join(slow)}")
    return 1 if slow and options.check else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--presets", default="all", help="names, separated by commas (all)")
    parser.add_argument("--capacity", type=float, default=25, help="percent of the experts that have room (25)")
    parser.add_argument("--text", type=Path, default=SCRIPTS / "data" / "excerpt.txt")
    parser.add_argument("--warm", type=int, default=128, help="tokens that are not counted (128)")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--block", type=int, default=16, help="tokens in a turn (16)")
    parser.add_argument("--window", type=int, default=128, help="tokens of a sequence (128)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="for JSON lines")
    parser.add_argument("--check", action="store_true", help="end with 1 if a preset loses more than --max-loss")
    parser.add_argument("--max-loss", type=float, default=0.02)
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except (OSError, ValueError, hobbit_py.HobbitError) as error:
        print(f"bench_presets: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

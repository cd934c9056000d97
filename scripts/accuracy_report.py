"""Makes the tables that docs/accuracy.md has a part of, and its plot, from what accuracy_sweep.py wrote.

    python scripts/accuracy_report.py accuracy.jsonl --plot docs/accuracy.png > tables.md

Says whether at equal bytes one of our settings is closer to exact mode than each alternative, and exits with 1 if not.
Router filters, which change what is computed and not in which precision, are left out. The plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
OURS = ("weight", "hobbit")
DEFAULT = "default"
METHODS = (*OURS, "random", "skip only", "fewer experts", "uniform")
MARKERS = {"weight": "o", "hobbit": "^", "random": "x", "skip only": "v", "fewer experts": "s", "uniform": "D"}
LO_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")
BYTES_TOLERANCE = 0.01  # of exact mode's bytes: what still counts as no more
LOSSES = (0.005, 0.01, 0.02, 0.03, 0.05)  # of the curve
MAX_LOSS_PERCENT = 12.0  # of the plot's axis; what loses more is drawn at the edge


def read_records(paths: Sequence[Path]) -> list[Record]:
    records = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [r for r in records if r["method"] != "filter"]


def groups_of(records: Sequence[Record]) -> Iterator[tuple[str, float, list[Record]]]:
    """The records of each model and arena."""
    for model in dict.fromkeys(r["model"] for r in records):
        for arena in sorted({r["arena"] for r in records if r["model"] == model}):
            yield model, arena, [r for r in records if (r["model"], r["arena"]) == (model, arena)]


def best_of_ours(records: Sequence[Record], bytes_ratio: float) -> Record | None:
    """Our setting with the least KL divergence of those that read no more than that; None if all read more."""
    ours = [r for r in records if r["method"] in OURS and r["bytes_ratio"] <= bytes_ratio + BYTES_TOLERANCE]
    return min(ours, key=lambda r: float(r["kl_mean"]), default=None)


def without_dominated(records: Sequence[Record]) -> list[Record]:
    """Drops our settings that another of ours beats in bytes and in KL divergence."""
    ours = [r for r in records if r["method"] in OURS]

    def is_dominated(r: Record) -> bool:
        return any(o["bytes_ratio"] < r["bytes_ratio"] and o["kl_mean"] < r["kl_mean"] for o in ours)

    return [r for r in records if r["method"] not in OURS or r["setting"] == DEFAULT or not is_dominated(r)]


def table(records: Sequence[Record]) -> Iterator[str]:
    yield "| method | type | setting | perplexity | KL mean | top-1 | hi/lo/skip | bytes | ours with no more bytes |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for r in sorted(
        without_dominated(records), key=lambda r: (max(len(OURS), METHODS.index(r["method"])), r["bytes_ratio"])
    ):
        lo = "" if r["method"] == "skip only" else r["lo"]
        mix = "/".join(f"{100 * r[f'share_{name}']:.0f}" for name in ("hi", "lo", "skip"))
        rival = "" if r["method"] in OURS else ours_text(best_of_ours(records, r["bytes_ratio"]))
        n_bytes = f"x{r['bytes_ratio']:.3f}"
        yield (
            f"| {r['method']} | {lo} | {r['setting']} | {loss_text(r)} | {r['kl_mean']:.4f} | "
            f"{r['top1_agreement']:.3f} | {mix} | {n_bytes} | {rival} |"
        )


def worse_or_alone(records: Sequence[Record]) -> tuple[list[Record], list[Record], int]:
    """The alternatives that none of ours beats by KL divergence at their bytes, those below all our bytes, and how many
    there are in all.
    """
    others = [r for r in records if r["method"] not in (*OURS, "exact")]
    rivals = [(r, best_of_ours(records, r["bytes_ratio"])) for r in others]
    worse = [r for r, ours in rivals if ours is not None and ours["kl_mean"] >= r["kl_mean"]]
    return worse, [r for r, ours in rivals if ours is None], len(others)


def curve(groups: Sequence[tuple[str, float, list[Record]]]) -> Iterator[str]:
    """The least bytes of our settings within each loss."""
    yield "| model | arena | " + " | ".join(f"{100 * loss:g}%" for loss in LOSSES) + " |"
    yield "|---" * (2 + len(LOSSES)) + "|"
    for model, arena, records in groups:
        cells = []
        for loss in LOSSES:
            ours = [r for r in records if r["method"] in OURS and r["loss"] <= loss]
            best = min(ours, key=lambda r: float(r["bytes_ratio"]), default=None)
            cells.append("none" if best is None else f"x{best['bytes_ratio']:.2f} ({best['lo']}, {best['setting']})")
        yield f"| {model} | {arena:.0%} | " + " | ".join(cells) + " |"


def loss_text(record: Record) -> str:
    return f"{100 * record['loss']:+.2f}% ± {100 * record['loss_se']:.2f}"


def ours_text(ours: Record | None) -> str:
    if ours is None:
        return "none reads so little"
    return f"KL {ours['kl_mean']:.4f}, {loss_text(ours)} ({ours['lo']}, {ours['setting']})"


def plot(groups: Sequence[tuple[str, float, list[Record]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    models = list(dict.fromkeys(model for model, _, _ in groups))
    arenas = sorted({arena for _, arena, _ in groups})
    figure, axes = plt.subplots(
        len(models), len(arenas), figsize=(6.5 * len(arenas), 4.5 * len(models)), squeeze=False, sharey=True
    )
    for model, arena, records in groups:
        axis = axes[models.index(model)][arenas.index(arena)]
        los = sorted({r["lo"] for r in records if r["method"] in OURS})
        for method in METHODS:
            for lo in los if method in (*OURS, "random") else [None]:
                chosen = [r for r in records if r["method"] == method and lo in (None, r["lo"])]
                draw(axis, chosen, method, None if lo is None else LO_COLOURS[los.index(lo)], lo)
        axis.axhline(0, color="0.7", linewidth=0.8)
        axis.set_title(f"{model}, room for {arena:.0%} of the experts", fontsize=9)
        axis.set_ylim(-1, MAX_LOSS_PERCENT + 0.5)
        axis.set_xlim(0, 1.02)
        axis.set_xlabel("expert bytes read a token, over exact mode")
        axis.set_ylabel("perplexity against exact, %")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def draw(axis: Any, records: Sequence[Record], method: str, colour: str | None, lo: str | None) -> None:  # noqa: ANN401
    axis.errorbar(
        [r["bytes_ratio"] for r in records],
        [min(100 * r["loss"], MAX_LOSS_PERCENT) for r in records],
        yerr=[100 * r["loss_se"] if 100 * r["loss"] < MAX_LOSS_PERCENT else 0 for r in records],
        linestyle="none",
        marker=MARKERS[method],
        markersize=5,
        elinewidth=0.6,
        color=colour or {"skip only": "0.4", "fewer experts": "black", "uniform": "purple"}[method],
        alpha=1.0 if method != "random" else 0.6,
        label=f"{method}, lo {lo}" if lo else method,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+", help="JSON lines of accuracy_sweep.py")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    args = parser.parse_args()
    try:
        groups = list(groups_of(read_records(args.records)))
    except (OSError, ValueError) as error:
        print(f"accuracy_report: {error}", file=sys.stderr)
        return 1
    for model, arena, records in groups:
        exact = next((r for r in records if r["method"] == "exact"), None)
        size = "" if exact is None else f" Exact mode reads {exact['read_bytes_per_token'] / 1e6:.2f} MB a token."
        print(f"\n### {model}, room for {arena:.0%} of the experts\n")
        print(f"{records[0]['tokens']} tokens.{size}\n")
        print("\n".join(table([r for r in records if r["method"] != "exact"])))
    print("\n### Least bytes of ours within a loss\n")
    print("\n".join(curve(groups)))
    if args.plot:
        plot(groups, args.plot)
    return report_comparisons(groups)


def report_comparisons(groups: Sequence[tuple[str, float, list[Record]]]) -> int:
    """Prints how the alternatives compare with ours; the exit status, 1 if one of them is as close to exact mode."""
    n_worse = n_alone = n_compared = 0
    for model, arena, records in groups:
        worse, alone, n = worse_or_alone(records)
        n_worse, n_alone, n_compared = n_worse + len(worse), n_alone + len(alone), n_compared + n
        for verdict, found in (("no setting of ours is closer", worse), ("no setting of ours reads so little", alone)):
            for r in found:
                print(f"\n{model}, {arena:.0%}: {r['method']} {r['lo']} {r['setting']}: {verdict}")
    print(
        f"\n{n_compared} alternatives: ours is closer to exact mode at their bytes than "
        f"{n_compared - n_worse - n_alone}, not than {n_worse}; {n_alone} read less than ours ever does."
    )
    return 1 if n_worse else 0


if __name__ == "__main__":
    sys.exit(main())

"""What a run cost, in words."""

from __future__ import annotations

from ..sizes import format_bytes
from ..stats import Stats, format_share, peak_rss_bytes
from .conversation import Answer


def summary(answer: Answer) -> str:
    """Returns one line: "42 tokens, 11.3 tok/s, 93% hits, 0.41 GB read"."""
    parts = ["1 token" if answer.n_tokens == 1 else f"{answer.n_tokens} tokens"]
    if answer.decode_tok_s is not None:
        parts.append(f"{answer.decode_tok_s:.1f} tok/s")
    if answer.stats.precision != "dense":
        if answer.stats.n_asked:
            parts.append(f"{answer.stats.hit_rate:.0%} hits")
        parts.append(f"{answer.stats.read_bytes / 1e9:.2f} GB read")
    return ", ".join(parts)


def stats_rows(stats: Stats, n_context_tokens: int, n_ctx: int) -> list[tuple[str, str]]:
    """Returns (name, value) rows of everything since the model was loaded."""
    rows = [("tokens computed", str(stats.n_tokens)), ("context", f"{n_context_tokens} of {n_ctx} tokens")]
    rows.append(("memory, peak", _of(peak_rss_bytes(), stats.memory_bytes)))
    rows.append(("precision", stats.precision))
    if stats.precision == "dense":
        return rows
    resident_bytes = stats.resident_bytes_hi + stats.resident_bytes_lo
    rows.append(("experts resident", _of(resident_bytes, stats.expert_memory_bytes)))
    n_hits, n_misses = stats.n_hits_hi + stats.n_hits_lo, stats.n_misses_hi + stats.n_misses_lo
    hit_rate = format_share(stats.measured_hit_rate)
    rows.append(("experts asked for", f"{n_hits} hits, {n_misses} misses, {hit_rate} hits"))
    rows.append(("experts streamed", f"{stats.n_streamed} (long prompts)"))
    if stats.device_expert_bytes:
        n_asked = stats.n_device_hits + stats.n_device_misses
        found = format_share(stats.n_device_hits / n_asked if n_asked else None)
        rows.append(("experts on the GPU", _of(stats.resident_bytes_device, stats.device_expert_bytes)))
        rows.append(("found there", f"{stats.n_device_hits} of {n_asked}, {found}"))
        rows.append(("copied to it", f"{stats.copied_bytes / 1e9:.2f} GB, waited {stats.copy_wait_us / 1e6:.2f} s"))
        rounding = ", with its bits" if stats.host_rounds_as_device else ""
        seconds = f"{stats.host_compute_us / 1e6:.2f} s"
        rows.append(("computed beside it", f"{stats.n_host_parts} matrices in {seconds}{rounding}"))
    rows.append(("evictions", str(stats.n_evictions)))
    rows.append(("read", f"{stats.read_bytes / 1e9:.2f} GB in {stats.n_reads} reads, {stats.n_retries} retried"))
    rows.append(("waited for the drive", f"{stats.stall_us / 1e6:.2f} s"))
    if stats.precision == "mixed":
        n_hi, n_lo = stats.n_hits_hi + stats.n_misses_hi, stats.n_hits_lo + stats.n_misses_lo
        rows.append(("high / low / skipped", f"{n_hi} / {n_lo} / {stats.n_skipped}"))
        rows.append(("router weight dropped", f"{stats.dropped_mass:.3%}"))
    return rows


def _of(used_bytes: int, budget_bytes: int) -> str:
    return f"{format_bytes(used_bytes)} of {format_bytes(budget_bytes)}" if budget_bytes else format_bytes(used_bytes)

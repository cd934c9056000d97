"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from ..llama import Llama
from ..memory import resident_bytes
from .worker import Worker


class Metrics(Collector):
    """Reads the counters when they are asked for, so that counting costs the computation nothing."""

    def __init__(self, llama: Llama, worker: Worker) -> None:
        self._llama = llama
        self._worker = worker
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> tuple[bytes, str]:
        """The text of this moment and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """Prometheus's interface."""
        yield from self._requests()
        yield from self._experts()

    def _requests(self) -> Iterator[Metric]:
        counts = self._worker.counts
        requests = CounterMetricFamily("hobbit_requests", "Requests by outcome.", labels=["outcome"])
        for outcome, n in counts.n_requests.items():
            requests.add_metric([outcome], n)
        yield requests
        yield GaugeMetricFamily("hobbit_queue_length", "Requests that wait for their turn.", self._worker.n_waiting)
        yield GaugeMetricFamily("hobbit_busy", "1 while a request is computed.", int(self._worker.busy))
        yield CounterMetricFamily("hobbit_prompt_tokens", "Tokens of prompts computed.", counts.n_prompt_tokens)
        yield CounterMetricFamily("hobbit_generated_tokens", "Tokens decoded.", counts.n_generated_tokens)
        yield CounterMetricFamily("hobbit_prompt_seconds", "Time spent on prompts.", counts.prompt_s)
        yield CounterMetricFamily("hobbit_decode_seconds", "Time spent decoding.", counts.decode_s)
        yield GaugeMetricFamily(
            "hobbit_decode_tokens_per_second", "Decoding speed of the last request.", counts.last_tok_s
        )

    def _experts(self) -> Iterator[Metric]:
        stats = self._llama.stats()
        by_precision = {
            "hobbit_expert_hits": ("Experts wanted and resident.", stats.n_hits_hi, stats.n_hits_lo),
            "hobbit_expert_misses": ("Experts wanted and not resident.", stats.n_misses_hi, stats.n_misses_lo),
            "hobbit_read_bytes": ("Expert bytes read from the drive.", stats.read_bytes_hi, stats.read_bytes_lo),
        }
        for name, (text, hi, lo) in by_precision.items():
            counter = CounterMetricFamily(name, text, labels=["precision"])
            counter.add_metric(["hi"], hi)
            counter.add_metric(["lo"], lo)
            yield counter
        yield CounterMetricFamily("hobbit_experts_skipped", "Experts left out.", stats.n_skipped)
        yield CounterMetricFamily("hobbit_experts_streamed", "Experts read past the cache.", stats.n_streamed)
        yield CounterMetricFamily("hobbit_evictions", "Experts that gave way to others.", stats.n_evictions)
        yield CounterMetricFamily("hobbit_read_retries", "Reads tried once more.", stats.n_retries)
        yield CounterMetricFamily("hobbit_stall_seconds", "Time the drive was waited for.", stats.stall_us / 1e6)
        yield GaugeMetricFamily("hobbit_hit_ratio", "Hits over experts wanted, since the start.", stats.hit_rate)
        resident = GaugeMetricFamily("hobbit_resident_bytes", "Experts in memory.", labels=["precision"])
        resident.add_metric(["hi"], stats.resident_bytes_hi)
        resident.add_metric(["lo"], stats.resident_bytes_lo)
        yield resident
        yield GaugeMetricFamily("hobbit_expert_memory_bytes", "Size of the cache.", stats.expert_memory_bytes)
        yield GaugeMetricFamily("hobbit_memory_budget_bytes", "Budget of the process; 0: none.", stats.memory_bytes)
        yield GaugeMetricFamily("hobbit_process_resident_bytes", "Memory of the process.", resident_bytes())

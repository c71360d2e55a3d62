"""The gateway's figures for Prometheus. The only module that knows `prometheus_client`.

Counters and histograms are plain arrays, written by the relay's one merge per request, read by one
custom collector. Label values are configured or discovered names and closed sets; text from a
client never becomes one.
"""

from __future__ import annotations

import asyncio
import platform
from bisect import bisect_left
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from gateway import __version__
from gateway.telemetry.timing import (
    DURATION_EDGES_S,
    OVERHEAD_EDGES_S,
    QUEUE_EDGES_S,
    TOKEN_EDGES_S,
    TTFT_EDGES_S,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gateway.telemetry.record import Record

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "vllm_gateway_"
# Rendering this many takes about half a millisecond.
_SAMPLES_AT_ONCE = 200


class Histogram:
    """Bucket counts of one series."""

    __slots__ = ("counts", "edges", "sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one sample."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.sum += value

    def merge(self, counts: Sequence[int], total: float) -> None:
        """Add many samples that are bucketed already."""
        self.counts = [mine + other for mine, other in zip(self.counts, counts, strict=True)]
        self.sum += total

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper edge, as Prometheus writes them."""
        cumulative, rows = 0, []
        for edge, count in zip((*self.edges, float("inf")), self.counts, strict=True):
            cumulative += count
            rows.append(("+Inf" if edge == float("inf") else str(float(edge)), float(cumulative)))
        return rows


class _ModelSeries:
    """The fine histograms of one model."""

    __slots__ = ("duration", "itl", "overhead", "queue", "tpot", "ttft")

    def __init__(self) -> None:
        self.ttft = Histogram(TTFT_EDGES_S)
        self.tpot = Histogram(TOKEN_EDGES_S)
        self.itl = Histogram(TOKEN_EDGES_S)
        self.duration = Histogram(DURATION_EDGES_S)
        self.queue = Histogram(QUEUE_EDGES_S)
        self.overhead = Histogram(OVERHEAD_EDGES_S)


@dataclass(frozen=True, slots=True)
class _Family:
    """Name (without prefix) and help text of one metric."""

    name: str
    help: str


_HISTOGRAMS = {
    "ttft": _Family(
        "time_to_first_token_seconds",
        "Time from the last byte of the request to the first token event sent to the client.",
    ),
    "tpot": _Family(
        "time_per_output_token_seconds",
        "Per request: time from first to last token event, by output token after the first.",
    ),
    "itl": _Family(
        "inter_token_latency_seconds", "Time between two token events sent to the client."
    ),
    "duration": _Family(
        "request_duration_seconds",
        "Time from the last byte of the request to the last byte of the answer.",
    ),
    "queue": _Family("queue_duration_seconds", "Time a request waited for admission."),
    "overhead": _Family("overhead_seconds", "Time the gateway itself added to a request."),
}


class Metrics:
    """Everything that `/metrics` tells."""

    def __init__(self) -> None:
        self._models: dict[str, _ModelSeries] = {}
        self._requests: dict[tuple[str, str, str, str], int] = {}
        self._audio_bytes: dict[tuple[str], int] = {}
        self._retries: dict[tuple[str, str], int] = {}
        self._tokens: dict[tuple[str, str, str], int] = {}
        self._gauges: list[tuple[_Family, Callable[[], float]]] = []
        self._worker_gauges: list[tuple[_Family, Callable[[], Iterable[tuple[str, float]]]]] = []
        self.loop_lag = Histogram(OVERHEAD_EDGES_S)

    # --- written ---

    def observe(self, record: Record) -> None:
        """Take in one finished request."""
        model = record.model
        key = (record.endpoint, model, record.worker, record.outcome)
        self._requests[key] = self._requests.get(key, 0) + 1
        if record.retries:
            retry = (model, record.endpoint)
            self._retries[retry] = self._retries.get(retry, 0) + record.retries
        if not model:
            return
        series = self._models.get(model)
        if series is None:
            series = self._models[model] = _ModelSeries()
        series.duration.observe(record.duration_s)
        series.queue.observe(record.queue_s)
        if record.worker:
            series.overhead.observe(record.overhead_s)
        times = record.times
        if times.gaps is not None:
            series.ttft.observe(times.first_at_s - record.started_at_s)
            series.itl.merge(times.gaps, times.last_at_s - times.first_at_s)
            tpot_s = record.tpot_s
            if tpot_s is not None:
                series.tpot.observe(tpot_s)
        if record.usage is not None:
            self._count_tokens(model, record)
        if record.audio_bytes:
            self._audio_bytes[(model,)] = self._audio_bytes.get((model,), 0) + record.audio_bytes

    def _count_tokens(self, model: str, record: Record) -> None:
        usage = record.usage
        if usage is None:
            return
        exactness = "exact" if usage.exact else "estimated"
        for kind, count in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
            ("cached_prompt", usage.cached_tokens),
        ):
            if count:
                key = (model, kind, exactness)
                self._tokens[key] = self._tokens.get(key, 0) + count

    def gauge(self, name: str, help_: str, read: Callable[[], float]) -> None:
        """Tell a number that `read` gives when asked."""
        self._gauges.append((_Family(name, help_), read))

    def worker_gauge(
        self, name: str, help_: str, read: Callable[[], Iterable[tuple[str, float]]]
    ) -> None:
        """Tell a number per worker: `read` gives (URL, value) pairs of the workers there are."""
        self._worker_gauges.append((_Family(name, help_), read))

    # --- read ---

    async def render(self) -> bytes:
        """The exposition text. Gives way to the event loop often: streams go on meanwhile."""
        parts = []
        for family in self.collect():
            await asyncio.sleep(0)
            for text in _rendered(family):
                parts.append(text)
                await asyncio.sleep(0)
        process = (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR)
        parts += [generate_latest(collector) for collector in process]
        return b"".join(parts)

    def collect(self) -> Iterator[Metric]:
        """Metric families, each made when it is asked for (prometheus_client's collector)."""
        yield InfoMetricFamily(
            _PREFIX + "build",
            "Version of the gateway and of Python.",
            {"version": __version__, "python": platform.python_version()},
        )
        requests = CounterMetricFamily(
            _PREFIX + "requests",
            "Requests by how they ended.",
            labels=("endpoint", "model", "worker", "outcome"),
        )
        for labels, count in list(self._requests.items()):
            requests.add_metric(labels, count)
        yield requests
        tokens = CounterMetricFamily(
            _PREFIX + "tokens",
            "Tokens: the worker's own count (exact), or what was relayed (estimated).",
            labels=("model", "kind", "exactness"),
        )
        for token_labels, count in list(self._tokens.items()):
            tokens.add_metric(token_labels, count)
        yield tokens
        audio = CounterMetricFamily(
            _PREFIX + "audio_bytes", "Bytes of speech sent to clients.", labels=("model",)
        )
        for audio_labels, count in list(self._audio_bytes.items()):
            audio.add_metric(audio_labels, count)
        yield audio
        retries = CounterMetricFamily(
            _PREFIX + "retries",
            "Further workers that were asked after one had failed.",
            labels=("model", "endpoint"),
        )
        for retry_labels, count in list(self._retries.items()):
            retries.add_metric(retry_labels, count)
        yield retries
        for attribute, family in _HISTOGRAMS.items():
            metric = HistogramMetricFamily(_PREFIX + family.name, family.help, labels=("model",))
            for model, series in list(self._models.items()):
                histogram: Histogram = getattr(series, attribute)
                metric.add_metric((model,), histogram.buckets(), histogram.sum)
            yield metric
        lag = HistogramMetricFamily(
            _PREFIX + "event_loop_lag_seconds",
            "How late the gateway's event loop ran what was due.",
        )
        lag.add_metric((), self.loop_lag.buckets(), self.loop_lag.sum)
        yield lag
        for family, read in self._gauges:
            yield GaugeMetricFamily(_PREFIX + family.name, family.help, read())
        for family, read_all in self._worker_gauges:
            gauge = GaugeMetricFamily(_PREFIX + family.name, family.help, labels=("worker",))
            for worker, value in read_all():
                gauge.add_metric((worker,), value)
            yield gauge


def _rendered(family: Metric) -> Iterator[bytes]:
    """A family's text, piece by piece; only the first begins with what it is."""
    samples = family.samples
    for start in range(0, len(samples) or 1, _SAMPLES_AT_ONCE):
        family.samples = samples[start : start + _SAMPLES_AT_ONCE]
        text = generate_latest(_Only(family))
        yield text if start == 0 else text.split(b"\n", 2)[2]


class _Only:
    """A registry of one family, so that each can be rendered on its own."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


async def watch_loop_lag(lag: Histogram, interval_s: float = 0.25) -> None:
    """Measure for ever how late the event loop wakes this task."""
    while True:
        due_s = monotonic() + interval_s
        await asyncio.sleep(interval_s)
        lag.observe(max(0.0, monotonic() - due_s))

"""The figures of a run, round by round, and the arithmetic on them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any

YARDSTICK = "nginx"
FULL = 0.90
"""A core that is busier than this is the limit of what runs on it."""
DISTURBED = 0.25
"""Share of a core that others may take before a window is called disturbed."""


class Figure(StrEnum):
    """What is measured of each proxy, once per round."""

    EVENT_US = "cpu_us_per_event"
    """CPU microseconds of the proxy per token event."""
    REQUEST_US = "cpu_us_per_json_request"
    """CPU microseconds of the proxy per small JSON request."""
    SATURATION = "saturation_events_per_s"
    """Token events per second at the most, with 1,000 streams open."""
    RSS = "rss_bytes_at_1000_streams"
    """In the first step of the offer, which every proxy can carry."""
    RSS_PEAK = "rss_peak_bytes"
    """The highest so far, overload at the end of the search included."""
    TTFT_ADDED_US = "added_ttft_p50_us"
    """Median TTFT of a lone stream through the proxy, less direct."""
    TTFT_ADDED_P99_US = "added_ttft_p99_us"
    ITL_ADDED_US = "added_itl_p50_us"
    ITL_ADDED_P99_US = "added_itl_p99_us"
    """The pace is the worker's, so a proxy can add to the spread of the gaps, not to their mean."""


@dataclass(frozen=True)
class Spread:
    """A median, and how far the rounds lay apart."""

    mid: float
    low: float
    high: float


@dataclass(frozen=True)
class Step:
    """One step of the search for the highest throughput; shares from 0 to 1."""

    events_per_s: float
    proxy_core_busy: float
    driver_core_busy: float


@dataclass(frozen=True)
class Bounds:
    """What the gateway promises. The first two are multiples of the yardstick's cost."""

    event_ratio: float = 2.0
    request_ratio: float = 5.0
    rss_mb: float = 80.0
    """Megabytes of 1,000,000 bytes."""


@dataclass(frozen=True)
class Verdict:
    """One bound, held against what was measured."""

    what: str
    measured: str
    bound: str
    met: bool


@dataclass
class Results:
    """Figures by proxy, one per round, in the order of the rounds."""

    figures: dict[str, dict[Figure, list[float]]] = field(default_factory=dict)
    errors: dict[str, dict[str, int]] = field(default_factory=dict)
    """Requests that did not end as they should, by proxy and kind; `direct` is no proxy."""
    generator_bound: set[str] = field(default_factory=set)
    """Proxies whose throughput was limited by the driver, not by themselves."""
    driver_event_us: dict[str, list[float]] = field(default_factory=dict)
    """CPU microseconds per event of the worker and the clients together, by scenario."""
    disturbed: int = 0
    """Windows in which other programs took a good part of one of the two cores."""
    windows: list[dict[str, Any]] = field(default_factory=list)
    """Every measured window, for `--json`."""

    def add(self, proxy: str, figure: Figure, value: float) -> None:
        self.figures.setdefault(proxy, {}).setdefault(figure, []).append(value)

    def add_errors(self, proxy: str, failures: dict[str, int]) -> None:
        counts = self.errors.setdefault(proxy, {})
        for kind, count in failures.items():
            counts[kind] = counts.get(kind, 0) + count

    def add_driver_cost(self, scenario: str, event_us: float) -> None:
        self.driver_event_us.setdefault(scenario, []).append(event_us)

    def values(self, proxy: str, figure: Figure) -> list[float]:
        return self.figures.get(proxy, {}).get(figure, [])

    def spread(self, proxy: str, figure: Figure) -> Spread | None:
        """The median over the rounds, None when it was not measured."""
        return spread(self.values(proxy, figure))

    def ratio(self, proxy: str, figure: Figure) -> Spread | None:
        """How many times the yardstick's; None without one, or when the driver was the limit."""
        if figure is Figure.SATURATION and self.generator_bound & {proxy, YARDSTICK}:
            return None
        return spread(ratios(self.values(proxy, figure), self.values(YARDSTICK, figure)))


def spread(values: list[float]) -> Spread | None:
    """Median, lowest and highest; None of nothing."""
    return Spread(median(values), min(values), max(values)) if values else None


def ratios(values: list[float], yardstick: list[float]) -> list[float]:
    """Round by round: what slows the machine for a minute slows both, and drops out.

    The median of these is the answer, not the ratio of two medians. Rounds in which the yardstick
    read nothing are left out.
    """
    return [value / other for value, other in zip(values, yardstick, strict=False) if other > 0]


def proxy_was_the_limit(steps: list[Step]) -> bool:
    """Whether the best step shows what the proxy can do, not what the driver can.

    Its core must have been full in some step while the driver's was not, and the best step itself
    must not have filled the driver's core.
    """
    best = max(steps, key=lambda step: step.events_per_s)
    return best.driver_core_busy <= FULL and any(
        step.proxy_core_busy >= FULL >= step.driver_core_busy for step in steps
    )


def verdicts(results: Results, proxy: str, bounds: Bounds) -> list[Verdict]:
    """One verdict for each bound that was measured, and one for the absence of errors."""
    found: list[Verdict] = []
    for figure, what, limit in (
        (Figure.EVENT_US, "CPU per event", bounds.event_ratio),
        (Figure.REQUEST_US, "CPU per JSON request", bounds.request_ratio),
    ):
        ratio = results.ratio(proxy, figure)
        if ratio is not None:
            measured = f"{ratio.mid:.2f} x {YARDSTICK} ({ratio.low:.2f} to {ratio.high:.2f})"
            found.append(Verdict(what, measured, f"<= {limit:g} x", ratio.mid <= limit))
    rss = results.spread(proxy, Figure.RSS)
    if rss is not None:
        mb = rss.mid / 1e6
        bound = f"< {bounds.rss_mb:g} MB"
        found.append(Verdict("RSS at 1,000 streams", f"{mb:.1f} MB", bound, mb < bounds.rss_mb))
    counts = results.errors.get(proxy, {})
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"
    found.append(Verdict("errors", kinds, "none", not counts))
    return found

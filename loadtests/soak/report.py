"""Is memory flat, and does every request have its place in the books? Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from loadtests.overhead.report import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadtests.soak.readings import Figures

WARM_UP_SHARE = 0.1
"""Until so much of the run is done, caches and pools fill: growth there is no leak."""
WINDOW_SHARE = 0.1
"""RSS after warm-up, and at the end, is the median of the samples of so much of the run."""
MOST_GROWTH_SHARE, MOST_GROWTH_BYTES = 0.05, 3_000_000
"""The larger of the two is what RSS may grow after warm-up. Between runs of 100,000 requests the
end differs by some 2 MB, with how many large answers wait at once and when the cyclic collector
last ran; a leak of 50 bytes in each request would add 4 MB or more."""
MB = 1_000_000
GROWTH_TEXT = f"{MOST_GROWTH_SHARE:.0%} or {MOST_GROWTH_BYTES / MB:g} MB, the larger of the two"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the gateway."""

    at_s: float
    done: int
    """Requests that have ended so far."""
    rss: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Curve:
    """How RSS went; bytes."""

    warm: float
    end: float
    peak: int
    slope: float
    """Per 10,000 requests, after warm-up, by least squares."""

    @property
    def growth(self) -> float:
        """From the end of warm-up to the end."""
        return self.end - self.warm

    @property
    def bound(self) -> float:
        """What growth may be."""
        return max(self.warm * MOST_GROWTH_SHARE, MOST_GROWTH_BYTES)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be so."""

    what: str
    found: str
    wanted: str
    met: bool


def curve(samples: Sequence[Sample]) -> Curve | None:
    """None where the run was too short for one."""
    if len(samples) < 2:
        return None
    total = samples[-1].done
    after = [each for each in samples if each.done >= total * WARM_UP_SHARE]
    first = [each.rss for each in after if each.done <= total * (WARM_UP_SHARE + WINDOW_SHARE)]
    last = [each.rss for each in after if each.done >= total * (1 - WINDOW_SHARE)]
    if len(after) < 2 or not first:
        return None
    return Curve(
        warm=median(first),
        end=median(last),
        peak=max(each.rss for each in samples),
        slope=_slope([(each.done, each.rss) for each in after]) * 10_000,
    )


def check_memory(found: Curve) -> Check:
    """Is it flat?"""
    return Check(
        "RSS growth after warm-up",
        f"{found.growth / MB:+.2f} MB",
        f"<= {found.bound / MB:.1f} MB",
        found.growth <= found.bound,
    )


def check_books(
    expected: Mapping[str, int], before: Figures, after: Figures, sockets: tuple[int, int]
) -> list[Check]:
    """Each request once, under its outcome; nothing left behind. `sockets`: before and after."""
    names = sorted({*expected, *before.outcomes, *after.outcomes})
    checks = []
    for name in names:
        counted = after.outcomes.get(name, 0) - before.outcomes.get(name, 0)
        sent = expected.get(name, 0)
        checks.append(Check(f"requests: {name}", f"{counted:,}", f"{sent:,}", counted == sent))
    counted, sent = after.requests - before.requests, sum(expected.values())
    checks.append(Check("requests: all", f"{counted:,}", f"{sent:,}", counted == sent))
    checks += [
        Check(f"gauge: {name}", f"{value:g}", "0", value == 0)
        for name, value in after.gauges.items()
    ]
    checks.append(
        Check("open sockets", str(sockets[1]), f"<= {sockets[0]}", sockets[1] <= sockets[0])
    )
    return checks


def check_clients(wrong: Mapping[str, int]) -> Check:
    """Did the clients see what they had to?"""
    shown = ", ".join(f"{count} x {what}" for what, count in sorted(wrong.items())) or "none"
    return Check("answers not as they must be", shown, "none", not wrong)


def check_log(lines: Sequence[str]) -> Check:
    """What the gateway itself complains of: errors, and tracebacks."""
    errors = [line for line in lines if " ERROR " in line or '"level": "error"' in line]
    first = f": {errors[0].partition(' ERROR ')[2].strip()[:80]}" if errors else ""
    return Check("errors in the gateway's log", f"{len(errors)}{first}", "0", not errors)


def memory_table(found: Curve) -> str:
    """The curve in figures."""
    rows = [("RSS of the gateway", "MB")]
    rows += [
        ("after warm-up", f"{found.warm / MB:.2f}"),
        ("at the end", f"{found.end / MB:.2f}"),
        ("slope per 10,000 requests", f"{found.slope / MB:+.3f}"),
        ("peak", f"{found.peak / MB:.2f}"),
    ]
    return table(rows)


def check_table(checks: Sequence[Check]) -> str:
    """One row for each check."""
    rows = [("check", "found", "must be", "")]
    rows += [(c.what, c.found, c.wanted, "met" if c.met else "NOT MET") for c in checks]
    return table(rows)


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares; 0 for points that all have one x."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread

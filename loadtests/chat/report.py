"""What is printed when a run has ended. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.chat.figures import MOST_SAMPLES, Figure
from loadtests.overhead.report import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.chat.figures import Figures
    from loadtests.chat.thresholds import Verdict

FULL_CORE = 0.8
"""A locust process that is busier than this share of a core reads late, and its times show it."""

_ROWS = {
    Figure.TTFT: "TTFT, ms",
    Figure.TPOT: "TPOT, ms",
    Figure.ITL: "ITL, ms",
    Figure.E2E: "E2E, ms",
    Figure.RATE: "tokens/s of one answer",
}


def summary(figures: Figures, *, requests: int, failures: int, seconds: float) -> str:
    """A row for each figure, then the totals."""
    rows: list[Sequence[str]] = [("figure", "samples", "mean", "p50", "p90", "p95", "p99", "max")]
    for figure, name in _ROWS.items():
        found = figures.samples[figure].summary()
        if found is None:
            rows.append((name, "0", *["-"] * 6))
            continue
        unit = 1.0 if figure is Figure.RATE else 1000.0
        values = (found.mean, found.p50, found.p90, found.p95, found.p99, found.max)
        rows.append((name, f"{found.count:,}", *[number(value * unit) for value in values]))
    lines = [table(rows), ""]
    if any(samples.count > MOST_SAMPLES for samples in figures.samples.values()):
        lines.append(f"Percentiles beyond {MOST_SAMPLES:,} samples are those of an even draw.")
    per_s = f" in {seconds:.1f} s: {requests / seconds:,.1f} requests/s" if seconds > 0 else ""
    rate = f", {figures.tokens / seconds:,.0f} tokens/s" if seconds > 0 else ""
    lines.append(f"{requests:,} requests, {figures.tokens:,} tokens{per_s}{rate}")
    lines.append(f"{failures:,} failed")
    return "\n".join(lines)


def own_cost(busy: float) -> str:
    """How busy locust itself was, and what that means; `busy` is a share of one core."""
    line = f"locust used {busy:.0%} of a core"
    if busy > FULL_CORE:
        line += (
            ": too much. The times show locust, not the gateway; use --client raw, fewer users,"
            " or more processes (--processes)"
        )
    return line


def verdict_lines(verdicts: Sequence[Verdict]) -> str:
    """A line for each threshold."""
    return "\n".join(verdict.line for verdict in verdicts)


def number(value: float) -> str:
    """Enough digits to tell two figures apart, and no more."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"

"""The tables on stdout, and the JSON file. Pure: strings from results."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from loadtests.overhead.results import YARDSTICK, Figure, Results, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_MEASURED = "-"
COLUMNS = (
    "proxy",
    "us CPU/event",
    "us CPU/JSON request",
    "events/s at saturation",
    "RSS at 1,000 streams",
    "added TTFT p50",
    "added ITL p99",
)
FIGURES = (
    Figure.EVENT_US,
    Figure.REQUEST_US,
    Figure.SATURATION,
    Figure.RSS,
    Figure.TTFT_ADDED_US,
    Figure.ITL_ADDED_P99_US,
)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns: the first to the left, the others to the right, a rule below the heading."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def figures_table(results: Results, proxies: Sequence[str]) -> str:
    """One row for each proxy, then its ratios to the yardstick: median (lowest to highest)."""
    rows: list[Sequence[str]] = [COLUMNS]
    rows.extend([name, *(_cell(results, name, each) for each in FIGURES)] for name in proxies)
    if YARDSTICK in proxies:
        rows.extend(
            [f"{name} / {YARDSTICK}", *(_ratio_cell(results, name, each) for each in FIGURES)]
            for name in proxies
            if name != YARDSTICK
        )
    return table(rows)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """One row for each bound."""
    rows = [("bound", "measured", "promised", "")]
    rows.extend((v.what, v.measured, v.bound, "met" if v.met else "not met") for v in verdicts)
    return table(rows)


def machine(proxy_versions: dict[str, str]) -> str:
    """One line: what these figures were measured on."""
    parts = [
        f"{os.cpu_count()} cores",
        f"Linux {platform.release()} {platform.machine()}",
        f"Python {platform.python_version()}",
        *(f"{name} {found}" for name, found in proxy_versions.items()),
    ]
    return ", ".join(parts)


def installed(*packages: str) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def as_json(results: Results, verdicts: dict[str, list[Verdict]], machine_line: str) -> Any:
    """Everything as plain values: figures per round, verdicts, and each window as measured."""
    return {
        "machine": machine_line,
        "figures": results.figures,
        "errors": results.errors,
        "generator_bound": sorted(results.generator_bound),
        "driver_cpu_us_per_event": results.driver_event_us,
        "verdicts": {name: [asdict(each) for each in found] for name, found in verdicts.items()},
        "windows": results.windows,
    }


def _cell(results: Results, proxy: str, figure: Figure) -> str:
    found = results.spread(proxy, figure)
    if found is None:
        return NOT_MEASURED
    if figure is Figure.SATURATION:
        mark = " (generator-bound)" if proxy in results.generator_bound else ""
        return f"{found.mid:,.0f}{mark}"
    if figure is Figure.RSS:
        peak = results.spread(proxy, Figure.RSS_PEAK)
        return f"{found.mid / 1e6:.1f} MB" + (f" (peak {peak.mid / 1e6:.1f})" if peak else "")
    if figure in {Figure.TTFT_ADDED_US, Figure.ITL_ADDED_P99_US}:
        return f"{found.mid:+.0f} us"
    return f"{found.mid:.1f}"


def _ratio_cell(results: Results, proxy: str, figure: Figure) -> str:
    if figure in {Figure.TTFT_ADDED_US, Figure.ITL_ADDED_P99_US}:
        return ""  # differences, and small ones: their quotient means nothing
    if figure is Figure.SATURATION and results.generator_bound & {proxy, YARDSTICK}:
        return "generator-bound"
    found = results.ratio(proxy, figure)
    return f"{found.mid:.2f} ({found.low:.2f} to {found.high:.2f})" if found else NOT_MEASURED

"""Bounds that a run must keep, and the lines that say whether it did. Pure."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.units import duration_s
from loadtests.chat.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.chat.figures import Figures


@dataclass(frozen=True, slots=True)
class Bound:
    """A percentile of a figure, and its flag."""

    figure: Figure
    percent: float

    @property
    def flag(self) -> str:
        """`--ttft-p95`"""
        return f"--{self.figure.value.lower()}-p{self.percent:g}"

    @property
    def dest(self) -> str:
        """`ttft_p95`"""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def name(self) -> str:
        """`TTFT p95`"""
        return f"{self.figure.value} p{self.percent:g}"


BOUNDS = (
    Bound(Figure.TTFT, 50), Bound(Figure.TTFT, 95), Bound(Figure.TTFT, 99),
    Bound(Figure.TPOT, 50), Bound(Figure.TPOT, 95), Bound(Figure.TPOT, 99),
    Bound(Figure.ITL, 95), Bound(Figure.ITL, 99),
    Bound(Figure.E2E, 95),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bound, held against the run."""

    line: str
    met: bool


def judge(bound: Bound, limit_s: float, figures: Figures) -> Verdict:
    """`TTFT p95 312 ms <= 500 ms: met`. Without a sample nothing is known: not met."""
    value_s = figures.samples[bound.figure].percentile(bound.percent)
    if value_s is None:
        return Verdict(f"{bound.name} <= {_ms(limit_s)}: no samples: not met", met=False)
    return _verdict(bound.name, value_s, limit_s, _ms)


def judge_errors(failures: int, requests: int, limit: float) -> Verdict:
    """`errors 0.4 % <= 1 %: met`; `limit` is a share of all requests. No request: not met."""
    if not requests:
        return Verdict("errors: no request was finished: not met", met=False)
    return _verdict("errors", failures / requests, limit, _percent)


def wait_s(text: str) -> float:
    """A flag's duration, in seconds. For argparse."""
    try:
        return duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {error}") from None


def share(text: str) -> float:
    """`1%` is 0.01. For argparse."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share such as 1% or 0.5%")
    return value


def _verdict(name: str, value: float, limit: float, unit: Callable[[float], str]) -> Verdict:
    met = value <= limit
    line = f"{name} {unit(value)} {'<=' if met else '>'} {unit(limit)}"
    return Verdict(f"{line}: {'met' if met else 'not met'}", met)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.4g} ms"


def _percent(part: float) -> str:
    return f"{part * 100:.4g} %"

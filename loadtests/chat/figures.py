"""Exact samples of a run: what thresholds are held against.

locust keeps its response times in rounded buckets, which is right for a table, and too coarse to
decide whether 50.4 ms is more than 50 ms.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadtests.chat.answer import Answer

MOST_SAMPLES = 1_000_000
"""Values kept per figure: 8 MB. Until then percentiles are exact; later they are those of as many
values, drawn evenly from all."""


class Figure(StrEnum):
    """What is sampled. All but the rate are in seconds."""

    TTFT = "TTFT"
    TPOT = "TPOT"
    ITL = "ITL"
    RATE = "tok/s"
    E2E = "E2E"


@dataclass(frozen=True, slots=True)
class Summary:
    """One figure of a run, in its own unit."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Samples:
    """Values of one figure: all of them up to `most`, then an even draw (Vitter's algorithm R)."""

    def __init__(self, most: int = MOST_SAMPLES, seed: int = 0) -> None:
        self._values = array("d")
        self._most = most
        self._random = Random(seed)  # noqa: S311 - statistics, not secrets
        self.count = 0
        """Values seen."""
        self.sum = 0.0
        self.max = 0.0

    def add(self, value: float) -> None:
        """Take in one value."""
        self.count += 1
        self.sum += value
        self.max = max(self.max, value)
        if len(self._values) < self._most:
            self._values.append(value)
        elif (place := self._random.randrange(self.count)) < self._most:
            self._values[place] = value

    def percentile(self, percent: float) -> float | None:
        """The nearest rank: the least value that `percent` of all do not exceed. None of none."""
        return nearest_rank(sorted(self._values), percent)

    def summary(self) -> Summary | None:
        """None where there is no value."""
        if not self.count:
            return None
        ordered = sorted(self._values)
        p50, p90, p95, p99 = (nearest_rank(ordered, percent) or 0.0 for percent in (50, 90, 95, 99))
        return Summary(self.count, self.sum / self.count, p50, p90, p95, p99, self.max)

    def take(self) -> bytes:
        """All values as raw doubles; none are left behind."""
        values = self._values.tobytes()
        self._values, self.count, self.sum, self.max = array("d"), 0, 0.0, 0.0
        return values

    def merge(self, values: bytes) -> None:
        """Take in what another process's `take` gave."""
        taken = array("d")
        taken.frombytes(values)
        for value in taken:
            self.add(value)


def nearest_rank(ordered: list[float], percent: float) -> float | None:
    """A percentile of sorted values."""
    if not ordered:
        return None
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


def bucket(value: float) -> float:
    """Where a value goes in locust's tables. Its own buckets are 1 ms wide, and 10 ms from 100 ms
    on: too coarse for tokens. These are a tenth wide, and have three digits from 100 on: a few
    thousand of them at most."""
    if value < 100:
        return round(value, 1)
    size = 10 ** (len(str(int(value))) - 3)
    return float(round(value / size) * size)


class Figures:
    """Everything that one run has measured."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.samples = {figure: Samples() for figure in Figure}
        self.tokens = 0
        """Output tokens of all answers that told their usage."""

    def clear(self) -> None:
        """A new run begins."""
        self._clear()

    def add(self, answer: Answer) -> None:
        """Take in one answer. A failed one counts with what it brought before it failed, but for
        its duration and rate: those of a refusal say nothing."""
        for figure, value in (
            (Figure.TTFT, answer.ttft_s),
            (Figure.TPOT, answer.tpot_s),
            (Figure.RATE, None if answer.failure else answer.tokens_per_s),
            (Figure.E2E, None if answer.failure else answer.duration_s),
        ):
            if value is not None:
                self.samples[figure].add(value)
        add_gap = self.samples[Figure.ITL].add
        for gap_s in answer.gaps_s:
            add_gap(gap_s)
        self.tokens += answer.tokens or 0

    def take(self) -> dict[str, Any]:
        """What one of several processes has measured since it was last asked."""
        report: dict[str, Any] = {figure.value: s.take() for figure, s in self.samples.items()}
        report["tokens"], self.tokens = self.tokens, 0
        return report

    def merge(self, report: dict[str, Any]) -> None:
        """Take in what another process's `take` gave."""
        for figure, samples in self.samples.items():
            samples.merge(report[figure.value])
        self.tokens += report["tokens"]

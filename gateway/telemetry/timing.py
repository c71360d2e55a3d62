"""When a stream's tokens went down: TTFT, TPOT and ITL of one request. Pure.

Definitions (docs/figures.md): token events at t1 … tk are stamped when their bytes are handed to
the client's socket. TTFT = t1 − t0. TPOT = (tk − t1) / (n − 1) with n tokens of usage. ITL has one
sample per token event after the first: k events in one read give one gap and k − 1 zeros.
All times are seconds of one monotonic clock.
"""

from __future__ import annotations

from bisect import bisect_left

# vLLM's own edges (vllm/v1/metrics/loggers.py, 0.32).
TTFT_EDGES_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
# vLLM's, and more of them below 50 ms, where its own tell nothing.
TOKEN_EDGES_S = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
DURATION_EDGES_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
# What the gateway itself takes: from tens of microseconds up.
OVERHEAD_EDGES_S = (
    0.0001, 0.00025, 0.0005, 0.00075, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
QUEUE_EDGES_S = (
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0,
)  # fmt: skip


class TokenTimes:
    """Stamps of one stream's token events."""

    __slots__ = ("first_at_s", "gaps", "last_at_s")

    def __init__(self) -> None:
        self.first_at_s = 0.0
        self.last_at_s = 0.0
        self.gaps: list[int] | None = None
        """ITL samples by bucket of `TOKEN_EDGES_S`, then those above the last edge."""

    def add(self, events: int, now_s: float) -> None:
        """`events` (at least one) token events went down together at `now_s`."""
        gaps = self.gaps
        if gaps is None:
            gaps = self.gaps = [0] * (len(TOKEN_EDGES_S) + 1)
            self.first_at_s = now_s
        else:
            gaps[bisect_left(TOKEN_EDGES_S, now_s - self.last_at_s)] += 1
        self.last_at_s = now_s
        if events > 1:
            gaps[0] += events - 1

    def ttft_s(self, started_at_s: float) -> float | None:
        """Time to first token, or None where none came."""
        return None if self.gaps is None else self.first_at_s - started_at_s

    def tpot_s(self, tokens: int) -> float | None:
        """Time per output token after the first, or None for fewer than two tokens."""
        if self.gaps is None or tokens < 2:
            return None
        return (self.last_at_s - self.first_at_s) / (tokens - 1)

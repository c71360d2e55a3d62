"""When one streamed answer's tokens came. Pure.

The definitions are the gateway's own, seen from the other end of its socket: t0 is when the request
has been sent, t1 … tk when token events were read. All times are seconds of one monotonic clock.
"""

from __future__ import annotations


class ChatFailure(Exception):
    """An answer that is not whole. The text is the same for all failures of one kind, so that
    they add up in locust's table."""


class Answer:
    """Stamps and counts of one answer, filled while it is read."""

    __slots__ = ("body_bytes", "ended_at_s", "failure", "first_at_s", "gaps_s", "last_at_s",
                 "sent_at_s", "tokens")  # fmt: skip

    def __init__(self, sent_at_s: float) -> None:
        self.sent_at_s = sent_at_s
        self.first_at_s: float | None = None
        self.last_at_s = sent_at_s
        self.gaps_s: list[float] = []
        """ITL: one sample per token event after the first. Events of one read are 0 apart."""
        self.ended_at_s = sent_at_s
        self.tokens: int | None = None
        """`usage.completion_tokens`; None until the worker has told it."""
        self.body_bytes = 0
        self.failure: ChatFailure | None = None

    def token_event(self, now_s: float) -> None:
        """A token event was read at `now_s`."""
        if self.first_at_s is None:
            self.first_at_s = now_s
        else:
            self.gaps_s.append(now_s - self.last_at_s)
        self.last_at_s = now_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: t1 − t0."""
        return None if self.first_at_s is None else self.first_at_s - self.sent_at_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token: (tk − t1) / (n − 1), n as the worker reports it."""
        if self.first_at_s is None or self.tokens is None or self.tokens < 2:
            return None
        return (self.last_at_s - self.first_at_s) / (self.tokens - 1)

    @property
    def duration_s(self) -> float:
        """E2E: from t0 to the end of the answer."""
        return self.ended_at_s - self.sent_at_s

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of this answer by its whole duration, the wait for the first one included."""
        if not self.tokens or self.duration_s <= 0:
            return None
        return self.tokens / self.duration_s

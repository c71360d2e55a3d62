"""The one terminal record of a request: metrics, log line and (later) span are made from it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from gateway.telemetry.timing import TokenTimes
from gateway.terms import Outcome, Usage


@dataclass(slots=True)
class Record:
    """What is known of one request; filled on its way, told once at its end."""

    endpoint: str
    started_at_s: float = field(default_factory=time.monotonic)
    """t0: the request's last byte has been read (until then: its head)."""
    request_id: str = ""
    model: str = ""
    """A configured or discovered name; empty while the client's word for it is not known."""
    worker: str = ""
    """URL of the worker that was asked last."""
    stream: bool = False
    choices: int = 1
    status: int = 0
    """HTTP status that went down, 0 if none did."""
    outcome: Outcome = Outcome.INTERNAL
    error: str = ""
    """Code of the gateway's own error, or the fault of the worker."""
    retries: int = 0
    queue_s: float = 0.0
    overhead_s: float = 0.0
    ended_at_s: float = 0.0
    times: TokenTimes = field(default_factory=TokenTimes)
    token_events: int = 0
    audio_bytes: int = 0
    """Bytes of sound that went down."""
    usage: Usage | None = None

    @property
    def duration_s(self) -> float:
        """E2E: from t0 to the last byte."""
        return self.ended_at_s - self.started_at_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token of a stream."""
        return self.times.ttft_s(self.started_at_s)

    @property
    def tpot_s(self) -> float | None:
        """Time per output token of a stream of one choice, as the worker counts tokens."""
        if self.usage is None or not self.usage.exact or self.choices != 1:
            return None
        return self.times.tpot_s(self.usage.completion_tokens)

"""What can go wrong with a worker, and what follows. Pure: the table of docs/faults.md as code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import Kind
from gateway.terms import Outcome


class Fault(StrEnum):
    """How one attempt at one worker failed. The value stands in logs and in retry metrics."""

    UNREACHABLE = "unreachable"
    """Connect refused, reset or timed out, or the name does not resolve: nothing was sent."""
    STALE = "stale_connection"
    """A kept connection was closed by the worker before it answered: nothing is wrong with it."""
    LOST = "connection_lost"
    """Reset or EOF after the request was sent."""
    BAD_RESPONSE = "bad_response"
    """A head that is too large or malformed, or a bad chunk."""
    TRUNCATED = "truncated"
    """The body ended, but the surface's terminal event had not come."""
    EVENT_TOO_LARGE = "event_too_large"
    """An event that had to be held back outgrew its bound."""
    SILENT = "silent"
    """No byte within the first-byte or the idle timeout."""
    BUSY = "busy"
    """The worker's own 429 or 503."""
    FAILED = "failed"
    """The worker's own 500, or an error event in mid-stream."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What one fault means, for an attempt of which nothing has gone down yet."""

    retry: bool
    """Another worker may answer."""
    sent: bool
    """The request had been sent whole: it is sent to at most one further worker."""
    error: Kind
    """What the client is told when no other worker answers."""
    outcome: Outcome
    """How the request ends, before or after its answer has begun."""
    why: str
    """For the client, after 'The worker'."""


TABLE: dict[Fault, Rule] = {
    Fault.UNREACHABLE: Rule(
        True, False, Kind.WORKER_UNREACHABLE, Outcome.UNAVAILABLE, "could not be reached"
    ),
    Fault.STALE: Rule(
        True, False, Kind.WORKER_FAILED, Outcome.WORKER_FAILED, "closed the connection"
    ),
    Fault.LOST: Rule(
        True, True, Kind.WORKER_FAILED, Outcome.WORKER_FAILED, "closed the connection"
    ),
    Fault.BAD_RESPONSE: Rule(
        True, True, Kind.WORKER_FAILED, Outcome.WORKER_FAILED, "sent a malformed response"
    ),
    Fault.TRUNCATED: Rule(
        True, True, Kind.WORKER_FAILED, Outcome.WORKER_FAILED, "ended the stream too early"
    ),
    Fault.EVENT_TOO_LARGE: Rule(
        False, True, Kind.WORKER_FAILED, Outcome.WORKER_FAILED, "sent an event that is too large"
    ),
    Fault.SILENT: Rule(False, True, Kind.WORKER_TIMEOUT, Outcome.TIMEOUT, "did not answer in time"),
    Fault.BUSY: Rule(True, False, Kind.WORKER_FAILED, Outcome.REFUSED, "is busy"),
    Fault.FAILED: Rule(
        False, True, Kind.WORKER_FAILED, Outcome.WORKER_FAILED, "reported a failure"
    ),
}


def outcome_of_status(status: int) -> Outcome:
    """How a request ends that was answered whole with the worker's own `status`."""
    if status < 400:
        return Outcome.OK
    if status < 500 or status == 503:
        return Outcome.REFUSED
    return Outcome.WORKER_FAILED

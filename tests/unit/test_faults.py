"""What can go wrong with a worker, and what follows."""

from __future__ import annotations

import pytest

from gateway import errors
from gateway.errors import Kind
from gateway.relay.faults import TABLE, Fault, outcome_of_status
from gateway.terms import Outcome


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_has_a_rule(fault: Fault) -> None:
    """And a client can be told of it as an error of the server."""
    rule = TABLE[fault]
    assert errors.TABLE[rule.error].status >= 500
    assert rule.outcome not in (Outcome.OK, Outcome.INVALID, Outcome.CLIENT_CLOSED)
    assert rule.why


def test_only_what_shows_that_no_answer_will_come_is_retried() -> None:
    """A worker that is silent may still be at work; one that failed would fail again."""
    assert {fault for fault in Fault if TABLE[fault].retry} == {
        Fault.UNREACHABLE,
        Fault.STALE,
        Fault.LOST,
        Fault.BAD_RESPONSE,
        Fault.TRUNCATED,
        Fault.BUSY,
    }


def test_a_request_that_was_taken_and_lost_counts_as_sent() -> None:
    """It goes to at most one further worker; a refusal or a failed connect does not count."""
    assert {fault for fault in Fault if TABLE[fault].retry and TABLE[fault].sent} == {
        Fault.LOST,
        Fault.BAD_RESPONSE,
        Fault.TRUNCATED,
    }


def test_silence_is_a_timeout_and_not_a_failure() -> None:
    """504, which the SDK is told not to send again: it would take minutes again."""
    rule = TABLE[Fault.SILENT]
    assert (rule.error, rule.outcome) == (Kind.WORKER_TIMEOUT, Outcome.TIMEOUT)
    assert not errors.TABLE[rule.error].sdk_may_retry


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.OK), (204, Outcome.OK), (302, Outcome.OK), (400, Outcome.REFUSED),
        (404, Outcome.REFUSED), (429, Outcome.REFUSED), (499, Outcome.REFUSED),
        (503, Outcome.REFUSED), (500, Outcome.WORKER_FAILED), (502, Outcome.WORKER_FAILED),
        (504, Outcome.WORKER_FAILED),
    ],
)  # fmt: skip
def test_the_workers_own_status_decides_the_outcome(status: int, outcome: Outcome) -> None:
    """Its 4xx and its 503 are refusals; its other 5xx are its failures."""
    assert outcome_of_status(status) is outcome

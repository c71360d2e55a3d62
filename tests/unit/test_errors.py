"""The gateway's own errors, as a client reads them."""

from __future__ import annotations

import json

import pytest

from gateway.errors import TABLE, GatewayError, Kind
from gateway.terms import Outcome


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_rule(kind: Kind) -> None:
    """A status that is an error, and an outcome that agrees with it."""
    rule = TABLE[kind]
    assert 400 <= rule.status <= 599
    assert (rule.type == "server_error") == (rule.status >= 500)
    assert rule.outcome not in (Outcome.OK, Outcome.CLIENT_CLOSED, Outcome.REFUSED)
    assert (rule.outcome in (Outcome.INVALID, Outcome.UNAUTHORIZED)) == (rule.status < 500)


@pytest.mark.parametrize("kind", Kind)
def test_the_body_has_openais_shape(kind: Kind) -> None:
    """`{"error": {"message", "type", "param", "code"}}`."""
    error = GatewayError(kind, 'It is "wrong".', param="model")
    assert json.loads(error.body()) == {
        "error": {
            "message": 'It is "wrong".',
            "type": TABLE[kind].type,
            "param": "model",
            "code": kind.value,
        }
    }


@pytest.mark.parametrize("kind", Kind)
def test_the_sdk_is_told_whether_to_retry(kind: Kind) -> None:
    """Else it would send every 5xx twice more."""
    headers = dict(GatewayError(kind, "no").headers())
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-should-retry"] == (b"true" if TABLE[kind].sdk_may_retry else b"false")
    assert (b"retry-after" in headers) == (TABLE[kind].retry_after_s is not None)


@pytest.mark.parametrize("kind", [kind for kind in Kind if TABLE[kind].outcome is Outcome.INVALID])
def test_the_clients_own_fault_is_not_to_be_retried(kind: Kind) -> None:
    """It would be at fault again."""
    assert not TABLE[kind].sdk_may_retry


def test_one_error_can_forbid_the_retry() -> None:
    """A request that has killed two workers must not come back by itself."""
    error = GatewayError(Kind.WORKER_FAILED, "no", retry=False)
    assert (b"x-should-retry", b"false") in error.headers()


def test_a_missing_key_is_asked_for() -> None:
    """RFC 9110, 11.6.1: a 401 says which scheme would do."""
    assert (b"www-authenticate", b"Bearer") in GatewayError(Kind.INVALID_API_KEY, "no").headers()

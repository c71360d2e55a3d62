"""The gateway's own errors: one table from kind to what the client is told.

The body is OpenAI's `{"error": {"message", "type", "param", "code"}}`. `x-should-retry` and
`Retry-After` are what OpenAI's SDKs read before they retry (3.51: 408, 409, 429 and 5xx twice,
unless `x-should-retry` says otherwise).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from gateway.terms import Outcome


class Kind(StrEnum):
    """What went wrong. The value is the `code` that the client reads."""

    BAD_HTTP = "bad_http"
    INVALID_JSON = "invalid_json"
    INVALID_VALUE = "invalid_value"
    UNSUPPORTED_ENCODING = "unsupported_content_encoding"
    INVALID_API_KEY = "invalid_api_key"
    NOT_FOUND = "not_found"
    MODEL_NOT_FOUND = "model_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    BODY_TOO_LARGE = "request_too_large"
    HEAD_TOO_LARGE = "headers_too_large"
    OVERLOADED = "gateway_overloaded"
    NO_WORKER = "no_worker_available"
    WORKER_UNREACHABLE = "worker_unreachable"
    WORKER_FAILED = "worker_failed"
    WORKER_TIMEOUT = "worker_timeout"
    SHUTTING_DOWN = "gateway_shutting_down"
    INTERNAL = "internal_error"


@dataclass(frozen=True, slots=True)
class Rule:
    """What one kind of error means for the client and for the record."""

    status: int
    type: str
    outcome: Outcome
    sdk_may_retry: bool = False
    retry_after_s: int | None = None
    close: bool = False
    """The connection cannot serve another request: its body was not read to the end."""


_REQUEST = "invalid_request_error"
_SERVER = "server_error"

TABLE: dict[Kind, Rule] = {
    Kind.BAD_HTTP: Rule(400, _REQUEST, Outcome.INVALID, close=True),
    Kind.INVALID_JSON: Rule(400, _REQUEST, Outcome.INVALID),
    Kind.INVALID_VALUE: Rule(400, _REQUEST, Outcome.INVALID),
    Kind.UNSUPPORTED_ENCODING: Rule(415, _REQUEST, Outcome.INVALID, close=True),
    Kind.INVALID_API_KEY: Rule(401, "authentication_error", Outcome.UNAUTHORIZED, close=True),
    Kind.NOT_FOUND: Rule(404, _REQUEST, Outcome.INVALID),
    Kind.MODEL_NOT_FOUND: Rule(404, _REQUEST, Outcome.INVALID),
    # HEAD too: its client takes no body, and would read ours as the next answer.
    Kind.METHOD_NOT_ALLOWED: Rule(405, _REQUEST, Outcome.INVALID, close=True),
    Kind.REQUEST_TIMEOUT: Rule(408, _REQUEST, Outcome.INVALID, close=True),
    Kind.BODY_TOO_LARGE: Rule(413, _REQUEST, Outcome.INVALID, close=True),
    Kind.HEAD_TOO_LARGE: Rule(431, _REQUEST, Outcome.INVALID, close=True),
    Kind.OVERLOADED: Rule(503, _SERVER, Outcome.UNAVAILABLE, True, 1, close=True),
    Kind.NO_WORKER: Rule(503, _SERVER, Outcome.UNAVAILABLE, True, 2),
    Kind.WORKER_UNREACHABLE: Rule(503, _SERVER, Outcome.UNAVAILABLE, True, 2),
    Kind.WORKER_FAILED: Rule(502, _SERVER, Outcome.WORKER_FAILED, True),
    # The worker was given minutes; the same request again would take as many.
    Kind.WORKER_TIMEOUT: Rule(504, _SERVER, Outcome.TIMEOUT),
    # Only a stream that had begun hears this one: it ran into the deadline of the drain.
    Kind.SHUTTING_DOWN: Rule(503, _SERVER, Outcome.UNAVAILABLE, True, 1, close=True),
    Kind.INTERNAL: Rule(500, _SERVER, Outcome.INTERNAL),
}


class GatewayError(Exception):
    """An error of the gateway's own making, to be told to the client.

    `message` says what is wrong and what to do; `param` names the field at fault;
    `allow` the methods of a path that does not take this one (RFC 9110, 15.5.6).
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        param: str | None = None,
        retry: bool | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.rule = TABLE[kind]
        self._allow = allow
        self._sdk_may_retry = self.rule.sdk_may_retry if retry is None else retry

    def body(self) -> bytes:
        """The JSON body, in OpenAI's shape."""
        return error_body(self.message, self.rule.type, self.param, self.kind.value)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the whole answer, without its length."""
        headers = [
            (b"content-type", b"application/json"),
            (b"x-should-retry", b"true" if self._sdk_may_retry else b"false"),
        ]
        if self.rule.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self.rule.retry_after_s))
        if self._allow is not None:
            headers.append((b"allow", self._allow.encode()))
        if self.kind is Kind.INVALID_API_KEY:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers


def error_body(message: str, type_: str, param: str | None, code: Any) -> bytes:
    """`{"error": …}` as OpenAI writes it."""
    return msgspec.json.encode(
        {"error": {"message": message, "type": type_, "param": param, "code": code}}
    )

"""`/v1/messages`, Anthropic's API: named events up to `message_stop`. Pure.

vLLM 0.32, entrypoints/anthropic; Anthropic's reference for messages, streaming and errors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from gateway.relay.events import event_data
from gateway.relay.formats.reading import Reading
from gateway.relay.formats.usage import WireUsage, usage_of

if TYPE_CHECKING:
    from gateway.errors import GatewayError
    from gateway.terms import Usage

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_STATUS_OF_TYPE = {name: status for status, name in _ERROR_TYPES.items()} | {
    "permission_error": 403,
    "overloaded_error": 503,
}

_QUOTED_CODE = re.compile(r"'code': ([45]\d\d)\b")

_PREAMBLE = Reading(preamble=True)
_PLAIN = Reading()
_TOKEN = Reading(token=True)
_STOP = Reading(end=True)


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Message(msgspec.Struct):
    usage: WireUsage | None = None


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    delta: _Delta | None = None
    message: _Message | None = None
    usage: WireUsage | None = None
    error: _Error | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


class MessagesFormat:
    """Anthropic's Messages API."""

    token_marks: tuple[bytes, ...] = (b'"text":"', b'"partial_json":"', b'"thinking":"')

    def read(self, event: bytes) -> Reading:
        """See `StreamFormat.read`. Usage comes twice: input first, output with the last delta."""
        data = event_data(event)
        if data is None:
            return _PREAMBLE
        try:
            read = _decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _PLAIN
        if read.type in ("message_start", "ping"):
            usage = read.message.usage if read.message else None
            return Reading(preamble=True, usage=usage.to_usage() if usage else None)
        if read.type == "message_delta":
            return Reading(usage=read.usage.to_usage() if read.usage else None)
        if read.type == "message_stop":
            return _STOP
        if read.type == "error":
            return Reading(error=data, error_status=_status(read.error or _Error()))
        delta = read.delta
        if delta is not None and (delta.text or delta.thinking or delta.partial_json):
            return _TOKEN
        return _PLAIN

    def usage_of(self, body: bytes) -> Usage | None:
        """See `StreamFormat.usage_of`."""
        return usage_of(body)

    def error_body(self, error: GatewayError) -> bytes:
        """`{"type": "error", "error": {"type", "message"}}`"""
        kind = _ERROR_TYPES.get(error.rule.status, "api_error")
        if error.rule.status < 500:
            kind = _ERROR_TYPES.get(error.rule.status, "invalid_request_error")
        told = {"type": "error", "error": {"type": kind, "message": error.message}}
        return msgspec.json.encode(told)

    def refusal_event(self, body: bytes) -> bytes:
        """See `StreamFormat.refusal_event`."""
        return b"event: error\ndata: " + body + b"\n\n"

    def error_event(self, error: GatewayError, opening: bytes = b"", last: bytes = b"") -> bytes:  # noqa: ARG002 - the error says it all
        """`event: error`, which Anthropic's SDKs raise."""
        return b"event: error\ndata: " + self.error_body(error) + b"\n\n"


def _status(error: _Error) -> int:
    """The HTTP status that an error event stands for.

    vLLM 0.32 tells a late refusal as an `internal_error` whose text quotes the chat error that it
    could not translate, its code included: a client that is at fault must not try again.
    """
    quoted = _QUOTED_CODE.search(error.message)
    return int(quoted[1]) if quoted else _STATUS_OF_TYPE.get(error.type, 500)

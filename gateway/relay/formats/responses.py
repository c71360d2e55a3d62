"""`/v1/responses`: named events up to `response.completed`. Pure.

vLLM 0.32, entrypoints/openai/responses; OpenAI's reference for the Responses API.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.relay.events import event_data
from gateway.relay.formats.reading import Reading
from gateway.relay.formats.usage import WireUsage, error_status, usage_of

if TYPE_CHECKING:
    from gateway.errors import GatewayError
    from gateway.terms import Usage

_PREAMBLE_TYPES = frozenset({"response.created", "response.in_progress", "response.queued"})
_TERMINAL_TYPES = frozenset({"response.completed", "response.incomplete", "response.failed"})

_PREAMBLE = Reading(preamble=True)
_PLAIN = Reading()
_TOKEN = Reading(token=True)

_SEQUENCE_NUMBER = re.compile(rb'"sequence_number":\s*(\d{1,15})\b')


class _Response(msgspec.Struct):
    usage: WireUsage | None = None


class _Event(msgspec.Struct):
    type: str = ""
    delta: Any = None
    response: _Response | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Opening(msgspec.Struct):
    response: dict[str, msgspec.Raw]


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_opening = msgspec.json.Decoder(_Opening).decode


class ResponsesFormat:
    """The Responses API."""

    # From the event's name on, whose line end no JSON can contain: a response tells its request
    # again (metadata, tools), in which a client may have a `delta` of its own.
    token_marks: tuple[bytes, ...] = (
        b'.delta\ndata: {"content_index":0,"delta":"',
        b'.delta\ndata: {"delta":"',
    )

    def read(self, event: bytes) -> Reading:
        """See `StreamFormat.read`."""
        data = event_data(event)
        if data is None:
            return _PREAMBLE
        try:
            read = _decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _PLAIN
        if read.type in _PREAMBLE_TYPES:
            return _PREAMBLE
        if read.type in _TERMINAL_TYPES:
            usage = read.response.usage if read.response else None
            return Reading(
                end=True,
                usage=usage.to_usage() if usage else None,
                error=b"" if read.type == "response.failed" else None,
            )
        if read.type == "error":
            return Reading(error=b"")
        error = bytes(read.error)
        if error != b"null" and not read.type:
            return Reading(error=data, error_status=error_status(error))
        return _TOKEN if read.type.endswith(".delta") and read.delta else _PLAIN

    def usage_of(self, body: bytes) -> Usage | None:
        """See `StreamFormat.usage_of`."""
        return usage_of(body)

    def error_body(self, error: GatewayError) -> bytes:
        """OpenAI's shape."""
        return error.body()

    def refusal_event(self, body: bytes) -> bytes:
        """See `StreamFormat.refusal_event`."""
        return b"event: error\ndata: " + body + b"\n\n"

    def error_event(self, error: GatewayError, opening: bytes = b"", last: bytes = b"") -> bytes:
        """`response.failed`: the terminal event of an answer that is not whole.

        Made from the response as the worker announced it, in the first event.
        """
        numbers = _SEQUENCE_NUMBER.findall(last)
        failed = {
            **_announced(opening),
            "status": "failed",
            "error": {"code": "server_error", "message": error.message},
        }
        event = {
            "response": failed,
            "sequence_number": int(numbers[-1]) + 1 if numbers else 0,
            "type": "response.failed",
        }
        return b"event: response.failed\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _announced(opening: bytes) -> dict[str, msgspec.Raw]:
    """The `response` object of `response.created`, every field as the worker wrote it."""
    try:
        return _decode_opening(event_data(opening) or b"").response
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"object": msgspec.Raw(b'"response"'), "output": msgspec.Raw(b"[]")}

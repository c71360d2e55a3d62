"""What the bytes of each surface's stream mean. Pure.

A format knows which events carry tokens, where usage stands, what ends the stream, and how a
failure is told in it (design: the table "Where the figures are found, per surface").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gateway.relay.events import event_data
from gateway.terms import Usage

if TYPE_CHECKING:
    from gateway.errors import GatewayError


@dataclass(frozen=True, slots=True)
class Reading:
    """What one event is."""

    preamble: bool = False
    """Sent before the engine has answered."""
    token: bool = False
    """Its delta carries non-empty content, reasoning or tool-call text."""
    usage: Usage | None = None
    only_usage: bool = False
    """Carries usage and nothing else, so that it can be hidden whole."""
    end: bool = False
    """The surface's terminal event."""
    error: bytes | None = None
    """The JSON object that a failed request carries, `{"error": …}` included."""
    error_status: int = 0
    """HTTP status that the error names, or 0."""


class StreamFormat(Protocol):
    """How to read one surface's stream."""

    @property
    def token_marks(self) -> tuple[bytes, ...]:
        """Bytes that stand right before a token event's text in compact JSON. They end with the
        quote that opens the text, so text that begins with a quote is empty. A mark cannot occur
        inside a JSON string, where its quotes would be escaped: a match is proof, no match proves
        nothing."""

    def read(self, event: bytes) -> Reading:
        """Decode one event."""

    def usage_of(self, body: bytes) -> Usage | None:
        """Usage in a whole (not streamed) JSON answer, or in the last bytes of a large one."""

    def error_event(self, error: GatewayError) -> bytes:
        """The event that tells a client of a failure after the head has gone down."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None

    def to_usage(self) -> Usage:
        details = self.prompt_tokens_details
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens or 0,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
        )


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    # Not `Raw | None`: msgspec (0.22) would take nothing but null.
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Whole(msgspec.Struct):
    usage: _Usage | None = None


class _ErrorCode(msgspec.Struct):
    code: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_whole = msgspec.json.Decoder(_Whole).decode
_decode_code = msgspec.json.Decoder(_ErrorCode).decode

_PREAMBLE = Reading(preamble=True)
_PLAIN = Reading()
_TOKEN = Reading(token=True)
_DONE = Reading(end=True)


class OpenAIFormat:
    """`data: {…}` events up to `data: [DONE]`: chat and completions."""

    token_marks = (
        b'"content":"',
        b'"text":"',
        b'"reasoning":"',
        b'"arguments":"',
        b'"reasoning_content":"',
        b'"refusal":"',
    )

    def read(self, event: bytes) -> Reading:
        """See `StreamFormat.read`. What is not understood counts as an answer without tokens."""
        data = event_data(event)
        if data is None:
            return _PREAMBLE
        if data == b"[DONE]":
            return _DONE
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, RecursionError):
            return _PLAIN
        error = bytes(chunk.error)
        if error != b"null":
            return Reading(error=data, error_status=error_status(error))
        if chunk.usage is not None:
            return Reading(
                usage=chunk.usage.to_usage(),
                only_usage=chunk.choices == [],
                token=_has_token(chunk.choices),
            )
        return _TOKEN if _has_token(chunk.choices) else _PLAIN

    def usage_of(self, body: bytes) -> Usage | None:
        """See `StreamFormat.usage_of`."""
        try:
            usage = _decode_whole(body).usage
        except (msgspec.DecodeError, RecursionError):
            usage = _usage_in_tail(body)
        return usage.to_usage() if usage else None

    def error_event(self, error: GatewayError) -> bytes:
        """OpenAI's SDKs raise `APIError` for an event whose data has an `error`."""
        return b"data: " + error.body() + b"\n\n"


def error_status(error: bytes) -> int:
    """The HTTP status that a worker's error object names (vLLM: `code`, an int), or 0."""
    try:
        code = _decode_code(error).code
    except (msgspec.DecodeError, RecursionError):
        return 0
    return code if isinstance(code, int) and 400 <= code <= 599 else 0


def _usage_in_tail(tail: bytes) -> _Usage | None:
    at = tail.rfind(b'"usage":')
    if at < 0:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(tail[at + 8 :].decode("utf-8", "replace").lstrip())
        return msgspec.convert(found, _Usage)
    except (ValueError, RecursionError):
        return None


def _has_token(choices: list[_Choice] | None) -> bool:
    for choice in choices or ():
        if choice.text:
            return True
        delta = choice.delta
        if delta is None:
            continue
        if delta.content or delta.reasoning or delta.reasoning_content or delta.refusal:
            return True
        for call in delta.tool_calls or ():
            if call.function and (call.function.name or call.function.arguments):
                return True
    return False

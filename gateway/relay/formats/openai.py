"""OpenAI's first streams: `data: {…}` events up to `data: [DONE]`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.relay.events import event_data
from gateway.relay.formats.reading import Reading
from gateway.relay.formats.usage import WireUsage, error_status, usage_of

if TYPE_CHECKING:
    from gateway.errors import GatewayError
    from gateway.terms import Usage


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
    usage: WireUsage | None = None
    # Not `Raw | None`: msgspec (0.22) would take nothing but null.
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode_chunk = msgspec.json.Decoder(_Chunk).decode

_PREAMBLE = Reading(preamble=True)
_PLAIN = Reading()
_TOKEN = Reading(token=True)
_DONE = Reading(end=True)


class OpenAIFormat:
    """Chat and completions; and everything that answers whole, with OpenAI's errors."""

    token_marks: tuple[bytes, ...] = (
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
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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
        return usage_of(body)

    def error_body(self, error: GatewayError) -> bytes:
        """`{"error": {"message", "type", "param", "code"}}`"""
        return error.body()

    def refusal_event(self, body: bytes) -> bytes:
        """See `StreamFormat.refusal_event`."""
        return b"data: " + body + b"\n\n"

    def error_event(self, error: GatewayError, opening: bytes = b"", last: bytes = b"") -> bytes:  # noqa: ARG002 - the error says it all
        """OpenAI's SDKs raise `APIError` for an event whose data has an `error`."""
        return b"data: " + error.body() + b"\n\n"


class _TranscriptEvent(msgspec.Struct):
    type: str = ""
    delta: str = ""


_decode_transcript_event = msgspec.json.Decoder(_TranscriptEvent).decode


class TranscriptionFormat(OpenAIFormat):
    """Transcriptions: vLLM streams `choices[].delta.content`; OpenAI, `transcript.text.delta`."""

    token_marks = (b'"content":"', b'"delta":"')

    def read(self, event: bytes) -> Reading:
        """See `StreamFormat.read`."""
        data = event_data(event)
        if data is not None and b'"transcript.text.' in data:
            try:
                read = _decode_transcript_event(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return _PLAIN
            if read.type == "transcript.text.delta":
                return _TOKEN if read.delta else _PLAIN
            if read.type == "transcript.text.done":
                return Reading(end=True, usage=usage_of(data))
        return super().read(event)


class SpeechFormat(OpenAIFormat):
    """Speech: mostly raw sound, which has no events; `stream_format: sse` has (OpenAI)."""

    token_marks = (b'"audio":"',)

    def read(self, event: bytes) -> Reading:
        """See `StreamFormat.read`."""
        data = event_data(event)
        if data is not None and b'"speech.audio.d' in data:
            if b'"speech.audio.done"' in data:
                return Reading(end=True, usage=usage_of(data))
            return _TOKEN
        return super().read(event)


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

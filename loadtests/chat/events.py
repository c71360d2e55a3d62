"""Server-sent events of a chat stream, as a client sees them. Pure.

Written apart from the gateway's own reader: a load generator that shared the code under test would
share its mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


class EventReader:
    """Cuts a body into events, however its bytes are cut (WHATWG HTML, 9.2.6)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The `data` fields of the events that are whole now; comments have none."""
        buffer = self._rest + data
        held = b""
        if b"\r" in buffer:
            if buffer.endswith(b"\r"):  # may be the first half of a line end
                buffer, held = buffer[:-1], b"\r"
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, rest = buffer.split(b"\n\n")
        self._rest = rest + held
        return [found for event in events if (found := _data(event)) is not None]


def _data(event: bytes) -> bytes | None:
    event = event.lstrip(b"\n")
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].removeprefix(b" ")
    lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines]) if lines else None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one event says."""

    token: bool = False
    """Its delta carries non-empty content, reasoning, refusal or tool-call text."""
    tokens: int | None = None
    """`usage.completion_tokens`, where it carries usage."""
    done: bool = False
    """`[DONE]`"""
    error: str | None = None
    """The code or type of an error event."""


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


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


def read_event(data: bytes) -> Reading:
    """Read one event's data. ValueError where it is no chat event."""
    if data == b"[DONE]":
        return Reading(done=True)
    chunk = _decode(data)  # msgspec's errors are ValueErrors
    if chunk.error is not None:
        return Reading(error=error_name(chunk.error.code, chunk.error.type))
    token = any(_has_text(choice.delta) for choice in chunk.choices or ())
    return Reading(token=token, tokens=chunk.usage.completion_tokens if chunk.usage else None)


def read_error(body: bytes) -> str:
    """The code or type in the JSON body of a refusal; empty where it has none."""
    try:
        error = _decode(body).error
    except ValueError:
        return ""
    return "" if error is None else error_name(error.code, error.type)


def error_name(code: str | int | None, type_: str | None) -> str:
    """One short name: messages may differ from request to request, and would not add up."""
    return str(code or type_ or "unknown")


def _has_text(delta: _Delta | None) -> bool:
    if delta is None:
        return False
    if delta.content or delta.reasoning or delta.reasoning_content or delta.refusal:
        return True
    calls = (call.function for call in delta.tool_calls or ())
    return any(call is not None and (call.name or call.arguments) for call in calls)

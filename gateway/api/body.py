"""Reads and checks a request body: decoded once, rebuilt only where it must change.

The top level is `dict[str, msgspec.Raw]`: every value, known or not, stays the client's own bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from gateway.errors import GatewayError, Kind

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode
_T = TypeVar("_T")

_STRING = msgspec.json.Decoder(str | None)
_BOOLEAN = msgspec.json.Decoder(bool | None)
_INTEGER = msgspec.json.Decoder(int | None)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])

_SPACE = re.compile(rb"[ \t\n\r]*")
_KEY = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_decode_key = msgspec.json.Decoder(str).decode

_TRUE = msgspec.Raw(b"true")
_FALSE = msgspec.Raw(b"false")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the gateway needs to know of a body, and the body that goes to the worker."""

    model: str
    stream: bool
    choices: int
    """Choices that the stream will interleave."""
    hide_usage: bool
    body: bytes
    previous_response_id: str = ""
    """The response that this one goes on from; for surfaces that make responses."""


def read_facts(
    body: bytes,
    *,
    allow_scheduling: bool = False,
    asks_usage: bool = True,
    makes_response: bool = False,
) -> Facts:
    """Check a JSON body, and change what is the gateway's to say. GatewayError says where and why.

    `asks_usage`: a stream's usage is asked for, and to be hidden where the client did not ask.
    `makes_response`: the body loses its `request_id`, and is ready for `with_request_id`.
    """
    fields = _fields(body)
    model = _value(
        fields, "model", _STRING, "a string: the name of a model, as GET /v1/models lists it"
    )
    if model is None:
        raise _wrong("model", "is missing: name a model, as GET /v1/models lists them")
    stream = bool(_value(fields, "stream", _BOOLEAN, "true or false"))
    changed = False
    if not allow_scheduling and fields.pop("priority", None) is not None:
        changed = True
    hide_usage = False
    previous = ""
    if makes_response:
        changed = fields.pop("request_id", None) is not None or changed
        previous = _value(fields, "previous_response_id", _STRING, "a string") or ""
    if stream and asks_usage:
        options = _value(fields, "stream_options", _OBJECT, "an object") or {}
        asked = _value(options, "include_usage", _BOOLEAN, "true or false", "stream_options.")
        if not asked:
            hide_usage = changed = True
            options["include_usage"] = _TRUE
            if "continuous_usage_stats" in options:
                # Without include_usage it has no effect; with it, it would change every event.
                options["continuous_usage_stats"] = _FALSE
            fields["stream_options"] = msgspec.Raw(_encode(options))
    return Facts(
        model=model,
        stream=stream,
        choices=_choices(fields) if stream else 1,
        hide_usage=hide_usage,
        body=_encode(fields) if changed else body,
        previous_response_id=previous,
    )


def with_request_id(body: bytes, request_id: str) -> bytes:
    """A JSON object with one more field, `request_id`: vLLM's name for a new response's id."""
    return body.rstrip()[:-1] + b',"request_id":"%b"}' % request_id.encode()


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        fields = _decode_fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(body, str(error)) from None
    except RecursionError:
        raise _not_json(body, "it is nested too deeply") from None
    if _encode(fields) != body:
        # Written with other white space, or a key twice: only a full look can tell.
        _refuse_duplicates(body, fields)
    return fields


def _refuse_duplicates(body: bytes, fields: dict[str, msgspec.Raw]) -> None:
    """A key that stands twice means one thing to us and another to the worker.

    Walks over the top level once. `fields` holds the last value of each key: where the body has
    another, or the key again, it stands twice.
    """
    seen: set[str] = set()
    at = _after_space(body, 0) + 1
    while True:
        key_at = _KEY.match(body, _after_space(body, at))
        if key_at is None:  # an object without members
            return
        key: str = _decode_key(key_at[0])
        at = _after_space(body, _after_space(body, key_at.end()) + 1)
        value = bytes(fields[key])
        end = _after_space(body, at + len(value))
        if key in seen or not body.startswith(value, at) or body[end : end + 1] not in b",}":
            raise _wrong(key, "stands twice in the body: send it once")
        seen.add(key)
        if body[end : end + 1] == b"}":
            return
        at = end + 1


def _after_space(body: bytes, at: int) -> int:
    found = _SPACE.match(body, at)
    return found.end() if found else at


def _value(
    fields: dict[str, msgspec.Raw],
    name: str,
    decoder: msgspec.json.Decoder[_T | None],
    expected: str,
    where: str = "",
) -> _T | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _wrong(where + name, f"must be {expected}") from None


def _choices(fields: dict[str, msgspec.Raw]) -> int:
    """`n` times the number of prompts. What the worker will refuse counts as one."""
    try:
        n = _INTEGER.decode(fields["n"]) if "n" in fields else 1
        prompts = 1
        if bytes(fields.get("prompt", b""))[:1] == b"[":
            listed = _LIST.decode(fields["prompt"])
            if listed and bytes(listed[0])[:1] in (b'"', b"["):
                prompts = len(listed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 1
    return (n or 1) * prompts


def _wrong(param: str, what: str) -> GatewayError:
    return GatewayError(Kind.INVALID_VALUE, f"`{param}` {what}.", param=param)


def _not_json(body: bytes, why: str) -> GatewayError:
    start = body[:1]
    hint = "" if start == b"{" else " A JSON object is expected."
    return GatewayError(Kind.INVALID_JSON, f"The body is not valid JSON: {why}.{hint}")

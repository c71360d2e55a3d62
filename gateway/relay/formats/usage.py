"""Usage and error codes, as all surfaces write them. Pure."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from gateway.terms import Usage


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """A `usage` object: OpenAI's first names, or those of Responses and Messages."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    def to_usage(self) -> Usage:
        """In the gateway's words; what is missing is zero."""
        details = self.prompt_tokens_details or self.input_tokens_details
        cached = details.cached_tokens if details else self.cache_read_input_tokens
        # Messages counts the prompt in three parts that do not overlap.
        parts = (
            self.input_tokens,
            self.cache_read_input_tokens,
            self.cache_creation_input_tokens,
        )
        return Usage(
            prompt_tokens=_sane(self.prompt_tokens or sum(part or 0 for part in parts)),
            completion_tokens=_sane(self.completion_tokens or self.output_tokens or 0),
            cached_tokens=_sane(cached or 0),
        )


class _Meta(msgspec.Struct):
    billed_units: WireUsage | None = None
    """Cohere's name for it, in `/v2/embed`."""


def _sane(count: int) -> int:
    """A count that a counter can take; what cannot be one is not believed."""
    return count if 0 <= count < 2**53 else 0


class _Whole(msgspec.Struct):
    usage: WireUsage | None = None
    meta: _Meta | None = None


class _ErrorCode(msgspec.Struct):
    code: Any = None


_decode_whole = msgspec.json.Decoder(_Whole).decode
_decode_code = msgspec.json.Decoder(_ErrorCode).decode


def usage_of(body: bytes) -> Usage | None:
    """Usage in a whole JSON answer, or in the last bytes of a large one."""
    try:
        whole = _decode_whole(body)
        usage = whole.usage or (whole.meta.billed_units if whole.meta else None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        usage = _usage_in_tail(body)
    return usage.to_usage() if usage else None


def error_status(error: bytes) -> int:
    """The HTTP status that a worker's error object names (vLLM: `code`, an int), or 0."""
    try:
        code = _decode_code(error).code
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return code if isinstance(code, int) and 400 <= code <= 599 else 0


def _usage_in_tail(tail: bytes) -> WireUsage | None:
    _, name, after = tail.rpartition(b'"usage":')
    if not name:
        _, name, after = tail.rpartition(b'"billed_units":')
    if not name:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(after.decode("utf-8", "replace").lstrip())
        return msgspec.convert(found, WireUsage)
    except (ValueError, RecursionError):
        return None

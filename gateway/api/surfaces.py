"""The allow-list: every path that reaches a worker, and how its bodies are read.

A later surface joins by adding a row. What is not here does not exist for clients: operators'
routes of vLLM (`/sleep`, `/collective_rpc` …) have no row and cannot be reached. Paths are compared
as they stand in the request line, byte for byte: no decoding, no `..`, no second slash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from gateway.relay.formats import (
    MessagesFormat,
    OpenAIFormat,
    ResponsesFormat,
    SpeechFormat,
    TranscriptionFormat,
)

if TYPE_CHECKING:
    from gateway.relay.formats import StreamFormat


class Reads(Enum):
    """What a request of a surface brings, and so how its worker is found."""

    JSON = "json"
    """A JSON body that names a model."""
    MULTIPART = "multipart"
    """A form with a `model` field, passed on as it arrives."""
    RESPONSE_ID = "response id"
    """Nothing but the id of a response in the path: its worker made it."""


@dataclass(frozen=True, slots=True)
class Surface:
    """One kind of request that clients may send to workers."""

    path: bytes
    """Exact path, as it stands in the request line; the same on the worker."""
    endpoint: str
    """Label in metrics and logs."""
    format: StreamFormat
    """Token events, usage, end and error shape of its answers."""
    reads: Reads = Reads.JSON
    method: str = "POST"
    asks_usage: bool = False
    """Streams carry usage only when `stream_options` ask for it."""
    makes_response: bool = False
    """Answers have ids that later requests name."""
    audio: bool = False
    """Answers are sound."""


_OPENAI = OpenAIFormat()
_RESPONSES = ResponsesFormat()
_MESSAGES = MessagesFormat()
_TRANSCRIPTION = TranscriptionFormat()
_SPEECH = SpeechFormat()

_ROWS = (
    Surface(b"/v1/chat/completions", "chat", _OPENAI, asks_usage=True),
    Surface(b"/v1/completions", "completions", _OPENAI, asks_usage=True),
    Surface(b"/v1/responses", "responses", _RESPONSES, makes_response=True),
    Surface(b"/v1/messages", "messages", _MESSAGES),
    Surface(b"/v1/messages/count_tokens", "count_tokens", _MESSAGES),
    Surface(b"/v1/embeddings", "embeddings", _OPENAI),
    Surface(b"/v2/embed", "embeddings", _OPENAI),
    Surface(b"/pooling", "pooling", _OPENAI),
    Surface(b"/classify", "classify", _OPENAI),
    Surface(b"/score", "score", _OPENAI),
    Surface(b"/v1/score", "score", _OPENAI),
    Surface(b"/rerank", "rerank", _OPENAI),
    Surface(b"/v1/rerank", "rerank", _OPENAI),
    Surface(b"/v2/rerank", "rerank", _OPENAI),
    Surface(b"/tokenize", "tokenize", _OPENAI),
    Surface(b"/detokenize", "detokenize", _OPENAI),
    Surface(b"/v1/audio/transcriptions", "transcriptions", _TRANSCRIPTION, Reads.MULTIPART),
    Surface(b"/v1/audio/translations", "translations", _TRANSCRIPTION, Reads.MULTIPART),
    Surface(b"/v1/audio/speech", "speech", _SPEECH, audio=True),
    Surface(b"/v1/images/generations", "images", _OPENAI),
    Surface(b"/v1/images/edits", "images", _OPENAI, Reads.MULTIPART),
)

RETRIEVE = Surface(b"/v1/responses/{id}", "responses", _RESPONSES, Reads.RESPONSE_ID, method="GET")
CANCEL = Surface(b"/v1/responses/{id}/cancel", "responses", _RESPONSES, Reads.RESPONSE_ID)

SURFACES: tuple[Surface, ...] = (*_ROWS, RETRIEVE, CANCEL)

_BY_PATH = {surface.path: surface for surface in _ROWS}
_RESPONSE_PATH = re.compile(rb"/v1/responses/([A-Za-z0-9_-]{1,128})(/cancel)?")


def find_surface(path: bytes) -> tuple[Surface, str] | None:
    """The surface of a path, and the response id in it (mostly empty); None for any other path."""
    surface = _BY_PATH.get(path)
    if surface is not None:
        return surface, ""
    found = _RESPONSE_PATH.fullmatch(path)
    if found is None:
        return None
    return (CANCEL if found[2] else RETRIEVE), found[1].decode()

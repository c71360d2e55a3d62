"""How each surface tells of an error: OpenAI's shape, the Responses API's, Anthropic's, or none.

What vLLM does is the truth where it does something. It has no error events on ``/v1/responses``
(its stream just breaks, see ``Response.cut``), so there the event is OpenAI's own.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from gateway.sim.schema import ApiError, Json
from gateway.sim.wire import DONE, encode, event, named_event


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to tell of an error."""

    body: Callable[[ApiError], Json]
    """The body of an answer that is an error."""
    events: Callable[[ApiError], list[bytes]] | None
    """What is sent in a stream, its end included. None: the stream can only break."""


def openai_error(error: ApiError) -> list[bytes]:
    """An error event and ``[DONE]``; vLLM uses ``json.dumps`` here, with its spaces and escapes."""
    return [event(json.dumps(error.body()).encode()), DONE]


def _responses(error: ApiError) -> list[bytes]:
    value = {
        "code": str(error.status),
        "message": error.message,
        "param": error.param,
        "sequence_number": 0,
        "type": "error",
    }
    return [named_event("error", encode(value))]


def _anthropic_body(error: ApiError) -> Json:
    if error.kind == "Bad Request":
        # Wrong types never reach vLLM's Anthropic code: pydantic's errors are OpenAI-shaped.
        return error.body()
    return {"type": "error", "error": {"type": error.kind, "message": error.message}}


def _anthropic(error: ApiError) -> list[bytes]:
    kind = "internal_error"
    value = {"type": "error", "error": {"type": kind, "message": error.message}}
    return [named_event("error", encode(value))]


OPENAI = Dialect(ApiError.body, openai_error)
RESPONSES = Dialect(ApiError.body, _responses)
ANTHROPIC = Dialect(_anthropic_body, _anthropic)
BYTES = Dialect(ApiError.body, None)
"""Audio and vectors."""


def dialect_of(path: str) -> Dialect:
    """The dialect that a path is answered in."""
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    if path.startswith("/v1/responses"):
        return RESPONSES
    return BYTES if path in ("/v1/audio/speech", "/v1/embeddings", "/pooling") else OPENAI

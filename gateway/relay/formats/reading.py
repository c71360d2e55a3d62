"""What a format tells of an event, and what every format can do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.errors import GatewayError
    from gateway.terms import Usage


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
    """The worker reports a failure: the JSON body of a whole error answer, or nothing (empty) where
    the event cannot be one."""
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

    def error_body(self, error: GatewayError) -> bytes:
        """The JSON body that tells a client of a failure."""

    def refusal_event(self, body: bytes) -> bytes:
        """The event that tells a worker's own error, `body`, after the head has gone down."""

    def error_event(self, error: GatewayError, opening: bytes = b"", last: bytes = b"") -> bytes:
        """The event that tells it after the head has gone down. `opening` is the stream's first
        event, `last` what was read last; both may be empty."""

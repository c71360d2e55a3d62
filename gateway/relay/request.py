"""What the relay must know of a client's request, already checked. Immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.relay.formats import StreamFormat


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent to any worker of its pool."""

    method: bytes
    target: bytes
    """Path and query on the worker: the path is the surface's own, never the client's."""
    headers: bytes
    """The client's headers that pass, as bytes of a request head."""
    body: bytes
    model: str
    stream: bool
    hide_usage: bool
    """The gateway asked for usage on the client's behalf, and takes it out again."""
    format: StreamFormat

"""The allow-list: every path that reaches a worker, and how its stream is read.

A later surface joins by adding a row. What is not here does not exist for clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.relay.formats import OpenAIFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.relay.formats import StreamFormat


@dataclass(frozen=True, slots=True)
class Surface:
    """One kind of request that clients may send to workers."""

    path: bytes
    """Exact path, as it stands in the request line; the same on the worker."""
    endpoint: str
    """Label in metrics and logs."""
    format: StreamFormat
    """Token events, usage, end and error shape of its answers."""
    method: str = "POST"


_OPENAI = OpenAIFormat()

SURFACES: Mapping[bytes, Surface] = {
    surface.path: surface
    for surface in (
        Surface(b"/v1/chat/completions", "chat", _OPENAI),
        Surface(b"/v1/completions", "completions", _OPENAI),
    )
}

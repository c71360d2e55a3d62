"""What the relay must know of a client's request, already checked. Immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.relay.formats import StreamFormat
    from gateway.relay.upload import Upload
    from gateway.terms import Worker


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent to any worker of its pool."""

    method: bytes
    target: bytes
    """Path and query on the worker: the path is the surface's own, never the client's."""
    headers: bytes
    """The client's headers that pass, as bytes of a request head."""
    body: bytes
    """The whole body; empty where `upload` carries it."""
    model: str
    stream: bool
    hide_usage: bool
    """The gateway asked for usage on the client's behalf, and takes it out again."""
    format: StreamFormat
    upload: Upload | None = None
    """A body that comes piece by piece."""
    tailor: Callable[[Worker], bytes] | None = None
    """Makes the body for one worker, where it must name it."""
    pinned: Worker | None = None
    """The only worker that can answer, since it holds what is asked for."""
    audio: bool = False
    """The answer is sound: its first byte is what a listener waits for."""

    def body_for(self, worker: Worker) -> bytes:
        """The body as this worker gets it."""
        return self.body if self.tailor is None else self.tailor(worker)

    @property
    def repeatable(self) -> bool:
        """It can be sent once more, to another worker."""
        return self.upload is None or self.upload.repeatable

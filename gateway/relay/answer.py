"""What one client has of its answer so far. One per request, whatever the number of attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import GatewayError, Kind
from gateway.relay.headers import downstream_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.relay.formats import StreamFormat
    from gateway.relay.observer import StreamObserver
    from gateway.relay.sinks import Headers, Sink
    from gateway.telemetry.record import Record

_SYNTHETIC_HEAD: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]


class Answer:
    """The answer to one request, on its way to one client."""

    __slots__ = (
        "_draining",
        "_format",
        "_streams",
        "begun",
        "head_down",
        "observer",
        "record",
        "sink",
    )

    def __init__(
        self,
        sink: Sink,
        record: Record,
        format_: StreamFormat,
        draining: Callable[[], bool],
    ) -> None:
        self.sink = sink
        self.record = record
        self._format = format_
        self._draining = draining
        self._streams = False
        self.observer: StreamObserver | None = None
        """Reads the stream that goes down, if it is one."""
        self.head_down = False
        """The head has gone down: a failure is told in the stream."""
        self.begun = False
        """An event or a body byte of the answer has gone down: no retry."""

    def head(self, status: int, headers: Headers, length: int | None, *, stream: bool) -> None:
        """The worker's own head, to go down with the first bytes."""
        self.head_down = True
        self._streams = stream
        self.record.status = status
        down = downstream_headers(headers, self.record.request_id, stream=stream)
        self.sink.head(status, down, length, close=self._draining())

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """A worker's whole answer, kept until now."""
        if self.head_down:
            # Comments have gone down as a 200 stream: the refusal can only be told within it.
            self.sink.write(self._format.refusal_event(body.replace(b"\n", b" ")))
            self.sink.cut()
            return
        self.head(status, headers, len(body), stream=False)
        self.begun = True
        if body:
            self.sink.write(body)
        self.sink.end()

    def keep_alive(self, released: bytes) -> None:
        """The first event takes long: the head, what the observer has released, and a comment go
        down, so that nothing between here and the client takes the connection for dead."""
        if not self.head_down:
            self.head(200, _SYNTHETIC_HEAD, None, stream=True)
        self.sink.write(released + b": keep-alive\n\n")

    def fail(self, error: GatewayError) -> None:
        """Tell the client of a failure: as a status, or in the stream, which then just closes."""
        self.record.error = error.kind.value
        if not self.head_down:
            body = self._format.error_body(error)
            self.head_down = True
            self.record.status = error.rule.status
            headers = [*error.headers(), (b"x-request-id", self.record.request_id.encode())]
            close = error.rule.close or self._draining()
            self.sink.head(error.rule.status, headers, len(body), close=close)
            self.sink.write(body)
            self.sink.end()
            return
        # Not what was asked for counts: a worker may answer a stream's request with JSON.
        if self._streams:
            observer = self.observer
            opening, last = (observer.opening, observer.last) if observer else (b"", b"")
            # Half an event that has gone down must be ended before another can begin.
            ending = b"\n\n" if observer and observer.mid_event else b""
            self.sink.write(ending + self._format.error_event(error, opening, last))
        self.sink.cut()


def shutting_down() -> GatewayError:
    """What a stream is told that the drain's deadline cuts."""
    return GatewayError(
        Kind.SHUTTING_DOWN,
        "The gateway is shutting down before this answer was whole; send it again.",
    )

"""One answer on the wire, framed as vLLM's uvicorn frames it: one chunk per event."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from gateway.sim.dialect import OPENAI, Dialect
from gateway.sim.faults import Fault
from gateway.sim.wire import DONE

if TYPE_CHECKING:
    from collections.abc import Callable

Headers = list[tuple[bytes, bytes]]

STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"vary", b"Origin"),
]
LAST_CHUNK = b"0\r\n\r\n"


class Line(Protocol):
    """The connection, as an answer sees it."""

    def send(self, data: bytes) -> None:
        """Write; never blocks."""

    def finish(self, keep: bool) -> None:
        """The answer is complete; ``keep`` the connection, or close it."""

    def close(self) -> None:
        """Close after what was written."""

    def reset(self) -> None:
        """RST."""

    def date(self) -> bytes:
        """The value of the ``date`` header."""


def reason(status: int) -> bytes:
    """The reason phrase; empty for a status without one."""
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


class Response:
    """Answers one request, either with ``whole`` or with ``open``, events and ``end``.

    The callbacks belong to who answers: ``gone`` when the client has left, ``pause`` and
    ``resume`` when it stops and starts to read.
    """

    fault: Fault | None = None
    hung = False
    """Nothing will ever be sent (only by faults)."""

    def __init__(
        self, line: Line, keep: bool, body_wanted: bool, dialect: Dialect = OPENAI
    ) -> None:
        self._line = line
        self._keep = keep
        self._body_wanted = body_wanted
        self.dialect = dialect
        self.extra: Headers = []
        """Headers for every answer to this request, after its own."""
        self.gone: Callable[[], None] | None = None
        self.pause: Callable[[], None] | None = None
        self.resume: Callable[[], None] | None = None

    def start(self) -> bool:
        """Called before routing; True: answered already (only by faults)."""
        return False

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """A complete answer; ``headers`` without ``date``, ``server`` and ``connection``."""
        head = self._head(status, headers)
        self._line.send(head + body if self._body_wanted else head)
        self._line.finish(self._keep)

    def open(self, headers: Headers = STREAM_HEADERS) -> None:
        """The head of a stream. It leaves before the engine has answered, as vLLM's does."""
        self._line.send(self._head(200, headers, chunked=True))

    def event(self, data: bytes) -> None:
        """One event (or comment, or piece of audio) of a stream, in its own chunk and write."""
        self._line.send(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, last: bytes = DONE) -> None:
        """The surface's terminal event (empty: there is none), and the last chunk."""
        if last:
            self.event(last)
        self._line.send(LAST_CHUNK)
        self._line.finish(self._keep)

    def cut(self) -> None:
        """Close a stream in its middle, as uvicorn does when the handler raises."""
        self._line.close()

    def line_gone(self) -> None:
        """The connection is lost."""
        if self.gone is not None:
            self.gone()

    def line_paused(self) -> None:
        """The client does not read what is written."""
        if self.pause is not None:
            self.pause()

    def line_resumed(self) -> None:
        """The client reads again."""
        if self.resume is not None:
            self.resume()

    def _head(
        self, status: int, headers: Headers, *, chunked: bool = False, version: bytes = b"1.1"
    ) -> bytes:
        lines = [b"HTTP/%b %d %b" % (version, status, reason(status))]
        lines += [b"date: " + self._line.date(), b"server: uvicorn"]
        lines += [b"%b: %b" % header for header in [*headers, *self.extra]]
        if not self._keep:
            lines.append(b"connection: close")
        if chunked:
            lines.append(b"transfer-encoding: chunked")
        return b"\r\n".join(lines) + b"\r\n\r\n"

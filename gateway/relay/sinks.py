"""Where a relay writes. The relay knows only `Sink`; there are two.

`TransportSink`, here, writes to the client's socket at once, through our own connection class.
`AsgiSink` (`asgi_sink.py`) works under any ASGI server. All relay tests run on both.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.errors import GatewayError

Headers = list[tuple[bytes, bytes]]

STATUS_LINES = {
    status: f"HTTP/1.1 {status} {phrase}\r\n".encode()
    for status, phrase in {
        **dict.fromkeys(range(100, 600), ""),
        **{int(status): status.phrase for status in HTTPStatus},
    }.items()
}


class Flow(Protocol):
    """Who feeds a sink, and must stop while it is full."""

    def on_pause(self) -> None:
        """The client is slower than what comes: stop."""

    def on_resume(self) -> None:
        """Go on."""


class Sink(Protocol):
    """One answer's way to its client. Nothing here waits: `flow` is told when to stop feeding."""

    flow: Flow | None
    on_gone: Callable[[], object] | None
    """Called once when the client leaves before the end."""
    gone: bool
    paused: bool
    """The client is slower than what comes."""
    request_read_at_s: float
    """When the request's last byte was read; 0 while that is not known."""
    request_fault: GatewayError | None
    """What is wrong with the request's body, found while it came in."""

    def whole_body(self) -> bytes | None:
        """The request's body, if it has been read to its end already; can be had once."""

    def start(self) -> None:
        """The request has been read: from now on the client's end is told to `on_gone`."""

    def head(self, status: int, headers: Headers, length: int | None, *, close: bool) -> None:
        """Status and headers; goes out with the first write. `length` None: not known yet.
        `close`: this is the connection's last answer."""

    def write(self, data: bytes) -> None:
        """Body bytes, down at once."""

    def end(self) -> None:
        """The answer is whole."""

    @property
    def flushing(self) -> bool:
        """The answer has ended, but its client has not taken it all."""

    async def flushed(self) -> bool:
        """Wait until the client has taken the whole answer; false where it never did."""

    def cut(self) -> None:
        """Close after what has been written, without a clean end: the answer is not whole."""


class Connection(Protocol):
    """The client's connection, as `TransportSink` needs it (see `api/connection.py`)."""

    transport: asyncio.Transport

    def watch(self, sink: TransportSink) -> None:
        """From now on tell `sink` of pauses, and of the client's end."""

    def whole_body(self, turn: object) -> bytes:
        """The body of a request that has been read to its end."""

    def answer_started(self, turn: object) -> None:
        """The head of this turn's answer is on its way."""

    def answer_finished(self, turn: object, *, keep_alive: bool) -> None:
        """The answer is whole: read on, or close."""


class TransportSink:
    """Writes to the transport of a client's connection, in the same step that read the bytes."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_flush",
        "_head",
        "_http11",
        "_keep_alive",
        "_over",
        "_stall",
        "_stall_bytes",
        "_transport",
        "_write_stall_s",
        "flow",
        "gone",
        "on_gone",
        "paused",
        "request_fault",
        "request_read_at_s",
        "turn",
    )

    def __init__(
        self,
        connection: Connection,
        turn: object,
        *,
        http11: bool,
        keep_alive: bool,
        write_stall_s: float,
    ) -> None:
        self._connection = connection
        self.turn = turn
        """The server's own object for this request."""
        self._transport = connection.transport
        self._http11 = http11
        self._keep_alive = keep_alive
        self._write_stall_s = write_stall_s
        self._head = b""
        self._chunked = False
        self._over = False
        self._stall: asyncio.TimerHandle | None = None
        self._stall_bytes = 0
        self._flush: asyncio.Future[bool] | None = None
        self.flow: Flow | None = None
        self.on_gone: Callable[[], object] | None = None
        self.gone = False
        self.paused = False
        self.request_read_at_s = 0.0
        """When the request's last byte was read; 0 until then."""
        self.request_fault: GatewayError | None = None
        """What is wrong with the request's body, found while it came in."""

    def start(self) -> None:
        """See `Sink`."""
        self._connection.watch(self)

    def whole_body(self) -> bytes | None:
        """See `Sink`."""
        if not self.request_read_at_s:
            return None
        return self._connection.whole_body(self.turn)

    def last_on_connection(self) -> None:
        """Close after this answer."""
        self._keep_alive = False

    def head(self, status: int, headers: Headers, length: int | None, *, close: bool) -> None:
        """See `Sink`. Without a length, chunked; to an HTTP/1.0 client, up to the close.

        Before the request's last byte has come this answer is the connection's last: the rest of
        an upload that is refused need not be sent.
        """
        self._chunked = length is None and self._http11
        if close or not self.request_read_at_s or (length is None and not self._chunked):
            self._keep_alive = False
        lines = [STATUS_LINES[status]]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if length is not None:
            lines.append(b"content-length: %d\r\n" % length)
        elif self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n" if self._keep_alive else b"connection: close\r\n\r\n")
        self._head = b"".join(lines)
        self._connection.answer_started(self.turn)

    def write(self, data: bytes) -> None:
        """See `Sink`."""
        if self.gone:
            return  # the request is being cancelled, but its worker was quicker
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data = self._head + data
            self._head = b""
        self._transport.write(data)

    def end(self) -> None:
        """See `Sink`."""
        if self.gone:
            return
        self._over = True
        last = self._head + b"0\r\n\r\n" if self._chunked else self._head
        self._head = b""
        if last:
            self._transport.write(last)
        self.flow = None
        if self._transport.get_write_buffer_size() and not self._transport.is_closing():
            # From here on any byte that is left counts as a pause, whose end is the answer's.
            self._flush = asyncio.get_running_loop().create_future()
            self._transport.set_write_buffer_limits(0)
            if self._stall is None:
                self._watch_stall()
        else:
            self._connection.answer_finished(self.turn, keep_alive=self._keep_alive)

    @property
    def flushing(self) -> bool:
        """See `Sink`."""
        return self._flush is not None

    async def flushed(self) -> bool:
        """See `Sink`."""
        return self._flush is None or await self._flush

    def cut(self) -> None:
        """See `Sink`."""
        if self.gone:
            return
        self._over = True
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        if self._transport.get_write_buffer_size() and self._stall is None:
            self._watch_stall()
        self._transport.close()

    # --- told by the connection ---

    def pause(self) -> None:
        """The transport's buffer is over its high-water mark."""
        self.paused = True
        if self.flow is not None:
            self.flow.on_pause()
        if self._stall is None:
            self._watch_stall()

    def resume(self) -> None:
        """The transport's buffer is down again."""
        self.paused = False
        self._forget_stall()
        if self.flow is not None:
            self.flow.on_resume()
        if self._flush is not None:
            self._transport.set_write_buffer_limits()
            self._connection.answer_finished(self.turn, keep_alive=self._keep_alive)
            self._settle(flushed=True)

    def lost(self) -> None:
        """The connection is closed."""
        self._forget_stall()
        self._settle(flushed=False)
        if self._over or self.gone:
            return
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

    def _settle(self, *, flushed: bool) -> None:
        if self._flush is not None and not self._flush.done():
            self._flush.set_result(flushed)

    # --- a client that reads nothing must not hold its worker, or our memory, for ever ---

    def _watch_stall(self) -> None:
        loop = asyncio.get_running_loop()
        self._stall_bytes = 0
        self._stall = loop.call_later(self._write_stall_s / 2, self._check_stall)

    def _check_stall(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._transport.get_write_buffer_size()
        if left == 0:
            self._stall = None
        elif self._stall_bytes and left >= self._stall_bytes:
            self._stall = None
            self._reset()
        else:
            self._stall_bytes = left
            self._stall = loop.call_later(self._write_stall_s, self._check_stall)

    def _reset(self) -> None:
        """Close so that the client is told: without this, the kernel would keep what is unsent."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

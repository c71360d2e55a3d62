"""One connection to a worker: HTTP/1.1 on `asyncio.Protocol`, parsed by httptools.

No task runs here. What the worker sends is handed to the receiver within `data_received`.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

import httptools

from gateway.relay.faults import Fault

Headers = list[tuple[bytes, bytes]]


class Receiver(Protocol):
    """Who takes a worker's answer in. Called in order: head, body …, then end or fault, once."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Status and headers, names in lower case."""

    def on_body(self, data: bytes, read_at_s: float) -> None:
        """Body bytes of one read, without chunk framing; the read began at `read_at_s`."""

    def on_end(self) -> None:
        """The answer is complete; the connection is free for another or closed already."""

    def on_fault(self, fault: Fault) -> None:
        """The answer will not be completed. The connection is closed."""


class UnaskedAnswer(Exception):
    """The worker goes on after its answer."""


class UpstreamConnection(asyncio.Protocol):
    """Carries one request at a time; may be kept for the next (`reusable`)."""

    __slots__ = (
        "_chunks",
        "_complete",
        "_connected",
        "_full",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_keep_alive",
        "_max_head_bytes",
        "_parser",
        "_receiver",
        "_responding",
        "_transport",
        "_until_close",
        "idle_since_s",
        "reusable",
        "served",
    )

    def __init__(self, max_head_bytes: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._connected = False
        self._keep_alive = False
        self._full: asyncio.Future[None] | None = None
        self._receiver: Receiver | None = None
        self._chunks: list[bytes] = []
        self._headers: Headers = []
        self._head_bytes = 0
        self._head_done = False
        self._complete = False
        self._responding = False
        self._until_close = False
        self.reusable = False
        """The last answer ended cleanly and the worker keeps the connection open."""
        self.served = 0
        """Requests sent on this connection."""
        self.idle_since_s = 0.0

    # --- for the relay ---

    @property
    def is_open(self) -> bool:
        """The worker has not closed it, and neither have we."""
        return self._connected and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes, receiver: Receiver) -> None:
        """Send one request, and give its answer to `receiver`."""
        self._receiver = receiver
        self._head_bytes = 0
        self._responding = False
        self._until_close = False
        self.reusable = False
        self.served += 1
        if len(body) < 64 * 1024:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def write(self, data: bytes) -> None:
        """Send more of a request whose body comes piece by piece."""
        if self.is_open:
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait while the worker is slower than what is written."""
        if self._full is not None:
            await self._full

    def pause(self) -> None:
        """Stop reading: the client is slower than the worker."""
        if self.is_open:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.is_open:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close at once and forget the receiver: the worker sees a closed socket and aborts."""
        self._receiver = None
        self.reusable = False
        if self._connected:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._connected = True

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self.close()  # nobody asked: whatever this is, it is no answer to the next request
            return
        read_at_s = monotonic()
        self._responding = True
        malformed = too_large = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            malformed = True
        if self._headers or not self._head_done:
            self._head_bytes += len(data)
            if self._head_bytes > self._max_head_bytes:
                too_large = not self._head_done or self._head_is_too_large()
        if self._headers and self._head_done:
            too_large = too_large or not 200 <= self._parser.get_status_code() <= 599
        if too_large or (malformed and self._headers and not self._complete):
            self._fail(receiver, Fault.BAD_RESPONSE)
            return
        if self._headers and self._head_done:
            headers, self._headers = self._headers, []
            receiver.on_head(self._parser.get_status_code(), headers)
        chunks = self._chunks
        if chunks and self._receiver is receiver:
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._chunks = []
            receiver.on_body(body, read_at_s)
        if self._complete:
            self._keep_alive = self._keep_alive and not malformed
            self._finish(receiver)
        elif malformed:
            self._fail(receiver, Fault.BAD_RESPONSE)

    def pause_writing(self) -> None:
        self._full = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._full is not None and not self._full.done():
            self._full.set_result(None)
        self._full = None

    def connection_lost(self, exc: Exception | None) -> None:
        receiver = self._receiver
        self._connected = False
        self.reusable = False
        self.resume_writing()
        del self._parser  # it refers back to us: without it, we go when nobody needs us any more
        if receiver is None:
            return
        if self._until_close and self._head_done and exc is None:
            self._receiver = None
            receiver.on_end()
        elif self.served > 1 and not self._responding:
            self._fail(receiver, Fault.STALE)
        else:
            self._fail(receiver, Fault.LOST)

    def _head_is_too_large(self) -> bool:
        size = sum(len(name) + len(value) for name, value in self._headers)
        return size > self._max_head_bytes

    def _finish(self, receiver: Receiver) -> None:
        self._complete = False
        self._head_done = False
        if self._receiver is not receiver:
            return
        self._receiver = None
        self.reusable = (
            self._keep_alive
            and self.is_open
            # An answer that came before the whole request was sent leaves half a request behind.
            and self._transport.get_write_buffer_size() == 0
        )
        if not self.reusable:
            self._transport.abort()
        receiver.on_end()

    def _fail(self, receiver: Receiver, fault: Fault) -> None:
        if self._receiver is receiver:
            self.close()
            receiver.on_fault(fault)

    # --- httptools: only gathers, so that nothing of ours runs inside the parser ---

    def on_message_begin(self) -> None:
        if self._complete:
            raise UnaskedAnswer  # stops the parser: its bytes must not join the answer before it

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # trailers are not part of the head
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if 100 <= self._parser.get_status_code() < 200:
            self._headers = []  # 100 Continue, 103 Early Hints: the answer comes later
            return
        self._head_done = True
        names = {name for name, _ in self._headers}
        self._until_close = not names & {b"content-length", b"transfer-encoding"}
        if not self._headers:
            self._headers.append((b"connection", b"close"))

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

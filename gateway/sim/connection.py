"""One client connection: bytes in, requests out; keep-alive, pipelining, half-close as uvicorn."""

import asyncio
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from gateway.sim.dialect import dialect_of
from gateway.sim.faults import Fault
from gateway.sim.misbehave import FaultyResponse
from gateway.sim.multipart import Form, FormReader, boundary_of
from gateway.sim.response import Response

_WRITE_HIGH_WATER = 65_536  # uvicorn's


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as it was read."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case."""
    head: bytes
    """The raw head, with its blank line."""
    body: bytes
    version: str
    keep: bool
    """The client lets the connection live."""
    form: Form | None = None
    """The body, when it is ``multipart/form-data``; then ``body`` is empty."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.split("?", 1)[0]

    def header(self, name: bytes) -> str | None:
        """The first header of this name (in lower case)."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1").strip()
        return None


class Owner(Protocol):
    """Who serves the connection."""

    keep_alive_s: float

    def fault(self, request: Request) -> Fault | None:
        """The fault for a request; raises ``ValueError`` for a specification that is wrong."""

    def answer(self, request: Request, response: Response) -> None:
        """Answer, now or later."""

    def joined(self, connection: "Connection") -> None:
        """A client has connected."""

    def left(self, connection: "Connection") -> None:
        """A client has gone."""

    def date(self) -> bytes:
        """The value of the ``date`` header."""


class Connection(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._requests: deque[Request] = deque()
        self._current: Response | None = None
        self._closing = False
        self._stale: str | None = None
        self._raw = bytearray()
        self._head: bytes | None = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._body_size = 0
        self._form: FormReader | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        # uvloop's transports have the interface, but not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)
        self._owner.joined(self)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Parse; complete requests are answered in order."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._stale == "reset":
            self.reset()
        elif self._stale is not None:
            self.close()
        if self._closing:
            return
        if self._head is None:
            self._raw += data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # like uvicorn, answer as if no upgrade had been asked for
        except httptools.HttpParserError:
            self._refuse()
            return
        # Not from inside the parser: it would take our own mistakes for bad HTTP.
        self._next()

    def eof_received(self) -> None:
        """A half-close counts as leaving: asyncio closes, and ``connection_lost`` follows."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's interface
        """The client has gone, or the answer asked to close."""
        self._closing = True
        if self._idle is not None:
            self._idle.cancel()
        self._requests.clear()
        current, self._current = self._current, None
        if current is not None:
            current.line_gone()
        self._owner.left(self)

    def pause_writing(self) -> None:
        """The client does not read."""
        if self._current is not None:
            self._current.line_paused()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._current is not None:
            self._current.line_resumed()

    # httptools

    def on_message_begin(self) -> None:
        """A request begins."""
        self._target, self._headers, self._body = b"", [], []
        self._head, self._form, self._body_size = None, None, 0

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete; a client that waits for 100 gets it."""
        end = self._raw.find(b"\r\n\r\n")
        self._head = bytes(self._raw[: end + 4])
        del self._raw[: end + 4]
        kind = next((v for k, v in self._headers if k == b"content-type"), b"")
        if kind[:10].lower() == b"multipart/":
            boundary = boundary_of(kind.decode("latin-1"))
            self._form = None if boundary is None else FormReader(boundary)
        if any(k == b"expect" and v.lower() == b"100-continue" for k, v in self._headers):
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A part of the body; a form is parsed at once, the rest is kept."""
        self._body_size += len(body)
        if self._form is None:
            self._body.append(body)
        else:
            self._form.feed(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        body = b"".join(self._body)
        del self._raw[: self._body_size]
        request = Request(
            self._parser.get_method().decode(),
            self._target.decode("latin-1"),
            tuple(self._headers),
            self._head or b"",
            body,
            self._parser.get_http_version(),
            self._parser.should_keep_alive(),
            None if self._form is None else self._form.end(),
        )
        self._head = None
        self._requests.append(request)

    # gateway.sim.response.Line

    def send(self, data: bytes) -> None:
        """Write; nothing once the connection closes."""
        if self._transport is not None and not self._closing:
            self._transport.write(data)

    def finish(self, keep: bool) -> None:
        """The answer is complete."""
        fault = self._current.fault if self._current is not None else None
        self._current = None
        if fault is not None and "stale" in fault:
            self._stale = fault.text("stale")
        if not keep or self._stale == "now":
            self.close()
        elif not self._closing:
            if self._requests:
                # A turn of the loop for each: a thousand pipelined requests do not recurse.
                self._loop.call_soon(self._next)
            else:
                self._wait()

    def close(self) -> None:
        """Close after what was written."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """RST: what the client has not read may be lost."""
        self._closing = True
        if self._transport is None:
            return
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def date(self) -> bytes:
        """The value of the ``date`` header."""
        return self._owner.date()

    def shut(self) -> None:
        """The worker stops: idle connections are closed, answers under way are lost."""
        if self._current is None:
            self.close()
        else:
            self.reset()

    def _wait(self) -> None:
        self._idle = self._loop.call_later(self._owner.keep_alive_s, self.close)

    def _next(self) -> None:
        if self._current is not None or not self._requests or self._closing:
            return
        request = self._requests.popleft()
        body_wanted = request.method != "HEAD"
        dialect = dialect_of(request.path)
        problem = None
        try:
            fault = self._owner.fault(request)
        except ValueError as error:
            fault, problem = None, str(error)
        if fault is None:
            response = Response(self, request.keep, body_wanted, dialect)
        else:
            response = FaultyResponse(self, request.keep, body_wanted, fault, dialect)
        self._current = response
        if problem is not None:
            body = b"X-Sim-Fault: " + problem.encode()
            headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"text/plain")]
            response.whole(400, headers, body)
        elif not response.start():
            self._owner.answer(request, response)

    def _refuse(self) -> None:
        """uvicorn's answer to what is no HTTP."""
        body = b"Invalid HTTP request received."
        self.send(
            b"HTTP/1.1 400 Bad Request\r\ndate: %b\r\nserver: uvicorn\r\n"
            b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (self.date(), len(body), body)
        )
        self.close()

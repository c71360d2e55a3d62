"""The client's connection: a thin class over uvicorn's httptools protocol.

It gives each request a `TransportSink` (as an ASGI scope extension), so that the relay can write
without an ASGI `send`; and it bounds what uvicorn leaves open: the size of a head, and how long a
client may take over it. Errors have OpenAI's shape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.errors import GatewayError, Kind
from gateway.relay.sinks import STATUS_LINES, TransportSink

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

EXTENSION = "vllm_gateway.sink"
"""Key in `scope["extensions"]` under which a request finds its `TransportSink`."""

_LINGER_S = 2.0
# Requests that may wait on one connection behind the one that is served.
_MOST_PIPELINED = 8
_UPGRADE = re.compile(rb"\r\nupgrade:(?![ \t]*websocket)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one client connection."""

    max_head_bytes: int
    head_timeout_s: float
    write_stall_s: float


class ClientConnection(HttpToolsProtocol):
    """One client connection."""

    limits: ConnectionLimits
    on_refused: Callable[[GatewayError], None]
    """Both are set by `connection_class`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._incoming: TransportSink | None = None
        """Sink of the request whose bytes come in."""
        self._sink: TransportSink | None = None
        """Sink of the request that is served."""
        self._deaf = False
        self._reading_head = False
        self._head_bytes = 0
        self._head_may_be_large = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_byte_s = 0.0
        self._linger_timer: asyncio.TimerHandle | None = None
        self._idle_bytes = 0
        """Bytes since the last that were a request's head or body."""

    # --- asyncio.Protocol ---

    def data_received(self, data: bytes) -> None:
        """Feed the parser; mind the head's size and pace."""
        if self._deaf or self.transport.is_closing():
            return
        within_head = self._reading_head
        if not within_head and (self._incoming is None or self._incoming.request_read_at_s):
            data = _without_upgrade(data)
        self._idle_bytes += len(data)
        self._head_may_be_large = within_head or len(data) > self.limits.max_head_bytes
        super().data_received(data)
        if self._reading_head and self.parser is not None:
            # What the read that began this head brought is not counted until the head is whole.
            self._head_bytes = self._head_bytes + len(data) if within_head else 0
            self._head_byte_s = monotonic()
            if self._head_bytes > self.limits.max_head_bytes:
                self._refuse_head()
            elif self._head_timer is None:
                timeout_s = self.limits.head_timeout_s
                self._head_timer = self.loop.call_later(timeout_s, self._check_head)
        elif self._under_way():
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            if self._idle_bytes > self.limits.max_head_bytes and not self._deaf:
                self.send_400_response("")  # trailers or chunk extensions without end
        elif self._head_timer is None:  # blank lines: no request has begun
            self._await_head()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client that says nothing is not waited for for ever."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that its client has gone."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        super().connection_lost(exc)
        if self._sink is not None:
            # uvicorn marks only the request that came last, which may wait behind this one.
            cast("RequestResponseCycle", self._sink.turn).disconnected = True
            self._sink.lost()
        self._sink = self._incoming = None

    def shutdown(self) -> None:
        """The server stops: an idle connection closes now, another after its answer."""
        super().shutdown()
        if self._sink is not None:
            self._sink.last_on_connection()

    def pause_writing(self) -> None:
        """The client reads more slowly than its worker writes."""
        super().pause_writing()
        if self._sink is not None:
            self._sink.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self._sink is not None:
            self._sink.resume()

    # --- httptools ---

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._reading_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers come after the head and are not part of the request."""
        if self._reading_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A request's head is there: its sink goes along in the scope."""
        self._reading_head = False
        if self._head_may_be_large and self._too_large():
            raise GatewayError(Kind.HEAD_TOO_LARGE, "")  # ends in send_400_response
        self._idle_bytes = 0
        if b"#" in self.url or self.parser.should_upgrade():
            # A fragment is not part of any request target (RFC 9112, 3.2), and uvicorn would drop
            # it unseen. What follows an upgrade that is not made harmless (see `_without_upgrade`)
            # must not be taken for a request.
            raise GatewayError(Kind.BAD_HTTP, "")
        super().on_headers_complete()
        cycle = self.cycle
        sink = TransportSink(
            self,
            cycle,
            http11=cycle.scope["http_version"] == "1.1",
            keep_alive=cycle.keep_alive,
            write_stall_s=self.limits.write_stall_s,
        )
        cast("dict[str, Any]", cycle.scope)["extensions"] = {EXTENSION: sink}
        self._incoming = sink
        self._read_on()  # uvicorn has stopped if another request is being served

    def on_body(self, body: bytes) -> None:
        """Bytes of a request's body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request's last byte: its clock starts."""
        self._idle_bytes = 0
        super().on_message_complete()
        if self._incoming is not None:
            self._incoming.request_read_at_s = monotonic()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """What cannot be parsed. Overrides uvicorn's plain-text answer."""
        if self._too_large():
            self._refuse_head()
        elif not self._under_way():
            self._refuse(GatewayError(Kind.BAD_HTTP, "The request is not valid HTTP/1.1."))
        else:
            # A request is under way. Its own body may have gone bad: then it ends here. What
            # follows a whole request is no HTTP: then this answer is the connection's last.
            self._end_after_answer()
            sink = self._incoming
            if sink is not None and self.cycle.more_body:
                sink.request_fault = GatewayError(
                    Kind.BAD_HTTP,
                    "The request's body is not valid HTTP/1.1 (a bad chunk, perhaps).",
                )
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                # Where nobody reads the body (a page), nobody answers: close all the same.
                self._linger_timer = self.loop.call_later(_LINGER_S, self.transport.abort)

    # --- told by the sink ---

    def whole_body(self, turn: object) -> bytes:
        """See `sinks.Connection`. What uvicorn's own `receive` would give."""
        cycle = cast("RequestResponseCycle", turn)
        body = bytes(cycle.body)
        cycle.body = bytearray()
        return body

    def answer_started(self, turn: object) -> None:
        """See `sinks.Connection`."""
        cycle = cast("RequestResponseCycle", turn)
        cycle.response_started = True
        cycle.waiting_for_100_continue = False

    def answer_finished(self, turn: object, *, keep_alive: bool) -> None:
        """See `sinks.Connection`. Does what uvicorn's own `send` does after the last byte."""
        cycle = cast("RequestResponseCycle", turn)
        cycle.response_complete = True
        cycle.message_event.set()
        self._sink = None
        if keep_alive:
            cycle.on_response()
        elif cycle.more_body:
            self._close_gently()
        else:
            self.transport.close()
            cycle.on_response()

    def watch(self, sink: TransportSink) -> None:
        """`sink`'s request has begun to be served: it is told of pauses and of the client's end.
        Also reads on where uvicorn stopped, so that the end is seen."""
        self._sink = sink
        self._read_on()
        if self.flow.write_paused:
            sink.pause()

    def _under_way(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # uvicorn begins with None
        return cycle is not None and not cycle.response_complete

    def _read_on(self) -> None:
        """Read, so that the client's end is seen, unless many requests wait behind this one."""
        if len(self.pipeline) < _MOST_PIPELINED:
            self.flow.resume_reading()

    # --- heads that are too large or too slow ---

    def _too_large(self) -> bool:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers or ())
        return size > self.limits.max_head_bytes

    def _await_head(self) -> None:
        self._head_byte_s = monotonic()
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._check_head)

    def _check_head(self) -> None:
        self._head_timer = None
        if not self._reading_head:
            if not self._under_way():
                self.transport.close()  # nothing was asked, so nothing is said
            return
        left_s = self._head_byte_s + self.limits.head_timeout_s - monotonic()
        if left_s > 0:
            self._head_timer = self.loop.call_later(left_s, self._check_head)
            return
        self._refuse(
            GatewayError(
                Kind.REQUEST_TIMEOUT,
                f"No byte of the request's head came for {self.limits.head_timeout_s:g} s.",
            )
        )

    def _refuse_head(self) -> None:
        self._refuse(
            GatewayError(
                Kind.HEAD_TOO_LARGE,
                f"The request line and headers are larger than {self.limits.max_head_bytes} bytes "
                "(limits.max_head_bytes).",
            )
        )

    def _refuse(self, error: GatewayError) -> None:
        """Answer outside of any request, and close; never in the middle of an answer."""
        if self.transport.is_closing():
            return
        if self._under_way():
            self._end_after_answer()
            return
        self.on_refused(error)
        body = error.body()
        lines = [STATUS_LINES[error.rule.status]]
        lines += [b"%b: %b\r\n" % header for header in error.headers()]
        lines.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        self.transport.write(b"".join(lines) + body)
        self._close_gently()

    def _end_after_answer(self) -> None:
        """Take in nothing more; what is being answered is the connection's last."""
        self._deaf = True
        self.cycle.keep_alive = False
        for sink in (self._sink, self._incoming):
            if sink is not None:
                sink.last_on_connection()

    def _close_gently(self) -> None:
        """Close while the client may still be sending. A plain close would answer what comes then
        with a reset, which destroys the error on its way to the client (RFC 9112, 9.6): so say
        that we are done, and take in and forget what comes, for a while."""
        self._deaf = True
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        self._linger_timer = self.loop.call_later(_LINGER_S, self.transport.abort)


def _without_upgrade(data: bytes) -> bytes:
    """The bytes of a head, its wish for another protocol made harmless.

    A server may ignore `Upgrade` (RFC 9110, 7.8), but llhttp takes a request that has it for the
    last of its kind, and Java's HTTP client sends `Upgrade: h2c` with its first.
    """
    if b"pgrade:" not in data and b"PGRADE:" not in data:
        return data
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + body


def connection_class(
    limits: ConnectionLimits, on_refused: Callable[[GatewayError], None]
) -> type[ClientConnection]:
    """The class for uvicorn's `http=` setting, which makes the instances itself.

    `on_refused` is told of what was refused before it was a request.
    """
    members = {"limits": limits, "on_refused": staticmethod(on_refused)}
    return type("ClientConnection", (ClientConnection,), members)

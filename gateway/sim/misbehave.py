"""An answer that follows a fault: the same interface as ``Response``, wrong bytes."""

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.sim.dialect import OPENAI, Dialect
from gateway.sim.faults import AFTER_HEAD, BEFORE_HEAD, Fault
from gateway.sim.response import LAST_CHUNK, STREAM_HEADERS, Headers, Line, Response, reason
from gateway.sim.schema import ApiError
from gateway.sim.wire import DONE, KEEP_ALIVE, encode

_BUSY = (
    "The engine is currently busy and cannot accept new requests. "
    "Please try again later or on a different instance."
)
_KINDS = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
_TEXTS = {400: "Simulated bad request.", 500: "Internal server error", 503: _BUSY}
_HIGH_WATER = 65_536
# Turns of the event loop between two cut writes: enough for a reader in the same loop to take
# each by itself, and a few tens of microseconds for one in another process.
_TURNS = 4


def refusal(status: int) -> ApiError:
    """vLLM's error for a status; one that vLLM never sends gets its phrase."""
    phrase = reason(status).decode() or "Error"
    return ApiError(status, _KINDS.get(status, phrase), _TEXTS.get(status, f"Simulated {phrase}."))


class Outbox:
    """Writes in order, with cuts and waits between: bytes, seconds, or something to call."""

    def __init__(self, write: Callable[[bytes], None], cut: int, pause_s: float) -> None:
        self._write = write
        self._cut = cut
        self._pause_s = pause_s
        self._items: deque[bytes | float | Callable[[], None]] = deque()
        self._timer: asyncio.Handle | None = None
        self._blocked = False
        self._turns = 0
        self.size = 0
        """Bytes that have not been written."""
        self.drained: Callable[[], None] | None = None

    def put(self, item: bytes | float | Callable[[], None]) -> None:
        """Add one item, and write what can be written now."""
        self._items.append(item)
        if isinstance(item, bytes):
            self.size += len(item)
        if self._timer is None and not self._blocked:
            self._pump()

    def block(self, blocked: bool) -> None:
        """The connection's buffer is full, or has room again."""
        self._blocked = blocked
        if not blocked and self._timer is None:
            self._pump()

    def drop(self) -> None:
        """The connection is lost."""
        self._items.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self) -> None:
        self._timer = None
        if self._turns:
            self._turns -= 1
            self._timer = asyncio.get_running_loop().call_soon(self._wake)
            return
        if not self._blocked:
            self._pump()

    def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        while self._items and not self._blocked:
            item = self._items.popleft()
            if isinstance(item, float):
                self._timer = loop.call_later(item, self._wake)
                return
            if not isinstance(item, bytes):
                item()
                continue
            piece = item[: self._cut] if self._cut else item
            if len(piece) < len(item):
                self._items.appendleft(item[self._cut :])
            self.size -= len(piece)
            self._write(piece)
            if self._cut:
                self._turns = _TURNS
                self._timer = loop.call_later(self._pause_s, self._wake)
                break
        if self.size < _HIGH_WATER and self.drained is not None:
            self.drained()


class FaultyResponse(Response):
    """See ``gateway.sim.faults`` for what each fault means."""

    def __init__(
        self, line: Line, keep: bool, body_wanted: bool, fault: Fault, dialect: Dialect = OPENAI
    ) -> None:
        keep = keep and not ("close" in fault or "http10" in fault)
        super().__init__(line, keep, body_wanted, dialect)
        self.fault: Fault = fault  # never None here
        self._out = Outbox(line.send, fault.integer("cut"), fault.number("pause"))
        self._out.drained = self._drained
        self._full = False
        self._stream_headers = STREAM_HEADERS
        self._progress = BEFORE_HEAD
        self._over = False
        self._gathered: list[bytes] = []
        self._body = bytearray()
        self._raw = "http10" in fault or "content-length" in fault

    def start(self) -> bool:
        """Faults that need no answer from the engine."""
        fault = self.fault
        if "late-head" in fault:
            self._out.put(fault.number("late-head"))
        if "bad-head" in fault:
            self._out.put(b"HTTP/1.1 2oo what is this\r\nno colon here\r\n\r\n")
            self._stop(self._line.close)
        elif "status" in fault:
            self._refuse(fault.integer("status"))
        elif "error-first" in fault:
            self.open()
            self._fail(refusal(fault.integer("error-first")))
        else:
            self._reach(BEFORE_HEAD)
        # An answer that hangs is still worked on: the engine sees the request, and its end.
        return self._over and fault.ending() != ("hang", BEFORE_HEAD)

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """As asked, cut short in the middle of the body if the fault says so."""
        if self._over:
            return
        version = b"1.0" if "http10" in self.fault else b"1.1"
        self._out.put(self._head(status, self._more(headers), version=version))
        self._pause_at(AFTER_HEAD)
        ending = self.fault.ending()
        # Ends that are events belong to streams.
        if ending is None or ending[0] in ("truncate", "error"):
            self._out.put(body if self._body_wanted else b"")
            self._finish()
        else:
            if ending[1] > AFTER_HEAD:
                self._out.put(body[: len(body) // 2])
            self._end_at(ending[1])
        self._over = True

    def open(self, headers: Headers = STREAM_HEADERS) -> None:
        """The head, unless it has to wait for the length of the body."""
        if self._over:
            return
        self._stream_headers = headers
        if "content-length" not in self.fault:
            version = b"1.0" if self._raw else b"1.1"
            headers = self._more(headers)
            self._out.put(self._head(200, headers, chunked=not self._raw, version=version))
        self._reach(AFTER_HEAD)
        slow = self.fault.number("slow-first") or self.fault.number("slow-head")
        if slow:
            self._out.put(slow)

    def event(self, data: bytes) -> None:
        """One event, as the fault wants it."""
        if self._over:
            return
        counted = 0 if data is KEEP_ALIVE else 1
        text = self._stream_headers is STREAM_HEADERS
        if text and "comments" in self.fault:
            data = b": a comment before\n\n: and one inside\n" + data
        if text and "newline" in self.fault:
            end = b"\r" if self.fault.text("newline") == "cr" else b"\r\n"
            data = data.replace(b"\n", end)
        self._gathered.append(data)
        together = max(self.fault.integer("merge"), self.fault.integer("coalesce"), 1)
        if len(self._gathered) >= together:
            self._flush()
        self._reach(self._progress + counted)
        if self._out.size > _HIGH_WATER and not self._full:
            self._full = True
            super().line_paused()

    def end(self, last: bytes = DONE) -> None:
        """The end, clean as far as the fault lets it be."""
        if self._over:
            return
        if last and "no-done" not in self.fault:
            self.event(last)
        if not self._over:
            self._over = True
            self._flush(last=True)
            self._finish()

    def cut(self) -> None:
        """Break off, after what was written."""
        if not self._over:
            self._flush(rest=True)
            self._stop(self._line.close)

    def line_gone(self) -> None:
        """The connection is lost: nothing of this is needed any more."""
        self._over = True
        self._out.drop()
        super().line_gone()

    def line_paused(self) -> None:
        """The connection's buffer is full."""
        self._out.block(True)
        super().line_paused()

    def line_resumed(self) -> None:
        """The connection's buffer has room; a stream that hangs stays silent."""
        self._out.block(False)
        if not self._over and not self._full:
            super().line_resumed()

    def _drained(self) -> None:
        if self._full and not self._over:
            self._full = False
            super().line_resumed()

    def _refuse(self, status: int) -> None:
        body = encode(self.dialect.body(refusal(status)))
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        if "retry-after" in self.fault:
            headers.append((b"retry-after", self.fault.text("retry-after").encode()))
        self.whole(status, [*headers, (b"vary", b"Origin")], body)

    def _more(self, headers: Headers) -> Headers:
        headers = list(headers)
        if "huge-head" in self.fault:
            headers.append((b"x-padding", b"x" * self.fault.integer("huge-head")))
        if "trailers" in self.fault:
            headers.append((b"trailer", b"x-sim-trailer"))
        return headers

    def _reach(self, progress: int) -> None:
        """So much has gone out: what does the fault do here?"""
        self._pause_at(progress)
        self._end_at(progress)

    def _pause_at(self, progress: int) -> None:
        if self.fault.at("sleep") == progress:
            self._flush()
            self._out.put(self.fault.number("sleep"))

    def _end_at(self, progress: int) -> None:
        self._progress = progress
        ending = self.fault.ending()
        if ending is None or ending[1] != progress or self._over:
            return
        name = ending[0]
        if name not in ("error", "truncate"):
            self._flush(rest=True)
        if name == "error":
            self._over = True
            self._fail(refusal(self.fault.integer("error")))
            self._abandon()
        elif name == "hang":
            self._over = self.hung = True
            super().line_paused()
        elif name == "truncate":
            self._over = True
            self._flush(last=True)
            self._finish()
            self._abandon()
        else:
            if name == "bad-chunk":
                self._out.put(b"zz\r\nthis is no chunk\r\n")
            self._stop(self._line.reset if name == "reset" else self._line.close)

    def _fail(self, error: ApiError) -> None:
        """An error in the stream, as the surface tells it; audio can only break off."""
        self._over = True
        if self.dialect.events is None:
            self._flush(rest=True)
            self._stop(self._line.close)
            return
        self._gathered += self.dialect.events(error)
        self._flush(last=True)
        self._finish()

    def _stop(self, act: Callable[[], None]) -> None:
        self._over = True
        self._out.put(act)

    def _abandon(self) -> None:
        """The stream is over for the client: the engine need not go on."""
        if self.gone is not None:
            self.gone()

    def _finish(self) -> None:
        line, keep = self._line, self._keep
        self._out.put(lambda: line.finish(keep))

    def _flush(self, *, rest: bool = False, last: bool = False) -> None:
        """Frame what was gathered: with ``rest`` all of it, with ``last`` the end too."""
        fault, gathered = self.fault, self._gathered
        self._gathered = []
        size = fault.integer("rechunk")
        if self._raw:
            self._flush_raw(b"".join(gathered), rest, last)
            return
        if size:
            self._body += b"".join(gathered)
            gathered = []
            while len(self._body) >= size or ((rest or last) and self._body):
                gathered.append(bytes(self._body[:size]))
                del self._body[:size]
        elif "merge" in fault and gathered:
            gathered = [b"".join(gathered)]
        extension = b';sim=1;note="a;b"' if "chunk-ext" in fault else b""
        framed = b"".join(b"%x%b\r\n%b\r\n" % (len(g), extension, g) for g in gathered if g)
        if last:
            tail = b"0\r\nx-sim-trailer: yes\r\n\r\n" if "trailers" in fault else LAST_CHUNK
            framed += tail
        if framed:
            self._out.put(framed)

    def _flush_raw(self, data: bytes, rest: bool, last: bool) -> None:
        if "content-length" not in self.fault:
            if data:
                self._out.put(data)
            return
        self._body += data
        if last or rest:
            # An answer that breaks has promised more than comes.
            size = len(self._body) + (0 if last else 1000)
            length = (b"content-length", b"%d" % size)
            version = b"1.0" if "http10" in self.fault else b"1.1"
            headers = [length, *self._more(self._stream_headers)]
            head = self._head(200, headers, version=version)
            self._out.put(head + bytes(self._body))
            self._body.clear()

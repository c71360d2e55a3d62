"""The sink for any ASGI server: one pump, and a bounded queue before it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from gateway.errors import GatewayError
    from gateway.relay.sinks import Flow, Headers

# A sink that has this much waiting asks for a pause, and at the lower mark for more: the
# same marks as uvloop's own transports have. What one read of a worker's socket brings (256 KiB
# at most) may come on top.
_HIGH_WATER_BYTES = 64 * 1024
_LOW_WATER_BYTES = 16 * 1024


class AnswerCut(Exception):
    """Raised out of the application so that an ASGI server closes the connection: ASGI has no
    other way to end an answer that is not whole."""


class AsgiSink:
    """Queues what goes down for one pump, which alone awaits `send`.

    A `send` that has suspended can only be awaited by the task that started it, so the relay, which
    runs within the worker's `data_received`, cannot call it.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
        *,
        write_stall_s: float,
    ) -> None:
        self._receive = receive
        self._send = send
        self._write_stall_s = write_stall_s
        self._queue: deque[dict[str, Any]] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._over = False
        self._cut = False
        self._flush: asyncio.Future[bool] | None = None
        self.paused = False
        self.flow: Flow | None = None
        self.on_gone: Callable[[], object] | None = None
        self.gone = False
        self.request_read_at_s = 0.0
        self.request_fault: GatewayError | None = None

    def whole_body(self) -> bytes | None:
        """See `Sink`. An ASGI server gives it piece by piece."""
        return None

    def start(self) -> None:
        """See `Sink`. `run` listens from the start."""

    def head(self, status: int, headers: Headers, length: int | None, *, close: bool) -> None:
        """See `Sink`."""
        headers = list(headers)
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        if close:
            headers.append((b"connection", b"close"))
        self._queue.append({"type": "http.response.start", "status": status, "headers": headers})

    def write(self, data: bytes) -> None:
        """See `Sink`."""
        self._queue.append({"type": "http.response.body", "body": data, "more_body": True})
        self._queued_bytes += len(data)
        self._wake.set()
        if self._queued_bytes > _HIGH_WATER_BYTES and not self.paused:
            self.paused = True
            if self.flow is not None:
                self.flow.on_pause()

    def end(self) -> None:
        """See `Sink`."""
        self._over = True
        self._queue.append({"type": "http.response.body", "body": b"", "more_body": False})
        self._wake.set()
        self._flush = asyncio.get_running_loop().create_future()

    @property
    def flushing(self) -> bool:
        """See `Sink`."""
        return self._flush is not None

    async def flushed(self) -> bool:
        """See `Sink`."""
        return self._flush is None or await self._flush

    def cut(self) -> None:
        """See `Sink`."""
        self._over = self._cut = True
        self._wake.set()

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which writes here, and pump until all is down or the client has gone.

        AnswerCut where the answer is not whole.
        """
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._wake.set())
        listener = asyncio.create_task(self._listen())
        try:
            while not (task.done() and not self._queue):
                await self._wake.wait()
                self._wake.clear()
                await self._pump()
            task.result()
        except asyncio.CancelledError:
            self._leave()  # nobody pumps any more: `work` must not wait for that
            raise
        finally:
            for other in (task, listener):
                other.cancel()
            await asyncio.gather(task, listener, return_exceptions=True)
        if self._cut or self.gone:
            raise AnswerCut

    async def _pump(self) -> None:
        while self._queue:
            message = self._queue.popleft()
            try:
                async with asyncio.timeout(self._write_stall_s):
                    await self._send(message)
            except OSError:  # TimeoutError too: a client that reads nothing counts as gone
                self._leave()
            self._queued_bytes -= len(message.get("body", b""))
            if self.paused and self._queued_bytes <= _LOW_WATER_BYTES:
                self.paused = False
                if self.flow is not None:
                    self.flow.on_resume()
        if self._over:
            self._settle(flushed=True)

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._over or self._queue:
            self._leave()

    def _settle(self, *, flushed: bool) -> None:
        if self._flush is not None and not self._flush.done():
            self._flush.set_result(flushed)

    def _leave(self) -> None:
        self._settle(flushed=False)
        self._queue.clear()
        self._queued_bytes = 0
        if not self.gone:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()

"""May this request run now, wait, or not at all?"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic

from gateway.errors import GatewayError, Kind


class Admission:
    """Bounds on the requests that run, that wait, and on the bytes of their bodies.

    First in, first out.
    """

    def __init__(
        self, *, max_running: int, max_queued: int, queue_timeout_s: float, max_inflight_bytes: int
    ) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._queue_timeout_s = queue_timeout_s
        self._max_inflight_bytes = max_inflight_bytes
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.running = 0
        """Requests that hold a place (a gauge)."""
        self.inflight_bytes = 0
        """Bytes of request bodies in memory (a gauge)."""

    @property
    def queued(self) -> int:
        """Requests that wait for a place (a gauge)."""
        return len(self._waiting)

    async def enter(self) -> float:
        """Take a place, after waiting if need be. Returns the seconds waited.

        GatewayError (OVERLOADED) where there is no place to wait, or it took too long. Each
        `enter` that returned is paired with one `leave`.
        """
        if self.running < self._max_running and not self._waiting:
            self.running += 1
            return 0.0
        if len(self._waiting) >= self._max_queued:
            raise GatewayError(
                Kind.OVERLOADED,
                f"{self.running} requests run and {self.queued} wait already; try again shortly.",
            )
        began_s = monotonic()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                await place
        except BaseException as stopped:
            if place.done() and not place.cancelled():
                self.leave()  # the place was given in the same moment: pass it on
            elif place in self._waiting:
                self._waiting.remove(place)
            if isinstance(stopped, TimeoutError):
                raise GatewayError(
                    Kind.OVERLOADED,
                    f"No place came free within {self._queue_timeout_s:g} s; try again shortly.",
                ) from None
            raise
        return monotonic() - began_s

    def leave(self) -> None:
        """Give the place back, to the first that waits."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)  # the place changes hands: `running` stays
                return
        self.running -= 1

    def reserve(self, size: int) -> int:
        """Count `size` bytes of a body, and give them back to be released later.

        GatewayError (OVERLOADED) where that is too much.
        """
        if self.inflight_bytes + size > self._max_inflight_bytes:
            raise GatewayError(
                Kind.OVERLOADED,
                "The requests in flight hold as many bytes as the gateway may keep in memory "
                "(limits.max_inflight_bytes); try again shortly.",
            )
        self.inflight_bytes += size
        return size

    def release(self, size: int) -> None:
        """The body is no longer in memory."""
        self.inflight_bytes -= size

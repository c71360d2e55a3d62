"""Connections to workers: opened when needed, kept for reuse while they are fresh."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from gateway.relay.upstream import UpstreamConnection

if TYPE_CHECKING:
    from gateway.terms import Worker


class Unreachable(Exception):
    """No connection could be opened. The message says why, for the log."""


class Connections:
    """Keep-alive connections, by worker. Last in, first out, so that spare ones expire."""

    def __init__(
        self, *, connect_timeout_s: float, keep_alive_s: float, max_head_bytes: int
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._keep_alive_s = keep_alive_s
        self._max_head_bytes = max_head_bytes
        self._idle: dict[Worker, list[UpstreamConnection]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self.open = 0
        """Connections that are open now, idle ones included (a gauge)."""

    def take(self, worker: Worker) -> UpstreamConnection | None:
        """A kept connection that can still be used, or None."""
        kept = self._idle.get(worker)
        oldest_s = monotonic() - self._keep_alive_s
        while kept:
            connection = kept.pop()
            if connection.is_open and connection.idle_since_s >= oldest_s:
                return connection
            connection.close()
        return None

    async def connect(self, worker: Worker) -> UpstreamConnection:
        """A new connection, to the first of the worker's addresses that takes one. Unreachable."""
        if not worker.addresses:
            raise Unreachable(f"{worker.host} does not resolve")
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._connect(worker)
        except TimeoutError:
            raise Unreachable(f"no connection within {self._connect_timeout_s:g} s") from None

    def give_back(self, worker: Worker, connection: UpstreamConnection) -> None:
        """Keep a connection whose answer is complete, or close it."""
        if not connection.reusable or not self._keep_alive_s:
            connection.close()
            return
        connection.idle_since_s = monotonic()
        self._idle.setdefault(worker, []).append(connection)
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(self._keep_alive_s, self._close_expired)

    def close(self) -> None:
        """Close all idle connections."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for kept in self._idle.values():
            for connection in kept:
                connection.close()
        self._idle.clear()

    async def _connect(self, worker: Worker) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        failure = ""
        for address in worker.addresses:
            try:
                _, connection = await loop.create_connection(
                    lambda: _Counted(self, self._max_head_bytes),
                    address,
                    worker.port,
                    ssl=worker.tls,
                    server_hostname=worker.host if worker.tls else None,
                )
            except OSError as error:
                failure = error.strerror or str(error)
            else:
                connection.count()
                return connection
        raise Unreachable(failure)

    def _close_expired(self) -> None:
        self._sweep = None
        oldest_s = monotonic() - self._keep_alive_s
        next_s = None
        for worker, kept in list(self._idle.items()):
            fresh = [c for c in kept if c.is_open and c.idle_since_s > oldest_s]
            for connection in kept:
                if connection not in fresh:
                    connection.close()
            if fresh:
                self._idle[worker] = fresh
                next_s = min(next_s or fresh[0].idle_since_s, fresh[0].idle_since_s)
            else:
                del self._idle[worker]
        if next_s is not None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(next_s - oldest_s, self._close_expired)


class _Counted(UpstreamConnection):
    """Counts itself in its pool while it is open."""

    __slots__ = ("_counted", "_pool")

    def __init__(self, pool: Connections, max_head_bytes: int) -> None:
        super().__init__(max_head_bytes)
        self._pool = pool
        self._counted = False

    def count(self) -> None:
        """It is handed out. (uvloop does not tell of the end of one whose making was cancelled.)"""
        if self.is_open:
            self._counted = True
            self._pool.open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self._counted:
            self._counted = False
            self._pool.open -= 1
        super().connection_lost(exc)

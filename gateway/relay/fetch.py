"""A whole GET from a worker, for what the gateway itself wants to know."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.relay.connections import Connections, Unreachable
from gateway.relay.headers import upstream_head

if TYPE_CHECKING:
    from gateway.relay.faults import Fault
    from gateway.relay.upstream import Headers
    from gateway.terms import Worker

_MAX_BODY_BYTES = 4 * 1024 * 1024


class _Collector:
    """Receiver that keeps a whole answer."""

    def __init__(self) -> None:
        self.done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._body = bytearray()

    def on_head(self, status: int, headers: Headers) -> None:  # noqa: ARG002
        self._status = status

    def on_body(self, data: bytes, read_at_s: float) -> None:  # noqa: ARG002
        self._body += data
        if len(self._body) > _MAX_BODY_BYTES and not self.done.done():
            self.done.set_exception(OSError("the answer is too large"))

    def on_end(self) -> None:
        if not self.done.done():
            self.done.set_result((self._status, bytes(self._body)))

    def on_fault(self, fault: Fault) -> None:
        if not self.done.done():
            self.done.set_exception(OSError(fault.value.replace("_", " ")))


async def fetch(
    connections: Connections, worker: Worker, path: str, *, timeout_s: float
) -> tuple[int, bytes]:
    """Status and body of `GET path`, on a connection of its own. OSError where it fails."""
    try:
        connection = await connections.connect(worker)
    except Unreachable as error:
        raise OSError(str(error)) from None
    try:
        answer = _Collector()
        head = upstream_head(b"GET", path.encode(), worker, b"", "gateway", 0)
        connection.send(head, b"", answer)
        async with asyncio.timeout(timeout_s):
            return await answer.done
    except TimeoutError:
        raise OSError(f"no answer within {timeout_s:g} s") from None
    finally:
        connection.close()

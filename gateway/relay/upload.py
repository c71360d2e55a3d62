"""A request body that is too large to wait for: kept as it comes, passed on as it comes.

Multipart uploads (audio, images) go to their worker untouched, from the moment the worker is known.
What came before is kept in memory up to a bound, then on disk (a file without a name, which goes
with the process at the latest).
"""

from __future__ import annotations

import tempfile
from time import monotonic
from typing import TYPE_CHECKING

from gateway.errors import GatewayError, Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.relay.upstream import UpstreamConnection

_PIECE_BYTES = 64 * 1024


class ClientLeft(Exception):
    """The client closed the connection before its request was whole."""


class Upload:
    """One multipart body on its way up."""

    def __init__(
        self,
        next_part: Callable[[], Awaitable[tuple[bytes, bool]]],
        *,
        length: int | None,
        max_bytes: int,
        memory_bytes: int,
    ) -> None:
        """`next_part` gives the body's next bytes, and whether there are more; or GatewayError, or
        ClientLeft. `max_bytes` bounds the body, `memory_bytes` what of it is kept in memory."""
        self._next_part = next_part
        self._kept = tempfile.SpooledTemporaryFile(memory_bytes)  # noqa: SIM115 - see close
        self._max_bytes = max_bytes
        self._memory_bytes = memory_bytes
        self._more = True
        self._passing = False
        self.length = length
        """As the client announced it; None where it sends chunks."""
        self.received = 0
        """Bytes that have come so far."""
        self.moved_at_s: float | None = None
        """When the worker last took bytes; None while it is the client that is waited for."""
        self.read_at_s = 0.0
        """When the last of them was read; 0 until then."""

    @property
    def repeatable(self) -> bool:
        """The body can be sent again: nothing of it was passed on without being kept."""
        return not self._passing

    @property
    def in_memory(self) -> int:
        """Bytes that are kept in memory: once there are too many, all of them go to disk."""
        return self.received if self.received <= self._memory_bytes else 0

    async def receive(self) -> bytes | None:
        """Take in and keep the next bytes; None after the last. GatewayError, ClientLeft."""
        if not self._more:
            return None
        part = await self._next()
        self._kept.write(part)
        return part

    async def send(self, connection: UpstreamConnection) -> None:
        """Pass the whole body on, what is kept first. GatewayError, ClientLeft."""
        self._kept.seek(0)
        while piece := self._kept.read(_PIECE_BYTES):
            await self._pass_on(connection, piece)
        while self._more:
            self.moved_at_s = None
            part = await self._next()
            if part:  # not where only the end was missing
                self._passing = True
                self._kept.close()
                await self._pass_on(connection, part)
        if self.length is None:
            connection.write(b"0\r\n\r\n")

    def close(self) -> None:
        """Forget what is kept."""
        self._kept.close()

    async def _next(self) -> bytes:
        part, self._more = await self._next_part()
        self.received += len(part)
        if self.received > self._max_bytes:
            raise too_large(self._max_bytes)
        if not self._more:
            self.read_at_s = self.moved_at_s = monotonic()
        return part

    async def _pass_on(self, connection: UpstreamConnection, piece: bytes) -> None:
        if self.length is None:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        self.moved_at_s = monotonic()
        connection.write(piece)
        await connection.drained()
        self.moved_at_s = monotonic()


def too_large(max_bytes: int) -> GatewayError:
    """The body has outgrown its bound."""
    return GatewayError(
        Kind.BODY_TOO_LARGE, f"The body is larger than {max_bytes} bytes (limits.max_body_bytes)."
    )

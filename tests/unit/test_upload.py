"""An upload: kept as it comes, passed on as it comes, the same bytes whatever the cuts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, Kind
from gateway.relay.upload import ClientLeft, Upload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.relay.upstream import UpstreamConnection

PARTS = st.lists(st.binary(max_size=40), min_size=1, max_size=8)


class Client:
    """Gives a body part by part, and knows how much of it was asked for."""

    def __init__(self, parts: Iterable[bytes | Exception]) -> None:
        self._parts = list(parts)
        self.given = 0

    async def __call__(self) -> tuple[bytes, bool]:
        part = self._parts[self.given]
        self.given += 1
        if isinstance(part, Exception):
            raise part
        return part, self.given < len(self._parts)


@dataclass
class Worker:
    """The connection to a worker: what was written, and whether there is room for more."""

    written: list[bytes] = field(default_factory=list)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    full: bool = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    async def drained(self) -> None:
        if self.full:
            await self.room.wait()

    @property
    def connection(self) -> UpstreamConnection:
        """As `Upload.send` wants it."""
        return cast("UpstreamConnection", self)

    @property
    def body(self) -> bytes:
        """All of it, as it stands on the wire."""
        return b"".join(self.written)


def upload(
    client: Client, *, length: int | None = None, max_bytes: int = 10_000, memory_bytes: int = 50
) -> Upload:
    return Upload(client, length=length, max_bytes=max_bytes, memory_bytes=memory_bytes)


def without_chunks(data: bytes) -> bytes:
    """A chunked body without its framing; it ends where the data does."""
    body = b""
    while True:
        size, _, rest = data.partition(b"\r\n")
        count = int(size, 16)
        if not count:
            assert rest == b"\r\n"
            return body
        body += rest[:count]
        assert rest[count : count + 2] == b"\r\n"
        data = rest[count + 2 :]


async def receive(body: Upload, count: int) -> None:
    for _ in range(count):
        await body.receive()


@given(parts=PARTS, kept=st.integers(0, 8), memory_bytes=st.integers(1, 100))
def test_bytes_are_the_same_however_they_are_cut_and_kept(
    parts: list[bytes], kept: int, memory_bytes: int
) -> None:
    """With the client's length, they go up bare."""
    whole = b"".join(parts)

    async def scenario() -> None:
        body = upload(Client(parts), length=len(whole), memory_bytes=memory_bytes)
        worker = Worker()
        await receive(body, kept)
        await body.send(worker.connection)
        body.close()
        assert worker.body == whole
        assert body.received == len(whole)

    asyncio.run(scenario())


@given(parts=PARTS, kept=st.integers(0, 8), memory_bytes=st.integers(1, 100))
def test_bytes_without_a_length_go_up_in_chunks(
    parts: list[bytes], kept: int, memory_bytes: int
) -> None:
    """An empty part is no chunk: it would end the body."""
    whole = b"".join(parts)

    async def scenario() -> None:
        body = upload(Client(parts), memory_bytes=memory_bytes)
        worker = Worker()
        await receive(body, kept)
        await body.send(worker.connection)
        body.close()
        assert without_chunks(worker.body) == whole

    asyncio.run(scenario())


@given(parts=PARTS, memory_bytes=st.integers(1, 100))
def test_body_that_was_kept_whole_can_be_sent_again(parts: list[bytes], memory_bytes: int) -> None:
    """The second worker gets the very same bytes, and the clock does not start again."""

    async def scenario() -> None:
        body = upload(Client(parts), length=1, memory_bytes=memory_bytes)
        while await body.receive() is not None:
            pass
        first, second = Worker(), Worker()
        read_at_s = body.read_at_s
        await body.send(first.connection)
        assert body.repeatable
        await body.send(second.connection)
        body.close()
        assert first.body == second.body == b"".join(parts)
        assert body.read_at_s == read_at_s

    asyncio.run(scenario())


async def test_body_that_was_passed_on_cannot_be_sent_again() -> None:
    """Bytes that were not kept are gone."""
    body = upload(Client([b"one", b"two"]), length=6)
    await body.receive()
    assert body.repeatable
    await body.send(Worker().connection)
    assert not body.repeatable
    body.close()


async def test_body_of_which_only_the_end_was_missing_can_be_sent_again() -> None:
    """A chunked body's last chunk often comes by itself."""
    body = upload(Client([b"one", b"two", b""]))
    await receive(body, 2)
    first, second = Worker(), Worker()
    await body.send(first.connection)
    assert body.repeatable
    await body.send(second.connection)
    assert without_chunks(first.body) == without_chunks(second.body) == b"onetwo"
    body.close()


async def test_attempt_that_was_stopped_before_anything_was_passed_on_can_be_made_again() -> None:
    """A worker that died over what was kept has cost nothing."""
    body = upload(Client([b"one", b"two"]), length=6)
    await body.receive()
    stuck, other = Worker(full=True), Worker()
    sending = asyncio.create_task(body.send(stuck.connection))
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert stuck.body == b"one"
    assert body.repeatable
    await body.send(other.connection)
    assert other.body == b"onetwo"
    body.close()


async def test_nothing_is_asked_of_the_client_while_the_worker_is_full() -> None:
    """The worker's pace is the client's."""
    client = Client([b"one", b"two", b"three"])
    body, worker = upload(client, length=11), Worker(full=True)
    sending = asyncio.create_task(body.send(worker.connection))
    for _ in range(10):
        await asyncio.sleep(0)
    assert (client.given, worker.body) == (1, b"one")
    worker.full = False
    worker.room.set()
    await sending
    assert worker.body == b"onetwothree"
    body.close()


async def test_receive_gives_nothing_after_the_last_part() -> None:
    """None, as often as it is asked."""
    body = upload(Client([b"one", b"two"]))
    assert [await body.receive() for _ in range(4)] == [b"one", b"two", None, None]
    body.close()


async def test_clock_stands_at_the_last_byte_that_was_read() -> None:
    """Not before it, and not where it was passed on."""
    body, worker = upload(Client([b"one", b"two"]), length=6), Worker(full=True)
    await body.receive()
    assert body.read_at_s == 0.0
    before_s = monotonic()
    await body.receive()
    read_s = monotonic()
    sending = asyncio.create_task(body.send(worker.connection))
    await asyncio.sleep(0)
    worker.room.set()
    await sending
    assert before_s <= body.read_at_s <= read_s
    body.close()


async def test_memory_is_counted_until_all_goes_to_disk() -> None:
    """Up to the bound everything is in memory; beyond it, nothing."""
    body = upload(Client([b"x" * 30, b"x" * 20, b"x", b"x" * 100]), memory_bytes=50)
    found = []
    while await body.receive() is not None:
        found.append(body.in_memory)
    assert found == [30, 50, 0, 0]
    body.close()


@pytest.mark.parametrize("kept", [0, 1, 2], ids=["passed on", "half", "kept"])
async def test_body_above_the_bound_is_refused(kept: int) -> None:
    """With the first byte too many, none of which goes up."""
    body, worker = upload(Client([b"1234", b"56", b"7"]), max_bytes=6), Worker()
    await receive(body, kept)
    with pytest.raises(GatewayError) as refused:
        await body.send(worker.connection)
    assert refused.value.kind is Kind.BODY_TOO_LARGE
    assert b"7" not in worker.body
    body.close()


async def test_body_of_just_the_bound_is_taken() -> None:
    """The bound itself is not too much."""
    body, worker = upload(Client([b"1234", b"56"]), length=6, max_bytes=6), Worker()
    await body.send(worker.connection)
    assert worker.body == b"123456"
    body.close()


@pytest.mark.parametrize("fault", [ClientLeft(), GatewayError(Kind.REQUEST_TIMEOUT, "too slow")])
async def test_fault_of_the_client_never_ends_the_body_cleanly(fault: Exception) -> None:
    """A worker must not take half a form for a whole one."""
    body, worker = upload(Client([b"one", fault])), Worker()
    with pytest.raises(type(fault)):
        await body.send(worker.connection)
    assert worker.body == b"3\r\none\r\n"
    assert body.read_at_s == 0.0
    body.close()

"""The client leaves, in any phase: its worker is freed at once, and is not to blame."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests.support.gateway import SinkName, run_gateway, until
from tests.support.raw import RawClient, chat_body, dial, post
from tests.support.scripted import (
    ROLE,
    WHOLE,
    Exchange,
    chat_event,
    deaf,
    good,
    scripted,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Way = Literal["close", "half_close", "reset"]

ONCE_ASKED: dict[str, Any] = {"discovery_interval": "1h"}


@pytest.fixture(params=["close", "half_close", "reset"])
def way(request: pytest.FixtureRequest) -> Way:
    """How the client leaves: the test runs with each. Half-close counts as leaving."""
    name: Way = request.param
    return name


async def leave(client: RawClient, way: Way) -> None:
    """Leave, and after a half-close see the connection closed."""
    getattr(client, way)()
    if way == "half_close":
        await client.closed()


class Watched:
    """A script that sends what it is told to, then waits for the gateway to close."""

    def __init__(self, send: Callable[[Exchange], AsyncIterator[None]] | None = None) -> None:
        self._send = send
        self.reached = asyncio.Event()
        self.freed = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if self._send is not None:
            async for _ in self._send(exchange):
                pass
        self.reached.set()
        await exchange.gone()
        self.freed.set()


async def test_client_that_leaves_the_queue_gives_its_place_up(
    way: Way, sink: SinkName, stream: bool
) -> None:
    """Who waits for admission and leaves never reaches a worker; the next in line moves up."""
    free = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await free.wait()
        await good(exchange)

    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink, limits__max_running=1) as gateway,
        dial(gateway.port) as first,
        dial(gateway.port) as leaver,
        dial(gateway.port) as third,
    ):
        admission = gateway.gateway.admission
        await first.send(post(chat_body(stream=stream)))
        await until(lambda: len(worker.seen) == 1)
        await leaver.send(post(chat_body(stream=stream)))
        await until(lambda: admission.queued == 1)
        await third.send(post(chat_body(stream=stream)))
        await until(lambda: admission.queued == 2)
        await leave(leaver, way)
        await until(lambda: admission.queued == 1)
        assert admission.running == 1
        free.set()
        assert (await first.answer()).whole
        assert (await third.answer()).whole
        assert len(worker.seen) == 2
        await gateway.told("client_closed", "ok", "ok")


async def test_client_that_leaves_while_connecting_ends_the_attempt(
    way: Way, sink: SinkName
) -> None:
    """The connection that is being opened is given up."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink, timeouts__connect="1h", **ONCE_ASKED) as gateway,
        dial(gateway.port) as client,
    ):
        worker.kill()
        with deaf(worker.port):
            await client.send(post(chat_body()))
            await until(lambda: gateway.gateway.registry.workers[0].leases == 1)
            await leave(client, way)
            await gateway.told("client_closed")


async def test_client_that_leaves_in_prefill_frees_the_worker(
    way: Way, sink: SinkName, stream: bool
) -> None:
    """The worker sees its connection closed, so that the engine aborts."""
    script = Watched()
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(post(chat_body(stream=stream)))
        await script.reached.wait()
        await leave(client, way)
        await script.freed.wait()
        await gateway.told("client_closed")


async def test_client_that_leaves_between_head_and_first_event_frees_the_worker(
    way: Way, sink: SinkName
) -> None:
    """The same once the worker's head is there."""

    async def send(exchange: Exchange) -> AsyncIterator[None]:
        await exchange.head()
        yield

    script = Watched(send)
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(post(chat_body()))
        await script.reached.wait()
        await leave(client, way)
        await script.freed.wait()
        await gateway.told("client_closed")


@pytest.mark.parametrize("asked", [False, True], ids=["usage hidden", "usage asked"])
async def test_client_that_leaves_in_decode_frees_the_worker(
    asked: bool, way: Way, sink: SinkName
) -> None:
    """What it has received is counted as estimated: nothing is dropped because it left."""
    events = (ROLE, chat_event("one"), chat_event(" two"), chat_event(" three"))

    async def send(exchange: Exchange) -> AsyncIterator[None]:
        await exchange.head()
        await exchange.chunks(*events)
        yield

    script = Watched(send)
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(post(chat_body(**more)))
        answer = await client.head()
        assert await client.events(answer, len(b"".join(events))) == b"".join(events)
        await leave(client, way)
        await script.freed.wait()
        await gateway.told("client_closed")
        assert await gateway.tokens() == {"completion estimated": 3}


async def test_client_that_leaves_a_busy_stream_frees_the_worker(way: Way, sink: SinkName) -> None:
    """The same while events keep coming."""
    event = chat_event(" word")
    freed = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        try:
            while True:
                await exchange.chunks(event)
        finally:
            freed.set()

    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(post(chat_body()))
        await client.events(await client.head(), 20 * len(event))
        await leave(client, way)
        await freed.wait()
        await gateway.told("client_closed")


async def test_client_that_leaves_in_a_whole_answer_frees_the_worker(
    way: Way, sink: SinkName
) -> None:
    """Half of a JSON answer has gone down."""

    async def send(exchange: Exchange) -> AsyncIterator[None]:
        await exchange.head(200, "application/json")
        await exchange.chunks(WHOLE[:50])
        yield

    script = Watched(send)
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(post(chat_body(stream=False)))
        await client.events(await client.head(), 50)
        await leave(client, way)
        await script.freed.wait()
        await gateway.told("client_closed")


async def test_client_that_leaves_while_it_sends_its_body_reaches_no_worker(
    way: Way, sink: SinkName
) -> None:
    """An unfinished request is no request."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(post(chat_body(user="x" * 5000))[:-2000])
        await until(lambda: gateway.gateway.admission.inflight_bytes > 0)
        await leave(client, way)
        await gateway.told("client_closed")
        assert worker.seen == []


async def test_client_that_leaves_with_a_request_in_its_pipeline_frees_the_worker(
    way: Way,
) -> None:
    """A second request that waits behind the first does not hide that the client has gone."""
    script = Watched()
    async with (
        scripted(script) as worker,
        run_gateway(worker.url) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(post(chat_body()) + post(chat_body()))
        await script.reached.wait()
        getattr(client, way)()
        async with asyncio.timeout(2):
            await script.freed.wait()
        assert len(worker.seen) == 1
        await gateway.quiet()


async def test_client_that_leaves_after_the_answer_is_not_noted(sink: SinkName) -> None:
    """The answer was whole: leaving then is how connections end."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        async with dial(gateway.port) as client:
            await client.send(post(chat_body()))
            assert (await client.answer()).whole
            client.reset()
        await gateway.told("ok")
        assert gateway.idle_connections == 1
        assert worker.left == 0


async def test_clients_that_leave_do_not_harm_the_others(sink: SinkName) -> None:
    """Of twenty streams on one worker, every second client leaves; the others have theirs whole."""
    free = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(ROLE, chat_event("one"))
        await free.wait()
        await exchange.chunks(chat_event(" two"), b"data: [DONE]\n\n")
        await exchange.last_chunk()

    async def one(port: int, *, leaves: bool) -> bool:
        async with dial(port) as client:
            await client.send(post(chat_body()))
            answer = await client.head()
            await client.events(answer, len(ROLE))
            if leaves:
                return False
            return (await client.rest(answer)).whole

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        clients = [asyncio.create_task(one(gateway.port, leaves=n % 2 == 0)) for n in range(20)]
        await until(lambda: gateway.gateway.pipeline.running == 10 and len(worker.seen) == 20)
        free.set()
        assert sum(await asyncio.gather(*clients)) == 10
        await gateway.told(*["ok"] * 10, *["client_closed"] * 10)

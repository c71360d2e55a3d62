"""Clients that read or write too slowly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.gateway import RunningGateway, SinkName, run_gateway, until
from tests.support.raw import ask, chat_body, dial, post
from tests.support.scripted import DONE, ROLE, Exchange, chat_event, good, scripted

EVENT = chat_event("x" * 16_000)
COUNT = 1_600
"""26 MB in all: more than the sockets of both sides hold."""


class Flood:
    """A worker that sends much, and knows how much it could send."""

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.sent = 0
        self.cut = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream" if self.stream else "application/json")
        try:
            for _ in range(COUNT):
                await exchange.chunks(EVENT)
                self.sent += 1
            await exchange.chunks(DONE)
            await exchange.last_chunk()
        except ConnectionError:
            self.cut.set()

    async def blocked(self) -> None:
        """Wait until the worker's writes do not get any further."""
        before = -1
        while self.sent != before or self.sent == 0:
            before = self.sent
            await asyncio.sleep(0.3)


async def test_slow_client_holds_its_worker_back(sink: SinkName, stream: bool) -> None:
    """While the client does not read, the worker cannot write, and the gateway's memory is flat;
    when it reads again, everything arrives."""
    flood = Flood(stream=stream)
    async with (
        scripted(flood) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port, receive_buffer=32 * 1024) as client,
    ):
        await client.send(post(chat_body(stream=stream)))
        await flood.blocked()
        assert flood.sent < COUNT * 0.75
        assert 0 < gateway.waiting_bytes < 512 * 1024
        client.widen()
        answer = await client.answer()
        assert len(answer.body) == COUNT * len(EVENT) + len(DONE)
        assert answer.body == COUNT * EVENT + DONE
        assert answer.whole
        await gateway.told("ok")


async def test_slow_client_does_not_slow_the_others(sink: SinkName) -> None:
    """Another client of the same worker has its answer meanwhile."""
    flood = Flood(stream=True)

    async def script(exchange: Exchange) -> None:
        await (flood if len(worker.seen) == 1 else good)(exchange)

    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port, receive_buffer=32 * 1024) as client,
    ):
        await client.send(post(chat_body()))
        await flood.blocked()
        assert (await ask(gateway.port, post(chat_body()))).whole
        client.reset()
        await gateway.told("ok", "client_closed")


async def test_silence_of_a_worker_that_is_held_back_is_not_its_fault(sink: SinkName) -> None:
    """The idle timeout does not run while the gateway itself does not read."""
    flood = Flood(stream=True)
    async with (
        scripted(flood) as worker,
        run_gateway(worker.url, sink=sink, timeouts__idle="100ms") as gateway,
        dial(gateway.port, receive_buffer=32 * 1024) as client,
    ):
        await client.send(post(chat_body()))
        await flood.blocked()
        client.widen()
        answer = await client.answer()
        assert answer.body == COUNT * EVENT + DONE
        assert answer.whole
        await gateway.told("ok")


async def test_client_that_reads_nothing_is_given_up(sink: SinkName, stream: bool) -> None:
    """After `timeouts.write_stall` its worker is freed."""
    flood = Flood(stream=stream)
    async with (
        scripted(flood) as worker,
        run_gateway(worker.url, sink=sink, timeouts__write_stall="300ms") as gateway,
        dial(gateway.port, receive_buffer=32 * 1024) as client,
    ):
        await client.send(post(chat_body(stream=stream)))
        await flood.cut.wait()
        await gateway.told("client_closed")
        if sink == "transport":  # ASGI has no way to reset a connection
            await until(lambda: gateway.waiting_bytes == 0)
        found = await client.closed() if sink == "transport" else b""
        assert len(found) < COUNT * len(EVENT)
        assert DONE not in found


class Brim:
    """A worker that finishes just when its client's sockets are full."""

    def __init__(self) -> None:
        self.gateway: RunningGateway | None = None

    async def __call__(self, exchange: Exchange) -> None:
        assert self.gateway is not None
        await exchange.head()
        await exchange.chunks(ROLE)
        while self.gateway.waiting_bytes == 0:
            await exchange.chunks(EVENT)
            await asyncio.sleep(0.001)
        await exchange.chunks(DONE)
        await exchange.last_chunk()


async def test_client_that_reads_nothing_is_reset_after_the_worker_has_finished() -> None:
    """The end of an answer that nobody takes does not stay in memory for ever."""
    brim = Brim()
    async with (
        scripted(brim) as worker,
        run_gateway(worker.url, timeouts__write_stall="300ms") as gateway,
    ):
        brim.gateway = gateway
        async with dial(gateway.port, receive_buffer=32 * 1024) as client:
            await client.send(post(chat_body()))
            await until(lambda: gateway.idle_connections == 1)
            assert gateway.waiting_bytes > 0
            await until(lambda: gateway.waiting_bytes == 0)
            assert not (await client.closed()).endswith(b"0\r\n\r\n")
            await gateway.quiet()


async def test_client_that_reads_nothing_after_the_worker_has_finished_is_client_closed() -> None:
    """It never had its answer: that is not `ok`. (An ASGI server does not tell what it holds.)"""
    brim = Brim()
    async with (
        scripted(brim) as worker,
        run_gateway(worker.url, timeouts__write_stall="300ms") as gateway,
    ):
        brim.gateway = gateway
        async with dial(gateway.port, receive_buffer=32 * 1024) as client:
            await client.send(post(chat_body()))
            await until(lambda: gateway.idle_connections == 1)
            await gateway.told("client_closed")


# --- slow to send ---

SHORT: dict[str, Any] = {"timeouts__client_head": "200ms", "timeouts__client_body": "200ms"}


@pytest.mark.parametrize(
    "start",
    [b"P", b"POST /v1/chat", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Le"],
)
async def test_head_that_does_not_come_is_408(start: bytes) -> None:
    """The client is told, and the connection closed."""
    async with scripted(good) as worker, run_gateway(worker.url, **SHORT) as gateway:
        async with dial(gateway.port) as client:
            await client.send(start)
            answer = await client.answer()
            assert answer.status == 408
            assert answer.error["code"] == "request_timeout"
            assert answer.header("connection") == "close"
            assert await client.closed() == b""
        await gateway.told("invalid")


async def test_second_head_that_does_not_come_is_408() -> None:
    """The same after an answer on the same connection."""
    async with scripted(good) as worker, run_gateway(worker.url, **SHORT) as gateway:
        async with dial(gateway.port) as client:
            await client.send(post(chat_body()))
            assert (await client.answer()).whole
            await client.send(b"POST /v1")
            assert (await client.answer()).status == 408
            assert await client.closed() == b""
        await gateway.told("ok", "invalid")


@pytest.mark.parametrize("start", [b"", b"\r\n", b"\r\n\r\n"])
async def test_connection_that_says_nothing_is_closed(start: bytes) -> None:
    """No request was begun, so nothing is said; but a silent connection is not kept for ever."""
    async with scripted(good) as worker, run_gateway(worker.url, **SHORT) as gateway:
        async with dial(gateway.port) as client:
            await client.send(start)
            await client.closed()
        await gateway.quiet()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_body_that_does_not_come_is_408(chunked: bool, sink: SinkName) -> None:
    """The client is told, the connection closed, and no worker asked."""
    request = post(chat_body())[:-10]
    if chunked:
        request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"mod\r\n'
        )
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink, **SHORT) as gateway:
        async with dial(gateway.port) as client:
            await client.send(request)
            answer = await client.answer()
            assert answer.status == 408
            assert answer.error["code"] == "request_timeout"
            assert answer.header("connection") == "close"
            assert answer.header("x-request-id")
            assert await client.closed() == b""
        assert worker.seen == []
        await gateway.told("invalid")


async def test_idle_connection_is_closed_without_a_word() -> None:
    """Between two requests a connection may wait, for `timeouts.client_keep_alive`."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, timeouts__client_keep_alive="1s") as gateway,
    ):
        async with dial(gateway.port) as client:
            await client.send(post(chat_body()))
            assert (await client.answer()).whole
            assert await client.closed() == b""
        await gateway.told("ok")

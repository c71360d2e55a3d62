"""What an attacker has tried: each is held by a test."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.gateway import client, run_gateway, until
from tests.support.raw import chat_body, dial, post
from tests.support.scripted import (
    ROLE,
    Exchange,
    answer_of,
    chat_event,
    good,
    good_body,
    scripted,
)

BODY = chat_body()


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere"])
async def test_a_bad_chunk_to_a_page_ends_its_connection(path: str) -> None:
    """Nobody reads a page's body; the connection must not stay for ever."""
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as attacker:
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"
            await attacker.send(head.encode())
            await attacker.closed()
        await until(lambda: gateway.gateway_tasks == 0)


@pytest.mark.parametrize("name", ["Upgrade", "UPgrade", "upgrade"])
@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_a_body_behind_an_upgrade_is_never_a_request(name: str, protocol: str) -> None:
    """Whatever becomes of the request, its body does not reach a worker as another."""
    inner = post(BODY, "X-Inner: smuggled", path="/v1/completions")
    head = post(inner, "Connection: Upgrade", f"{name}: {protocol}")[: -len(inner)]
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as attacker:
            await attacker.send(head)
            await attacker.send(inner)
            assert (await attacker.answer()).status == 400
        assert [seen.header("x-inner") for seen in worker.seen] == []


async def test_a_slow_next_head_does_not_break_the_answer_before_it() -> None:
    """The 408 of a second request must not stand in the first one's stream."""
    async with (
        scripted(Gate()) as worker,
        run_gateway(worker.url, timeouts__client_head="100ms") as gateway,
    ):
        async with dial(gateway.port) as slow:
            await slow.send(post(BODY) + b"GET /health HT")
            answer = await slow.answer()
            assert answer.body == good_body(stream=True)
            assert await slow.closed() == b""
        await gateway.told("ok")


class Gate:
    """A worker that ends its stream only when the gateway has waited long enough for a head."""

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(ROLE)
        await asyncio.sleep(0.3)  # longer than `client_head`: what follows must still be whole
        for event in good_events():
            await exchange.chunks(event)
        await exchange.last_chunk()


def good_events() -> list[bytes]:
    """What `good` sends after its first event."""
    return list(answer_of("one", " two", "!"))[1:]


async def test_an_answer_without_a_body_does_not_colour_the_next() -> None:
    """A 204 has no length; the end of the connection it was kept on is no end of an answer."""

    async def script(exchange: Exchange) -> None:
        if len(worker.seen) == 1:
            await exchange.send(b"HTTP/1.1 204 N\r\n\r\n")
        elif len(worker.seen) == 2:
            exchange.close()
        else:
            await good(exchange)

    async with (
        scripted(script) as worker,
        run_gateway(worker.url) as gateway,
        client(gateway) as http,
    ):
        first = await http.post("/v1/chat/completions", content=BODY)
        assert first.status_code == 204
        second = await http.post("/v1/chat/completions", content=BODY)
        assert second.content == good_body(stream=True)


@pytest.mark.parametrize("digits", ["1" + "0" * 309, "9" * 400, "-5"])
async def test_a_count_that_cannot_be_one_is_not_believed(digits: str) -> None:
    """Neither the metrics nor the log break, and no counter goes down."""
    usage = f'{{"choices":[],"usage":{{"prompt_tokens":{digits},"completion_tokens":{digits}}}}}'

    async def script(exchange: Exchange) -> None:
        await exchange.stream(
            ROLE,
            chat_event("a"),
            chat_event("b"),
            f"data: {usage}\n\n".encode(),
            b"data: [DONE]\n\n",
        )

    async with scripted(script) as worker, run_gateway(worker.url) as gateway:
        async with client(gateway) as http:
            assert (await http.post("/v1/chat/completions", content=BODY)).status_code == 200
        await gateway.told("ok")
        assert all(count >= 0 for count in (await gateway.tokens()).values())


@pytest.mark.parametrize("status", ["600", "999"])
async def test_a_status_that_is_none_is_a_failure(status: str) -> None:
    """502, not a closed connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nhi".encode())

    async with (
        scripted(script) as worker,
        run_gateway(worker.url) as gateway,
        client(gateway) as http,
    ):
        answer = await http.post("/v1/chat/completions", content=BODY)
        assert answer.status_code == 502


async def test_trailers_without_end_are_cut_off() -> None:
    """They are neither head nor body, and no bound of those two holds for them."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url) as gateway,
        dial(gateway.port) as attacker,
    ):
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx-t: "
        )
        await attacker.send(head + b"a" * 32 * 1024)
        await attacker.send(b"a" * 1024 * 1024)
        assert (await attacker.answer()).status == 400
        await gateway.told("invalid")
        assert worker.seen == []

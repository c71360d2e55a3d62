"""HTTP itself, as clients speak it rightly and wrongly, on our own connection class."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.gateway import run_gateway, until
from tests.support.raw import (
    CLIENT_KEY,
    ask,
    chat_body,
    dial,
    post,
    post_chunked,
)
from tests.support.scripted import DONE, ROLE, Exchange, chat_event, good, good_body, scripted

BODY = chat_body()
LINE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
HIDDEN = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"

WRONG_HTTP = {
    "length, then chunked": LINE + LENGTH + CHUNKED + b"\r\n" + CHUNKS,
    "chunked, then length": LINE + CHUNKED + LENGTH + b"\r\n" + CHUNKS,
    "length and chunked hide a request": (
        LINE + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN
    ),
    "two lengths": LINE + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY,
    "a list of lengths": LINE + b"Content-Length: %d, 5\r\n\r\n" % len(BODY) + BODY,
    "a signed length": LINE + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
    "a negative length": LINE + b"Content-Length: -5\r\n\r\n" + BODY,
    "a length in hex": LINE + b"Content-Length: 0x10\r\n\r\n" + BODY,
    "an endless length": LINE + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n" + BODY,
    "no length": LINE + b"Content-Length:\r\n\r\n" + BODY,
    "space before the colon": LINE + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS,
    "chunked is not last": LINE + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + CHUNKS,
    "an unknown coding": LINE + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS,
    "obs-fold": LINE + b"X-A: b\r\n c\r\n" + LENGTH + b"\r\n" + BODY,
    "obs-fold in a coding": LINE + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS,
    "space in a name": LINE + b"X A: b\r\n" + LENGTH + b"\r\n" + BODY,
    "parenthesis in a name": LINE + b"X(A): b\r\n" + LENGTH + b"\r\n" + BODY,
    "NUL in a name": LINE + b"X\x00A: b\r\n" + LENGTH + b"\r\n" + BODY,
    "no name": LINE + b": b\r\n" + LENGTH + b"\r\n" + BODY,
    "no colon": LINE + b"what\r\n" + LENGTH + b"\r\n" + BODY,
    "NUL in a value": LINE + b"X-A: b\x00c\r\n" + LENGTH + b"\r\n" + BODY,
    "CR in a value": LINE + b"X-A: b\rX-B: c\r\n" + LENGTH + b"\r\n" + BODY,
    "no method": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 3,
    "bad method": b"G@T / HTTP/1.1\r\n\r\n",
    "HTTP/9.9": b"POST /v1/chat/completions HTTP/9.9\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "text": b"hello, who is there?\r\n\r\n",
}


@pytest.mark.parametrize("name", WRONG_HTTP)
async def test_head_that_is_not_http_is_400(name: str) -> None:
    """One answer, in OpenAI's shape; the connection is closed; nothing reaches a worker."""
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            await client.send(WRONG_HTTP[name])
            answer = await client.answer()
            assert answer.status == 400
            assert answer.error["code"] == "bad_http"
            assert answer.error["type"] == "invalid_request_error"
            assert answer.header("connection") == "close"
            assert await client.closed() == b""
        assert worker.seen == []
        await gateway.told("invalid")


WRONG_CHUNKS = {
    "no size": b"zz\r\n" + BODY,
    "a signed size": b"+5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-1\r\nhello\r\n0\r\n\r\n",
    "a size in 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size too large": b"f" * 20 + b"\r\n" + BODY,
    "more than its size": b"5\r\nhello, more\r\n0\r\n\r\n",
    "an empty size": b"\r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "bad second chunk": b"5\r\nhello\r\nzz\r\n",
    "bad trailer": b"5\r\nhello\r\n0\r\nwhat is this\r\n\r\n",
}


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
@pytest.mark.parametrize("name", WRONG_CHUNKS)
async def test_bad_chunk_is_400(name: str, together: bool) -> None:
    """The same for a body, whether it comes with its head or after it."""
    head = LINE + CHUNKED + b"\r\n"
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            if together:
                await client.send(head + WRONG_CHUNKS[name])
            else:
                await client.send(head)
                await until(lambda: bool(gateway.gateway_tasks))
                await client.send(WRONG_CHUNKS[name])
            answer = await client.answer()
            assert answer.status == 400
            assert answer.error["code"] == "bad_http"
            assert answer.header("connection") == "close"
            assert await client.closed() == b""
        assert worker.seen == []
        await gateway.told("invalid")


async def test_garbage_after_a_whole_request_is_answered_after_it() -> None:
    """The request has its answer, the connection's last."""
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            await client.send(post(BODY) + b"\x00\x01 garbage\r\n\r\n")
            answer = await client.answer()
            assert answer.body == good_body(stream=True)
            assert answer.whole
            assert answer.header("connection") == "close"
            assert await client.closed() == b""
        assert len(worker.seen) == 1
        await gateway.quiet()


# --- several requests on one connection ---


async def test_requests_one_after_another_share_a_connection(stream: bool) -> None:
    """Keep-alive, whatever the answers were."""
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            for _ in range(3):
                await client.send(post(chat_body(stream=stream)))
                answer = await client.answer()
                assert (answer.body, answer.whole) == (good_body(stream=stream), True)
                assert answer.header("connection") != "close"
            await client.send(post(b"no json"))
            assert (await client.answer()).status == 400
            await client.send(b"\r\n" + post(chat_body(stream=stream)))
            assert (await client.answer()).body == good_body(stream=stream)
        await gateway.told("ok", "ok", "ok", "invalid", "ok")


@pytest.mark.parametrize("cut", [1, 50, 100_000])
async def test_pipelined_requests_are_answered_in_order(cut: int) -> None:
    """Three in one write, the first the slowest; however they are cut."""

    async def script(exchange: Exchange) -> None:
        number = exchange.request.header("x-number") or ""
        await asyncio.sleep(0.1 if number == "1" else 0)
        await exchange.stream(ROLE, chat_event(number), DONE)

    requests = b"".join(post(BODY, f"X-Number: {number}") for number in (1, 2, 3))
    async with scripted(script) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            await client.send(*[requests[at : at + cut] for at in range(0, len(requests), cut)])
            for number in (1, 2, 3):
                answer = await client.answer()
                assert answer.body == ROLE + chat_event(str(number)) + DONE
                assert answer.whole
        await gateway.told("ok", "ok", "ok")


async def test_pipelined_request_after_a_refused_one_is_answered() -> None:
    """An error that leaves the connection in order does not cost the next request."""
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            await client.send(post(b"{}") + post(BODY) + post(b"[]"))
            assert (await client.answer()).status == 400
            assert (await client.answer()).body == good_body(stream=True)
            assert (await client.answer()).status == 400
        await gateway.told("invalid", "ok", "invalid")


async def test_pipelined_request_after_connection_close_is_not_served() -> None:
    """The client said that the first was its last."""
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            await client.send(post(BODY, "Connection: close") + post(BODY))
            answer = await client.answer()
            assert answer.body == good_body(stream=True)
            assert answer.header("connection") == "close"
            assert await client.closed() == b""
        assert len(worker.seen) == 1


async def test_upgrade_that_is_not_served_is_ignored() -> None:
    """Java's client asks for HTTP/2 with its first request (RFC 9110, 7.8: may be ignored)."""
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA")
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            for _ in range(2):
                await client.send(post(BODY, *upgrade))
                assert (await client.answer()).body == good_body(stream=True)
        assert not {"upgrade", "http2-settings", "connection"} & {
            name for name, _ in worker.seen[0].headers
        }
        await gateway.told("ok", "ok")


# --- Expect, HTTP/1.0, trailers ---


async def test_expect_100_continue_is_told_to_go_on() -> None:
    """curl waits for it with bodies over a megabyte."""
    head, _, body = post(BODY, "Expect: 100-continue").partition(b"\r\n\r\n")
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            await client.send(head + b"\r\n\r\n")
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert worker.seen == []
            await client.send(body)
            assert (await client.answer()).body == good_body(stream=True)
        assert worker.seen[0].header("expect") is None
        await gateway.told("ok")


async def test_expect_100_continue_is_refused_where_the_body_will_be() -> None:
    """A client with a wrong key need not send its body at all."""
    head, _, _ = post(BODY, "Expect: 100-continue").partition(b"\r\n\r\n")
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, api_keys=CLIENT_KEY) as gateway,
    ):
        answer = await ask(gateway.port, head + b"\r\n\r\n")
        assert answer.status == 401
        assert answer.informational == []
        await gateway.told("unauthorized")


@pytest.mark.parametrize("keep", [(), ("Connection: keep-alive",)], ids=["plain", "keep-alive"])
async def test_http_10_client_reads_an_unchunked_body_up_to_the_close(
    keep: tuple[str, ...], stream: bool
) -> None:
    """HTTP/1.0 knows no chunks."""
    request = post(chat_body(stream=stream), *keep, version="1.0")
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            await client.send(request)
            answer = await client.head()
            assert answer.header("transfer-encoding") is None
            assert answer.header("connection") == "close"
            assert await client.closed() == good_body(stream=stream)
        await gateway.told("ok")


async def test_http_10_client_finds_a_cut_stream_without_done() -> None:
    """It has no last chunk to miss, but the error event and no `[DONE]`."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(ROLE, chat_event("one"))
        exchange.reset()

    async with scripted(script) as worker, run_gateway(worker.url) as gateway:
        answer = await ask(gateway.port, post(BODY, version="1.0"))
        assert answer.body.startswith(ROLE + chat_event("one") + b"data: ")
        assert answer.error["code"] == "worker_failed"
        assert b"[DONE]" not in answer.body
        await gateway.told("worker_failed")


async def test_trailers_of_a_request_do_not_become_headers() -> None:
    """They come after the head has been judged: neither a key nor a header for the worker."""
    trailers = "X-Late: 1\r\nX-Request-Id: late\r\nContent-Encoding: gzip\r\n"
    request = post_chunked([BODY[:10], BODY[10:]], "Trailer: X-Late", trailers=trailers)
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        async with dial(gateway.port) as client:
            for _ in range(2):
                await client.send(request)
                assert (await client.answer()).body == good_body(stream=True)
        names = {name for name, _ in worker.seen[0].headers}
        assert not {"x-late", "trailer", "content-encoding"} & names
        assert worker.seen[0].header("x-request-id") != "late"
        await gateway.told("ok", "ok")


async def test_key_in_a_trailer_is_no_key() -> None:
    """It comes too late."""
    request = post_chunked([BODY], trailers=f"Authorization: Bearer {CLIENT_KEY}\r\n")
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, api_keys=CLIENT_KEY) as gateway,
    ):
        assert (await ask(gateway.port, request)).status == 401
        assert worker.seen == []
        await gateway.told("unauthorized")


async def test_chunked_request_goes_up_with_a_length() -> None:
    """However it was cut, with extensions."""
    chunks = b"".join(b"1;ext=x\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    async with scripted(good) as worker, run_gateway(worker.url) as gateway:
        answer = await ask(gateway.port, LINE + CHUNKED + b"\r\n" + chunks)
        assert answer.body == good_body(stream=True)
        assert worker.seen[0].header("transfer-encoding") is None
        await gateway.told("ok")

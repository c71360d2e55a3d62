"""Which headers pass, which are the gateway's own to say, and who may ask."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.gateway import SinkName, run_gateway
from tests.support.raw import CLIENT_KEY, WORKER_KEY, ask, chat_body, dial, post
from tests.support.scripted import Exchange, answer_of, good, good_body, scripted

if TYPE_CHECKING:
    from tests.support.scripted import Seen

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def values(request: Seen, name: str) -> list[str]:
    """All values of a header that reached the worker."""
    return [value for key, value in request.headers if key == name]


# --- keys ---


async def test_clients_key_never_reaches_a_worker(sink: SinkName, stream: bool) -> None:
    """The worker is shown its own key, once, and no header that clients put keys into."""
    request = post(
        chat_body(stream=stream),
        f"Authorization: Bearer {CLIENT_KEY}",
        f"X-Api-Key: {CLIENT_KEY}",
        f"Api-Key: {CLIENT_KEY}",
        f"Proxy-Authorization: Basic {CLIENT_KEY}",
    )
    async with (
        scripted(good) as worker,
        run_gateway(
            worker.url, sink=sink, api_keys=CLIENT_KEY, worker_api_key=WORKER_KEY
        ) as gateway,
    ):
        answer = await ask(gateway.port, request)
        assert answer.body == good_body(stream=stream)
        assert values(worker.seen[0], "authorization") == [f"Bearer {WORKER_KEY}"]
        assert CLIENT_KEY not in str(worker.seen[0])
        assert WORKER_KEY not in str(answer)
        await gateway.told("ok")


async def test_clients_key_does_not_reach_a_worker_without_a_key(sink: SinkName) -> None:
    """No key of its own is no reason to show it the client's."""
    request = post(chat_body(), f"Authorization: Bearer {CLIENT_KEY}")
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        assert (await ask(gateway.port, request)).whole
        assert values(worker.seen[0], "authorization") == []
        await gateway.told("ok")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Authorization: Bearer wrong"],
        ["Authorization: Bearer"],
        ["Authorization: Bearer "],
        [f"Authorization: Basic {CLIENT_KEY}"],
        [f"Authorization: {CLIENT_KEY}"],
        [f"Authorization: Bearer {CLIENT_KEY}x"],
        [f"Authorization: Bearer {CLIENT_KEY[:-1]}"],
        ["Authorization: Bearer wrong", f"Authorization: Bearer {CLIENT_KEY}"],
        [f"X-Other: Bearer {CLIENT_KEY}"],
    ],
)
async def test_request_without_a_right_key_is_401(lines: list[str], sink: SinkName) -> None:
    """In OpenAI's shape, before anything is said of models or bodies."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink, api_keys=CLIENT_KEY) as gateway,
    ):
        for body in (chat_body(), b"no json", chat_body(model="other")):
            answer = await ask(gateway.port, post(body, *lines))
            assert answer.status == 401
            assert answer.error["code"] == "invalid_api_key"
            assert answer.error["type"] == "authentication_error"
            assert answer.header("www-authenticate") == "Bearer"
            assert answer.header("x-should-retry") == "false"
        assert worker.seen == []
        await gateway.told(*["unauthorized"] * 3)


@pytest.mark.parametrize("line", ["Authorization: Bearer {}", "authorization: bearer   {}  "])
@pytest.mark.parametrize("key", [CLIENT_KEY, "another-key"])
async def test_request_with_a_right_key_is_served(line: str, key: str, sink: SinkName) -> None:
    """Any of several keys; the scheme's case and white space do not matter (RFC 9110, 11.1)."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink, api_keys=f"{CLIENT_KEY},another-key") as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body(), line.format(key)))
        assert answer.body == good_body(stream=True)
        await gateway.told("ok")
        assert "another-key" not in gateway.log + str(gateway.request_lines)


# --- up ---


async def test_headers_of_this_connection_do_not_go_up(sink: SinkName) -> None:
    """RFC 9110, 7.6.1: hop-by-hop headers, and those that Connection names, in any case."""
    request = post(
        chat_body(),
        "Connection: keep-alive, X-Mine , x-OTHER",
        "Connection: X-Third",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Proxy-Connection: keep-alive",
        "X-Mine: 1",
        "X-Other: 2",
        "X-Third: 3",
        "X-Kept: 4",
    )
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        assert (await ask(gateway.port, request)).whole
        names = {name for name, _ in worker.seen[0].headers}
        assert not names & {
            "connection", "keep-alive", "te", "proxy-connection", "x-mine", "x-other", "x-third"
        }  # fmt: skip
        assert values(worker.seen[0], "x-kept") == ["4"]
        await gateway.told("ok")


async def test_headers_that_connection_must_not_name_are_said_all_the_same(sink: SinkName) -> None:
    """A client cannot take the gateway's own words away."""
    request = post(
        chat_body(),
        "Connection: Host, Content-Length, Accept-Encoding, X-Request-Id, Authorization",
    )
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink, worker_api_key=WORKER_KEY) as gateway,
    ):
        assert (await ask(gateway.port, request)).whole
        names = [name for name, _ in worker.seen[0].headers]
        for name in ("host", "content-length", "accept-encoding", "x-request-id", "authorization"):
            assert names.count(name) == 1
        await gateway.told("ok")


async def test_workers_are_asked_for_uncompressed_answers(sink: SinkName) -> None:
    """Compressed events could be neither counted nor passed on at once."""
    request = post(chat_body(), "Accept-Encoding: gzip, br", "Accept-Encoding: zstd")
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        assert (await ask(gateway.port, request)).whole
        assert values(worker.seen[0], "accept-encoding") == ["identity"]
        await gateway.told("ok")


async def test_other_headers_go_up_as_they_are(sink: SinkName) -> None:
    """Tracing, sessions, content type, and whatever else; the Host is the worker's."""
    request = post(
        chat_body(),
        f"Traceparent: {TRACE}",
        "Tracestate: a=b",
        "X-Session-ID: session 1",
        "X-Twice: a",
        "X-Twice: b",
        "X-Latin: caf\xe9",
        "User-Agent: test",
    )
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        assert (await ask(gateway.port, request)).whole
        seen = worker.seen[0]
        assert values(seen, "traceparent") == [TRACE]
        assert values(seen, "tracestate") == ["a=b"]
        assert values(seen, "x-session-id") == ["session 1"]
        assert values(seen, "x-twice") == ["a", "b"]
        assert values(seen, "x-latin") == ["caf\xc3\xa9"]
        assert values(seen, "user-agent") == ["test"]
        assert values(seen, "content-type") == ["application/json"]
        assert values(seen, "host") == [worker.url.removeprefix("http://")]
        assert seen.line == "POST /v1/chat/completions HTTP/1.1"
        await gateway.told("ok")


async def test_query_goes_up(sink: SinkName) -> None:
    """As it stood."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        path = "/v1/chat/completions?api-version=1&x=%20%2F"
        assert (await ask(gateway.port, post(chat_body(), path=path))).whole
        assert worker.seen[0].line == f"POST {path} HTTP/1.1"
        await gateway.told("ok")


@pytest.mark.parametrize("allowed", [False, True])
async def test_scheduling_is_the_gateways_to_say_unless_allowed(
    allowed: bool, sink: SinkName, stream: bool
) -> None:
    """Priority and rank, in headers and body."""
    request = post(
        chat_body(stream=stream, priority=-5, temperature=0.5),
        "X-data-parallel-rank: 3",
        "X-Vllm-Priority: 0",
    )
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink, allow_client_scheduling=allowed) as gateway,
    ):
        assert (await ask(gateway.port, request)).body == good_body(stream=stream)
        seen = worker.seen[0]
        assert values(seen, "x-data-parallel-rank") == (["3"] if allowed else [])
        assert values(seen, "x-vllm-priority") == (["0"] if allowed else [])
        assert (b"priority" in seen.body) == allowed
        assert b'"temperature":0.5' in seen.body.replace(b" ", b"")
        await gateway.told("ok")


# --- the request's id ---


async def test_sane_request_id_is_kept(sink: SinkName, stream: bool) -> None:
    """On the worker's request, in the answer, in the log."""
    request = post(chat_body(stream=stream), "X-Request-Id: my-request.1:2/3+4=5@6_7")
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, request)
        assert answer.header("x-request-id") == "my-request.1:2/3+4=5@6_7"
        assert values(worker.seen[0], "x-request-id") == ["my-request.1:2/3+4=5@6_7"]
        await gateway.told("ok")
        assert gateway.request_lines[0]["id"] == "my-request.1:2/3+4=5@6_7"


@pytest.mark.parametrize(
    "given", ["", "with space", "x" * 129, 'quote"', "semi;colon", "caf\xe9", "new\\nline", "<b>"]
)
async def test_insane_request_id_is_replaced(given: str, sink: SinkName) -> None:
    """One id, the same everywhere; the client's text stands nowhere."""
    request = post(chat_body(), f"X-Request-Id: {given}")
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, request)
        request_id = answer.header("x-request-id") or ""
        assert re.fullmatch("[0-9a-f]{32}", request_id)
        assert values(worker.seen[0], "x-request-id") == [request_id]
        await gateway.told("ok")
        assert gateway.request_lines[0]["id"] == request_id


async def test_error_answers_carry_the_request_id(sink: SinkName) -> None:
    """OpenAI's SDKs show it with the exception."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(b"{}", "X-Request-Id: mine"))
        assert (answer.status, answer.header("x-request-id")) == (400, "mine")
        await gateway.told("invalid")
        assert gateway.request_lines[0]["id"] == "mine"


async def test_request_ids_differ(sink: SinkName) -> None:
    """Two requests of one connection are two."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        async with dial(gateway.port) as client:
            for _ in range(2):
                await client.send(post(chat_body()))
                await client.answer()
        first, second = (values(seen, "x-request-id") for seen in worker.seen)
        assert first != second
        await gateway.told("ok", "ok")


# --- down ---


@pytest.mark.parametrize("streamed", [True, False])
async def test_headers_of_the_workers_connection_do_not_come_down(
    streamed: bool, sink: SinkName
) -> None:
    """Hop-by-hop headers and those that Connection names stay; all others come, in order."""

    async def script(exchange: Exchange) -> None:
        kind = "text/event-stream; charset=utf-8" if streamed else "application/json"
        await exchange.send(
            f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n"
            "connection: keep-alive, x-mine\r\nkeep-alive: timeout=5\r\nx-mine: 1\r\n"
            "proxy-authenticate: Basic\r\nupgrade: h2c\r\ntrailer: x-late\r\n"
            "x-request-id: the-workers\r\nx-kept: a\r\nx-kept: b\r\n"
            "set-cookie: c=d\r\n\r\n".encode()
        )
        if streamed:
            await exchange.chunks(*answer_of("one"))
        else:
            await exchange.chunks(good_body(stream=False))
        await exchange.last_chunk()

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        request = post(chat_body(stream=streamed), "X-Request-Id: mine")
        answer = await ask(gateway.port, request)
        assert answer.whole
        assert not answer.names & {
            "keep-alive", "x-mine", "proxy-authenticate", "upgrade", "trailer"
        }  # fmt: skip
        assert [v for k, v in answer.headers if k == "x-request-id"] == ["mine"]
        assert [v for k, v in answer.headers if k == "x-kept"] == ["a", "b"]
        assert answer.header("set-cookie") == "c=d"
        kind = "text/event-stream; charset=utf-8" if streamed else "application/json"
        assert answer.header("content-type") == kind
        await gateway.told("ok")


async def test_streams_are_not_to_be_buffered_or_cached(sink: SinkName) -> None:
    """Said once, whatever the worker said; proxies between here and the client heed it."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: max-age=60\r\n"
            b"x-accel-buffering: yes\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await exchange.chunks(*answer_of("one"))
        await exchange.last_chunk()

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert [v for k, v in answer.headers if k == "cache-control"] == ["no-cache"]
        assert [v for k, v in answer.headers if k == "x-accel-buffering"] == ["no"]
        assert answer.header("content-length") is None
        await gateway.told("ok")


async def test_whole_answers_keep_their_length_and_caching(sink: SinkName) -> None:
    """What is not a stream is not touched."""

    async def script(exchange: Exchange) -> None:
        await exchange.whole(200, good_body(stream=False), "cache-control: max-age=60")

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body(stream=False)))
        assert answer.header("content-length") == str(len(good_body(stream=False)))
        assert answer.header("cache-control") == "max-age=60"
        assert "x-accel-buffering" not in answer.names
        await gateway.told("ok")

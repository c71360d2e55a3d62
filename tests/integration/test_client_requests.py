"""What the gateway itself refuses: bodies too large, too many or wrong; unknown models."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway import SinkName, run_gateway, until
from tests.support.raw import PROMPT, ask, chat_body, dial, post, post_chunked
from tests.support.scripted import Exchange, good, good_body, scripted

if TYPE_CHECKING:
    from tests.support.raw import RawAnswer


def check_is_invalid(answer: RawAnswer, status: int, code: str, param: str | None = None) -> None:
    """The gateway's own 4xx, in OpenAI's shape."""
    assert answer.status == status
    assert answer.header("content-type") == "application/json"
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["code"] == code
    assert answer.error["param"] == param
    assert answer.error["type"] == "invalid_request_error"
    assert answer.header("x-should-retry") == "false"
    assert PROMPT not in answer.error["message"]
    assert answer.whole


# --- sizes ---

SMALL_HEAD: dict[str, Any] = {"limits__max_head_bytes": "4KiB"}
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"


@pytest.mark.parametrize(
    "start",
    [
        LINE + b"X-Large: " + b"a" * 5000 + b"\r\n\r\n",
        LINE + b"X-Large: " + b"a" * 20_000,
        LINE + b"".join(b"X-%d: a\r\n" % number for number in range(900)) + b"\r\n",
        LINE + b"".join(b"X-%d: a\r\n" % number for number in range(2000)),
        b"POST /v1/chat/completions?" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/chat/completions?" + b"a" * 20_000,
    ],
    ids=["a header", "an open header", "many headers", "no end", "the URL", "an open URL"],
)
@pytest.mark.parametrize("cut", [6000, 1000])
async def test_head_over_its_limit_is_431(start: bytes, cut: int) -> None:
    """The client is told, and the connection closed, whether or not the head ever ends."""
    async with scripted(good) as worker, run_gateway(worker.url, **SMALL_HEAD) as gateway:
        async with dial(gateway.port) as client:
            with contextlib.suppress(ConnectionError):
                await client.send(*[start[at : at + cut] for at in range(0, len(start), cut)])
            answer = await client.answer()
            check_is_invalid(answer, 431, "headers_too_large")
            assert answer.header("connection") == "close"
            assert await client.closed() == b""
        assert worker.seen == []
        await gateway.told("invalid")


async def test_head_under_its_limit_is_served() -> None:
    """The limit is on the head alone: the body may be larger."""
    async with scripted(good) as worker, run_gateway(worker.url, **SMALL_HEAD) as gateway:
        request = post(chat_body(user="x" * 20_000), "X-Large: " + "a" * 3000)
        assert (await ask(gateway.port, request)).body == good_body(stream=True)
        await gateway.told("ok")


SMALL_BODY: dict[str, Any] = {"limits__max_body_bytes": 1000}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [1001, 3_000_000])
async def test_body_over_its_limit_is_413(chunked: bool, size: int, sink: SinkName) -> None:
    """A client that sends its whole body before it reads still learns why it was refused."""
    body = chat_body() + b" " * (size - len(chat_body()))
    parts = [body[at : at + 700] for at in range(0, size, 700)]
    request = post_chunked(parts) if chunked else post(body)
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink, **SMALL_BODY) as gateway,
    ):
        async with dial(gateway.port) as client:
            with contextlib.suppress(ConnectionError):
                await client.send(request)
            answer = await client.answer()
            check_is_invalid(answer, 413, "request_too_large")
            assert answer.header("connection") == "close"
        assert worker.seen == []
        await gateway.told("invalid")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_body_at_its_limit_is_served(chunked: bool, sink: SinkName) -> None:
    """The limit itself is allowed."""
    body = chat_body(stream=False)
    body += b" " * (1000 - len(body))
    request = post_chunked([body[:300], body[300:]]) if chunked else post(body)
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink, **SMALL_BODY) as gateway,
    ):
        assert (await ask(gateway.port, request)).body == good_body(stream=False)
        assert worker.seen[0].body == body
        assert worker.seen[0].header("content-length") == "1000"
        assert worker.seen[0].header("transfer-encoding") is None
        await gateway.told("ok")


async def test_bodies_over_the_common_limit_are_503(sink: SinkName) -> None:
    """What all requests in flight hold together is bounded; who comes later is told to retry."""
    free = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await free.wait()
        await good(exchange)

    body = chat_body(user="x" * 500)
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink, limits__max_inflight_bytes=len(body) + 100) as gateway,
    ):
        first = asyncio.create_task(ask(gateway.port, post(body)))
        await until(lambda: len(worker.seen) == 1)
        refused = await ask(gateway.port, post(body))
        assert refused.status == 503
        assert refused.error["code"] == "gateway_overloaded"
        assert refused.header("retry-after") == "1"
        assert refused.header("x-should-retry") == "true"
        free.set()
        assert (await first).whole
        assert (await ask(gateway.port, post(body))).whole
        await gateway.told("ok", "unavailable", "ok")


async def test_requests_over_the_queues_limit_are_503(sink: SinkName) -> None:
    """One runs, one waits, the third is told to retry."""
    free = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await free.wait()
        await good(exchange)

    changes: dict[str, Any] = {"limits__max_running": 1, "limits__max_queued": 1}
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink, **changes) as gateway,
    ):
        first = asyncio.create_task(ask(gateway.port, post(chat_body())))
        await until(lambda: len(worker.seen) == 1)
        second = asyncio.create_task(ask(gateway.port, post(chat_body())))
        await until(lambda: gateway.gateway.admission.queued == 1)
        refused = await ask(gateway.port, post(chat_body()))
        assert refused.status == 503
        assert refused.error["code"] == "gateway_overloaded"
        assert refused.header("retry-after") == "1"
        free.set()
        assert (await first).whole
        assert (await second).whole
        await gateway.told("ok", "ok", "unavailable")


async def test_wait_in_the_queue_has_an_end(sink: SinkName) -> None:
    """Who has waited for `timeouts.queue` is told to retry."""

    async def script(exchange: Exchange) -> None:
        await exchange.gone()

    changes: dict[str, Any] = {"limits__max_running": 1, "timeouts__queue": "100ms"}
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink, **changes) as gateway,
        dial(gateway.port) as first,
    ):
        await first.send(post(chat_body()))
        await until(lambda: len(worker.seen) == 1)
        refused = await ask(gateway.port, post(chat_body()))
        assert refused.status == 503
        assert refused.error["code"] == "gateway_overloaded"
        assert len(worker.seen) == 1
        first.close()
        await gateway.told("unavailable", "client_closed")


# --- JSON ---

WRONG_JSON = {
    "empty": b"",
    "no JSON": b"hello",
    "cut": b'{"model": "demo", "messages": [',
    "an array": b'["demo"]',
    "a string": b'"demo"',
    "null": b"null",
    "a trailing comma": b'{"model": "demo",}',
    "two objects": b'{"model": "demo"}{"model": "demo"}',
    "single quotes": b"{'model': 'demo'}",
    "deep arrays": b'{"model": "demo", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"model": "demo", "x": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "deep from the start": b"[" * 100_000,
    "UTF-16": '{"model": "demo"}'.encode("utf-16"),
    "bad UTF-8 in a key": b'{"model": "demo", "\xff": 1}',
    "not a number": b'{"model": "demo", "temperature": nan}',
}


@pytest.mark.parametrize("name", WRONG_JSON)
async def test_body_that_is_no_json_object_is_400(name: str, sink: SinkName) -> None:
    """The client learns where and why; the connection serves its next request."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        async with dial(gateway.port) as client:
            await client.send(post(WRONG_JSON[name]))
            check_is_invalid(await client.answer(), 400, "invalid_json")
            await client.send(post(chat_body()))
            assert (await client.answer()).body == good_body(stream=True)
        assert len(worker.seen) == 1
        await gateway.told("invalid", "ok")


WRONG_VALUES: dict[str, tuple[bytes, str]] = {
    "no model": (b'{"messages": []}', "model"),
    "an empty object": (b"{}", "model"),
    "model null": (b'{"model": null}', "model"),
    "model a number": (b'{"model": 5}', "model"),
    "model a list": (b'{"model": ["demo"]}', "model"),
    "stream a string": (b'{"model": "demo", "stream": "yes"}', "stream"),
    "stream a number": (b'{"model": "demo", "stream": 1}', "stream"),
    "options a list": (
        b'{"model": "demo", "stream": true, "stream_options": []}',
        "stream_options",
    ),
    "include_usage a number": (
        b'{"model": "demo", "stream": true, "stream_options": {"include_usage": 1}}',
        "stream_options.include_usage",
    ),
    "model twice": (b'{"model": "demo", "model": "other"}', "model"),
    "the same model twice": (b'{"model":"demo","model":"demo"}', "model"),
    "model twice, escaped": (b'{"model": "demo", "mod\\u0065l": "other"}', "model"),
    "stream twice": (b'{"model": "demo", "stream": true, "stream": false}', "stream"),
    "an unknown key twice": (b'{"model":"demo","x":1,"y":2,"x":3}', "x"),
    "messages twice": (b'{"model": "demo", "messages": [], "messages": [1]}', "messages"),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
async def test_wrong_value_is_400_with_its_name(name: str, sink: SinkName) -> None:
    """`param` names the field; nothing reaches a worker."""
    body, param = WRONG_VALUES[name]
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(body))
        check_is_invalid(answer, 400, "invalid_value", param)
        assert f"`{param}`" in answer.error["message"]
        assert worker.seen == []
        await gateway.told("invalid")


KEPT_BODIES = {
    "white space": b' {\n "model" : "demo",\t"messages":[ ] }\r\n',
    "unknown fields": b'{"model":"demo","x":{"a":[1,2.50,1e400,{"b":null}]},"z":"\\u00e9"}',
    "large numbers": b'{"model":"demo","seed":123456789012345678901234567890,"t":0.10000000001}',
    "nested twice": b'{"model":"demo","x":{"a":1,"a":2}}',
}


@pytest.mark.parametrize("name", KEPT_BODIES)
async def test_body_that_needs_no_change_goes_up_byte_for_byte(name: str, sink: SinkName) -> None:
    """Every field a client sends reaches the worker, as it was written."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        assert (await ask(gateway.port, post(KEPT_BODIES[name]))).whole
        assert worker.seen[0].body == KEPT_BODIES[name]
        await gateway.told("ok")


async def test_body_that_is_changed_keeps_every_other_byte(sink: SinkName) -> None:
    """Only `stream_options` is written anew where usage is asked for on the client's behalf."""
    body = (
        b'{ "model": "demo", "x": {"a" : 1e400, "a":2},  "stream": true,'
        b' "stream_options": {"other": [ 1 ], "continuous_usage_stats": true} }'
    )
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        assert (await ask(gateway.port, post(body))).whole
        sent = worker.seen[0].body
        assert b'{"a" : 1e400, "a":2}' in sent
        assert json.loads(sent)["stream_options"] == {
            "other": [1],
            "continuous_usage_stats": False,
            "include_usage": True,
        }
        assert list(json.loads(sent)) == ["model", "x", "stream", "stream_options"]
        await gateway.told("ok")


async def test_compressed_body_is_415(sink: SinkName) -> None:
    """The gateway reads no compressed bodies, and says so."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body(), "Content-Encoding: gzip"))
        check_is_invalid(answer, 415, "unsupported_content_encoding")
        assert worker.seen == []
        await gateway.told("invalid")


# --- models and paths ---


async def test_unknown_model_is_404(sink: SinkName, stream: bool) -> None:
    """The client's word for it is no label in the metrics."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        body = chat_body(stream=stream, model="nobody-serves-this")
        answer = await ask(gateway.port, post(body))
        check_is_invalid(answer, 404, "model_not_found", "model")
        assert worker.seen == []
        await gateway.told("invalid")
        assert "nobody-serves-this" not in str(await gateway.metrics())


async def test_known_model_without_a_worker_is_503(sink: SinkName, stream: bool) -> None:
    """Its clients are told to come back, not that it does not exist."""
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        worker.kill()
        await until(lambda: not gateway.gateway.registry.ready)
        answer = await ask(gateway.port, post(chat_body(stream=stream)))
        assert answer.status == 503
        assert answer.error["code"] == "no_worker_available"
        assert answer.header("retry-after") == "2"
        assert answer.header("x-should-retry") == "true"
        unknown = await ask(gateway.port, post(chat_body(model="other")))
        assert unknown.status == 404
        await gateway.told("unavailable", "invalid", standing=False)


async def test_any_model_is_503_until_a_worker_has_answered(sink: SinkName) -> None:
    """What models there are is not known yet."""
    async with run_gateway("http://127.0.0.1:1", sink=sink, wait=False) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.status == 503
        assert answer.error["code"] == "no_worker_available"
        assert answer.header("retry-after") == "2"
        await gateway.told("unavailable", standing=False)


async def test_path_that_is_not_served_is_404(sink: SinkName) -> None:
    """Operators' routes of a worker above all."""
    paths = ("/sleep", "/invocations", "/v1/load_lora_adapter", "/v1/chat/completions/", "/x")
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        for path in paths:
            answer = await ask(gateway.port, post(chat_body(), path=path))
            check_is_invalid(answer, 404, "not_found")
        assert worker.seen == []
        await gateway.told(*["invalid"] * len(paths))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_other_method_is_405(method: str, sink: SinkName) -> None:
    """The client learns which."""
    request = f"{method} /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, request)
        check_is_invalid(answer, 405, "method_not_allowed")
        await gateway.told("invalid")


async def test_head_request_is_the_last_on_its_connection(sink: SinkName) -> None:
    """Its client takes no body (RFC 9110, 9.3.2), and must not read ours as the next answer."""
    request = b"HEAD /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n"
    async with scripted(good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        async with dial(gateway.port) as client:
            await client.send(request)
            answer = await client.head()
            assert answer.status == 405
            assert answer.header("connection") == "close"
            await client.closed()
        await gateway.told("invalid")

"""Faults of a worker before any byte of its answer has gone down: another worker, or an error.

`docs/faults.md`, the rows marked *before*.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway import RunningGateway, SinkName, run_gateway, until
from tests.support.raw import ask, chat_body, dial, post
from tests.support.scripted import (
    DONE,
    ROLE,
    Exchange,
    Script,
    ScriptedWorker,
    answer_of,
    chat_event,
    deaf,
    error_event,
    good,
    good_body,
    in_turn,
    scripted,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.raw import RawAnswer

ONCE_ASKED: dict[str, Any] = {"discovery_interval": "1h"}
"""Workers are asked for their models once: what becomes of them after, only requests tell."""


@contextlib.asynccontextmanager
async def workers_of(
    *scripts: Script, sink: SinkName, **changes: Any
) -> AsyncIterator[tuple[RunningGateway, list[ScriptedWorker]]]:
    """A gateway over as many workers as there are scripts; whichever worker is asked first runs
    the first of them."""
    script = in_turn(*scripts)
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(scripted(script)) for _ in scripts]
        urls = [worker.url for worker in workers]
        yield await stack.enter_async_context(run_gateway(*urls, sink=sink, **changes)), workers


def check_is_good(answer: RawAnswer, *, stream: bool) -> None:
    """The answer of `good` has come, whole."""
    assert answer.status == 200
    assert answer.body == good_body(stream=stream)
    assert answer.whole


def check_is_error(answer: RawAnswer, status: int, code: str, *, retry: bool) -> None:
    """An error of the gateway's own, in OpenAI's shape."""
    assert answer.status == status
    assert answer.header("content-type") == "application/json"
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["code"] == code
    assert answer.error["type"] == "server_error"
    assert answer.header("x-should-retry") == ("true" if retry else "false")
    assert answer.header("x-request-id")
    assert answer.whole


# --- no connection ---


async def test_refused_connection_without_another_worker_is_503(
    sink: SinkName, stream: bool
) -> None:
    """A client learns that no worker could be reached, and when to come back."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink, **ONCE_ASKED) as gateway,
    ):
        worker.kill()
        answer = await ask(gateway.port, post(chat_body(stream=stream)))
        check_is_error(answer, 503, "worker_unreachable", retry=True)
        assert answer.header("retry-after") == "2"
        assert worker.seen == []
        await gateway.told("unavailable")


async def test_refused_connection_is_made_up_for_by_another_worker(
    sink: SinkName, stream: bool
) -> None:
    """Of two requests, one meets the dead worker first; its client notices nothing."""
    async with workers_of(good, good, sink=sink, **ONCE_ASKED) as (gateway, workers):
        workers[0].kill()
        for _ in range(2):
            answer = await ask(gateway.port, post(chat_body(stream=stream)))
            check_is_good(answer, stream=stream)
        await gateway.told("ok", "ok", retries=1)


async def test_connect_timeout_without_another_worker_is_503(sink: SinkName) -> None:
    """A worker that takes no connection is given up after `timeouts.connect`."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink, timeouts__connect="200ms", **ONCE_ASKED) as gateway,
    ):
        worker.kill()
        with deaf(worker.port):
            answer = await ask(gateway.port, post(chat_body()))
        check_is_error(answer, 503, "worker_unreachable", retry=True)
        assert answer.header("retry-after") == "2"
        await gateway.told("unavailable")


async def test_connect_timeout_is_made_up_for_by_another_worker(sink: SinkName) -> None:
    """The same with two workers: every client has its answer."""
    changes = {"timeouts__connect": "200ms", **ONCE_ASKED}
    async with workers_of(good, good, sink=sink, **changes) as (gateway, workers):
        workers[0].kill()
        with deaf(workers[0].port):
            for _ in range(2):
                check_is_good(await ask(gateway.port, post(chat_body())), stream=True)
        await gateway.told("ok", "ok", retries=1)


async def test_name_that_does_not_resolve_is_503(sink: SinkName) -> None:
    """A worker whose name leads nowhere is as good as none."""
    async with run_gateway("http://worker.invalid:8000", sink=sink, wait=False) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        check_is_error(answer, 503, "no_worker_available", retry=True)
        assert answer.header("retry-after") == "2"
        await gateway.told("unavailable", standing=False)


async def test_name_that_does_not_resolve_does_not_harm_the_other_workers(sink: SinkName) -> None:
    """A pool with one wrong name serves on."""
    async with (
        scripted(good) as worker,
        run_gateway("http://worker.invalid:8000", worker.url, sink=sink, wait=False) as gateway,
    ):
        await until(lambda: gateway.gateway.registry.ready)
        for _ in range(2):
            check_is_good(await ask(gateway.port, post(chat_body())), stream=True)
        await gateway.told("ok", "ok", standing=False)


# --- the kept connection ---


async def test_stale_connection_is_replaced_free_of_charge(sink: SinkName, stream: bool) -> None:
    """The worker closes a kept connection when the next request is on its way: the request is
    sent again, to the same worker, and is no retry."""

    async def close(exchange: Exchange) -> None:
        exchange.close()
        await exchange.gone()

    async with (
        scripted(in_turn(good, close, good)) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        for _ in range(2):
            answer = await ask(gateway.port, post(chat_body(stream=stream)))
            check_is_good(answer, stream=stream)
        assert len(worker.seen) == 3
        await gateway.told("ok", "ok")


async def test_stale_connection_reset_is_replaced_free_of_charge(sink: SinkName) -> None:
    """The same where the worker resets it."""

    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    async with (
        scripted(in_turn(good, reset, good)) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        for _ in range(2):
            check_is_good(await ask(gateway.port, post(chat_body())), stream=True)
        await gateway.told("ok", "ok")


async def test_kept_connection_is_used_again(sink: SinkName) -> None:
    """Three requests in a row need one connection."""
    async with (
        scripted(good) as worker,
        run_gateway(worker.url, sink=sink, **ONCE_ASKED) as gateway,
    ):
        connections = worker.connections
        for _ in range(3):
            check_is_good(await ask(gateway.port, post(chat_body())), stream=True)
        assert worker.connections == connections + 1
        await gateway.told("ok", "ok", "ok")


# --- lost before an answer ---


async def lose_by_reset(exchange: Exchange) -> None:
    exchange.reset()


async def lose_by_close(exchange: Exchange) -> None:
    exchange.close()


async def lose_in_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-ty")
    exchange.close()


async def lose_after_head(exchange: Exchange) -> None:
    await exchange.head()
    exchange.reset()


async def lose_in_first_event(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.chunks(ROLE[:20])
    exchange.close()


async def malformed_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 2oo what is this\r\nno colon here\r\n\r\n")


async def no_http(exchange: Exchange) -> None:
    await exchange.send(b"\x00\x01\x02 this is no HTTP at all\r\n\r\n")


async def large_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nx-large: " + b"a" * 9000 + b"\r\n\r\n")


async def endless_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(10_000):
        await exchange.send(b"x-%d: more and more\r\n" % number)


async def empty_stream(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.last_chunk()


async def only_comments(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.chunks(b": keep-alive\n\n")
    await exchange.last_chunk()


async def bad_first_chunk(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(b"zz\r\n")


LOST = [
    lose_by_reset,
    lose_by_close,
    lose_in_head,
    lose_after_head,
    lose_in_first_event,
    malformed_head,
    no_http,
    large_head,
    endless_head,
    empty_stream,
    only_comments,
    bad_first_chunk,
]
SMALL_WORKER_HEAD: dict[str, Any] = {"limits__max_worker_head_bytes": "8KiB"}


@pytest.mark.parametrize("lost", LOST)
async def test_answer_lost_before_it_began_is_502(lost: Script, sink: SinkName) -> None:
    """Without another worker the client learns that its worker failed, and that it may try
    again."""
    async with (
        scripted(lost) as worker,
        run_gateway(worker.url, sink=sink, **SMALL_WORKER_HEAD) as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body()))
        check_is_error(answer, 502, "worker_failed", retry=True)
        assert len(worker.seen) == 1
        await gateway.told("worker_failed")


@pytest.mark.parametrize("lost", LOST)
async def test_answer_lost_before_it_began_comes_from_another_worker(
    lost: Script, sink: SinkName
) -> None:
    """With another worker the client notices nothing."""
    async with workers_of(lost, good, sink=sink, **SMALL_WORKER_HEAD) as (gateway, workers):
        check_is_good(await ask(gateway.port, post(chat_body())), stream=True)
        assert [len(worker.seen) for worker in workers] == [1, 1]
        await gateway.told("ok", retries=1)


@pytest.mark.parametrize("lost", [lose_by_reset, lose_by_close, lose_in_head, malformed_head])
async def test_whole_answer_lost_before_it_began_comes_from_another_worker(
    lost: Script, sink: SinkName
) -> None:
    """The same for an answer that is not streamed."""
    async with workers_of(lost, good, sink=sink) as (gateway, workers):
        check_is_good(await ask(gateway.port, post(chat_body(stream=False))), stream=False)
        assert [len(worker.seen) for worker in workers] == [1, 1]
        await gateway.told("ok", retries=1)


async def test_same_body_is_sent_to_the_second_worker(sink: SinkName) -> None:
    """A retry sends the request once more, byte for byte."""
    async with workers_of(lose_by_reset, good, sink=sink) as (gateway, workers):
        body = chat_body(stream=False, temperature=0.25)
        check_is_good(await ask(gateway.port, post(body)), stream=False)
        assert [worker.seen[0].body for worker in workers] == [body, body]
        ids = [worker.seen[0].header("x-request-id") for worker in workers]
        assert ids[0] == ids[1]
        await gateway.told("ok", retries=1)


async def test_request_that_kills_two_workers_never_reaches_a_third(
    sink: SinkName, stream: bool
) -> None:
    """It is final: the client is told not to send it again, and the log names the suspicion."""
    async with workers_of(lose_by_reset, lose_by_close, good, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, post(chat_body(stream=stream)))
        check_is_error(answer, 502, "worker_failed", retry=False)
        assert sorted(len(worker.seen) for worker in workers) == [0, 1, 1]
        assert "suspect_poison" in gateway.log
        await gateway.told("worker_failed", retries=1)


async def test_request_that_kills_workers_on_kept_connections_never_reaches_a_third(
    sink: SinkName,
) -> None:
    """A worker that dies at a request is not taken for a kept connection that was merely stale,
    or the request would go on to kill every worker there is."""
    async with contextlib.AsyncExitStack() as stack:
        workers: list[ScriptedWorker] = []

        async def script(exchange: Exchange) -> None:
            if b"deadly" not in exchange.request.body:
                await good(exchange)
                return
            next(worker for worker in workers if worker.port == exchange.port).kill()

        workers += [await stack.enter_async_context(scripted(script)) for _ in range(3)]
        urls = [worker.url for worker in workers]
        gateway = await stack.enter_async_context(run_gateway(*urls, sink=sink, **ONCE_ASKED))
        for _ in workers:
            check_is_good(await ask(gateway.port, post(chat_body())), stream=True)
        assert gateway.idle_connections == 3
        answer = await ask(gateway.port, post(chat_body(user="deadly")))
        check_is_error(answer, 502, "worker_failed", retry=False)
        assert sorted(len(worker.seen) for worker in workers) == [1, 2, 2]
        await gateway.told("ok", "ok", "ok", "worker_failed", retries=1)


# --- silence ---


async def silent(exchange: Exchange) -> None:
    await exchange.gone()


async def silent_after_head(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.gone()


@pytest.mark.parametrize("script", [silent, silent_after_head])
async def test_first_byte_timeout_is_504(script: Script, sink: SinkName, stream: bool) -> None:
    """A worker that says nothing is given up; another is not made to wait as long again."""
    async with workers_of(script, good, sink=sink, timeouts__first_byte="200ms") as (
        gateway,
        workers,
    ):
        answer = await ask(gateway.port, post(chat_body(stream=stream)))
        check_is_error(answer, 504, "worker_timeout", retry=False)
        assert sorted(len(worker.seen) for worker in workers) == [0, 1]
        await gateway.told("timeout")


async def test_idle_timeout_does_not_count_before_the_first_byte(sink: SinkName) -> None:
    """Prefill may take longer than the pause between two tokens."""
    late = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await late.wait()
        await good(exchange)

    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink, timeouts__idle="50ms") as gateway,
    ):
        asyncio.get_running_loop().call_later(0.3, late.set)
        check_is_good(await ask(gateway.port, post(chat_body())), stream=True)
        await gateway.told("ok")


# --- the worker's own word ---

BUSY_BODY = b'{"error": {"message": "busy", "type": "overloaded", "param": null, "code": 503}}'


def says(status: int, body: bytes, *headers: str) -> Script:
    """A script that answers whole."""

    async def script(exchange: Exchange) -> None:
        await exchange.whole(status, body, *headers)

    script.__name__ = f"says_{status}"
    return script


@pytest.mark.parametrize("status", [429, 503])
async def test_busy_worker_is_made_up_for_by_another(
    status: int, sink: SinkName, stream: bool
) -> None:
    """A worker's 429 or 503 is not for the client while another worker can answer."""
    busy = says(status, BUSY_BODY, "retry-after: 7")
    async with workers_of(busy, good, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, post(chat_body(stream=stream)))
        check_is_good(answer, stream=stream)
        assert [len(worker.seen) for worker in workers] == [1, 1]
        await gateway.told("ok", retries=1)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_busy_workers_own_answer_comes_through_where_all_are_busy(
    status: int, count: int, sink: SinkName, stream: bool
) -> None:
    """The client reads the worker's own words, its `Retry-After` included."""
    busy = says(status, BUSY_BODY, "retry-after: 7")
    async with workers_of(*[busy] * count, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, post(chat_body(stream=stream)))
        assert answer.status == status
        assert answer.body == BUSY_BODY
        assert answer.header("retry-after") == "7"
        assert answer.whole
        assert [len(worker.seen) for worker in workers] == [1] * count
        await gateway.told("refused", retries=count - 1)


async def test_busy_workers_own_answer_comes_through_where_the_other_is_gone(
    sink: SinkName,
) -> None:
    """What one worker said is better than that another could not be reached."""
    async with workers_of(
        says(503, BUSY_BODY, "retry-after: 7"), good, sink=sink, **ONCE_ASKED
    ) as (gateway, workers):
        # Whichever is asked first is busy, and takes the other one down with it.
        for worker, other in (workers, workers[::-1]):
            worker.on_request = other.kill
        answer = await ask(gateway.port, post(chat_body()))
        assert (answer.status, answer.body) == (503, BUSY_BODY)
        assert answer.header("retry-after") == "7"
        await gateway.told("refused", retries=1)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(400, "refused"), (404, "refused"), (422, "refused"), (500, "worker_failed")],
)
async def test_workers_error_is_passed_on_untouched(
    status: int, outcome: str, sink: SinkName, stream: bool
) -> None:
    """What the worker says of a request is for its client, byte for byte, and no other worker is
    asked."""
    body = b'{"error": {"message":  "no \xf0\x9f\x98\x80", "type": "X", "param": null, "code": 1}}'
    script = says(status, body, "x-worker: says so")
    async with workers_of(script, good, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, post(chat_body(stream=stream)))
        assert (answer.status, answer.body) == (status, body)
        assert answer.header("x-worker") == "says so"
        assert answer.header("content-type") == "application/json"
        assert answer.whole
        assert sorted(len(worker.seen) for worker in workers) == [0, 1]
        await gateway.told(outcome)


async def test_chunked_error_of_a_worker_is_passed_on_untouched(sink: SinkName) -> None:
    """The same where the worker gives no length."""

    async def script(exchange: Exchange) -> None:
        await exchange.head(400, "application/json")
        await exchange.chunks(b'{"error"', b': {"message": "no"}}')
        await exchange.last_chunk()

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert (answer.status, answer.body) == (400, b'{"error": {"message": "no"}}')
        assert answer.whole
        await gateway.told("refused")


# --- an error event first ---


@pytest.mark.parametrize(
    ("code", "outcome"), [(400, "refused"), (404, "refused"), (500, "worker_failed")]
)
async def test_error_event_first_becomes_a_real_status(
    code: int, outcome: str, sink: SinkName
) -> None:
    """vLLM refuses late, as the first event of a 200: the client reads a status and JSON."""
    event = error_event(code, "the prompt is too long")

    async def script(exchange: Exchange) -> None:
        await exchange.stream(b": keep-alive\n\n", event, DONE)

    async with workers_of(script, good, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.status == code
        assert answer.header("content-type") == "application/json"
        assert answer.body == event.removeprefix(b"data: ").strip()
        assert answer.whole
        assert sorted(len(worker.seen) for worker in workers) == [0, 1]
        await gateway.told(outcome)


@pytest.mark.parametrize("code", [429, 503])
async def test_busy_error_event_first_is_made_up_for_by_another_worker(
    code: int, sink: SinkName
) -> None:
    """A late 503 is a 503: another worker is asked."""

    async def script(exchange: Exchange) -> None:
        await exchange.stream(error_event(code, "busy"), DONE)

    async with workers_of(script, good, sink=sink) as (gateway, workers):
        check_is_good(await ask(gateway.port, post(chat_body())), stream=True)
        assert [len(worker.seen) for worker in workers] == [1, 1]
        await gateway.told("ok", retries=1)


async def test_busy_error_event_first_is_the_answer_where_all_are_busy(sink: SinkName) -> None:
    """Without another worker it is a real 503."""

    async def script(exchange: Exchange) -> None:
        await exchange.stream(error_event(503, "busy"), DONE)

    async with workers_of(script, script, sink=sink) as (gateway, _):
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.status == 503
        assert answer.error["message"] == "busy"
        await gateway.told("refused", retries=1)


async def test_lost_worker_and_busy_worker_give_the_busy_ones_answer(sink: SinkName) -> None:
    """After a retry the second worker's refusal is the answer."""
    busy = says(503, BUSY_BODY, "retry-after: 7")
    async with workers_of(lose_by_reset, busy, sink=sink) as (gateway, _):
        answer = await ask(gateway.port, post(chat_body()))
        assert (answer.status, answer.body) == (503, BUSY_BODY)
        await gateway.told("refused", retries=1)


# --- a worker that says more than it was asked ---


async def test_bytes_after_a_whole_answer_reach_nobody(sink: SinkName) -> None:
    """What a worker sends after its answer is no answer to the next request."""
    extra = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong"

    async def script(exchange: Exchange) -> None:
        body = good_body(stream=False)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await exchange.send(head % len(body) + body + extra)

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        async with dial(gateway.port) as client:
            for _ in range(2):
                await client.send(post(chat_body(stream=False)))
                check_is_good(await client.answer(), stream=False)
        await gateway.told("ok", "ok")


async def test_garbage_after_a_whole_answer_does_not_harm_the_next(sink: SinkName) -> None:
    """A connection with garbage on it is not kept."""

    async def script(exchange: Exchange) -> None:
        body = good_body(stream=False)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await exchange.send(head % len(body) + body + b"\x00garbage")

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        for _ in range(2):
            check_is_good(await ask(gateway.port, post(chat_body(stream=False))), stream=False)
        await gateway.told("ok", "ok")


async def test_early_hints_are_no_answer(sink: SinkName) -> None:
    """1xx heads come before the answer and are not it."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
        await exchange.stream(*answer_of("one"))

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.status == 200
        assert answer.body == ROLE + chat_event("one") + DONE
        assert "link" not in answer.names
        await gateway.told("ok")

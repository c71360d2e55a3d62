"""A stream's head waits for its first event, but not for ever: then comments go down, and the
answer may still come from another worker."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway import SinkName, run_gateway, until
from tests.support.raw import ask, chat_body, dial, post
from tests.support.scripted import (
    DONE,
    Exchange,
    answer_of,
    error_event,
    good,
    good_body,
    in_turn,
    scripted,
)

if TYPE_CHECKING:
    from tests.support.scripted import Script

COMMENT = b": keep-alive\n\n"
HOLD: dict[str, Any] = {"timeouts__head_hold": "100ms"}


def after(comments: int, then: Script, *, preamble: bytes = b"", head: bool = True) -> Script:
    """A worker that is silent for as long as it takes the client to hear `comments`."""

    async def script(exchange: Exchange) -> None:
        if head:
            await exchange.head()
            if preamble:
                await exchange.chunks(preamble)
        await asyncio.sleep(0.1 * comments + 0.05)
        await then(exchange)

    return script


async def events(exchange: Exchange) -> None:
    await exchange.chunks(*answer_of("one", " two", "!"))
    await exchange.last_chunk()


def without_comments(body: bytes) -> bytes:
    """A body's own events; there was a comment."""
    assert body.startswith(COMMENT)
    return body.replace(COMMENT, b"")


@pytest.mark.parametrize("head", [True, False], ids=["after its head", "before its head"])
async def test_late_first_event_comes_after_comments(head: bool, sink: SinkName) -> None:
    """The client reads a 200 and comments, then the stream as the worker sent it."""
    script = after(2, events if head else good, head=head)
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink, **HOLD) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.status == 200
        assert (answer.header("content-type") or "").startswith("text/event-stream")
        assert without_comments(answer.body) == good_body(stream=True)
        assert answer.whole
        await gateway.told("ok")


async def test_comments_come_at_the_set_interval(sink: SinkName) -> None:
    """They are counted while the worker is silent, and none is early."""
    enough = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await enough.wait()
        await good(exchange)

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink, **HOLD) as gateway:
        async with dial(gateway.port) as client:
            loop = asyncio.get_running_loop()
            sent_s = loop.time()
            await client.send(post(chat_body()))
            answer = await client.head()
            times = []
            for count in range(1, 4):
                await client.events(answer, count * len(COMMENT))
                times.append(loop.time() - sent_s)
            enough.set()
            await client.rest(answer)
            assert times[0] >= 0.09
            assert times[2] >= 0.29
            assert answer.body.startswith(3 * COMMENT)
            assert without_comments(answer.body) == good_body(stream=True)
        await gateway.told("ok")


async def test_preamble_goes_down_with_the_first_comment(sink: SinkName) -> None:
    """What the worker has said so far is not kept longer than the head."""
    said = b": worker's own comment\n\n"
    script = after(2, events, preamble=said)
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink, **HOLD) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.body.startswith(said + COMMENT)
        assert answer.body.replace(COMMENT, b"") == said + good_body(stream=True)
        assert answer.body.count(said) == 1
        await gateway.told("ok")


async def test_whole_answers_are_not_held(sink: SinkName) -> None:
    """Comments are for streams: JSON waits for as long as it takes."""
    script = after(3, good, head=False)
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink, **HOLD) as gateway:
        answer = await ask(gateway.port, post(chat_body(stream=False)))
        assert answer.body == good_body(stream=False)
        await gateway.told("ok")


async def lose(exchange: Exchange) -> None:
    exchange.reset()


async def busy(exchange: Exchange) -> None:
    await exchange.whole(503, b'{"error":{"message":"busy","code":503}}')


async def busy_event(exchange: Exchange) -> None:
    await exchange.chunks(error_event(503, "busy"), DONE)
    await exchange.last_chunk()


@pytest.mark.parametrize(
    ("fault", "head"), [(lose, True), (lose, False), (busy, False), (busy_event, True)]
)
async def test_retry_is_possible_after_comments(fault: Script, head: bool, sink: SinkName) -> None:
    """Comments are no answer: another worker's follows them, whole."""
    script = in_turn(after(1, fault, head=head), good)
    async with (
        scripted(script) as worker,
        scripted(script) as other,
        run_gateway(worker.url, other.url, sink=sink, **HOLD) as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body()))
        assert without_comments(answer.body) == good_body(stream=True)
        assert answer.whole
        assert len(worker.seen) == len(other.seen) == 1
        await gateway.told("ok", retries=1)


@pytest.mark.parametrize("code", [400, 503])
@pytest.mark.parametrize("form", ["event", "status"])
async def test_refusal_after_comments_is_an_error_event(
    code: int, form: str, sink: SinkName
) -> None:
    """The 200 has gone down, so the refusal is told in the stream; the worker is not to blame."""
    event = error_event(code, "no")

    async def refuse(exchange: Exchange) -> None:
        if form == "event":
            await exchange.chunks(event, DONE)
            await exchange.last_chunk()
        else:
            await exchange.whole(code, event.removeprefix(b"data: ").strip())

    script = after(1, refuse, head=form == "event")
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink, **HOLD) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        told = without_comments(answer.body)
        assert told.removesuffix(DONE) == event
        assert json.loads(told.removesuffix(DONE)[6:])["error"]["code"] == code
        if form == "status":
            assert not answer.whole
        await gateway.told("refused")


async def test_refusal_by_a_second_worker_after_comments_is_an_error_event(
    sink: SinkName,
) -> None:
    """The first worker was lost, the second refuses: its words are told in the stream."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.whole(400, b'{"error":{"message":"no","code":400}}')

    script = in_turn(after(1, lose), refuse)
    async with (
        scripted(script) as worker,
        scripted(script) as other,
        run_gateway(worker.url, other.url, sink=sink, **HOLD) as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body()))
        assert without_comments(answer.body) == b'data: {"error":{"message":"no","code":400}}\n\n'
        assert not answer.whole
        await gateway.told("refused", retries=1)


async def test_failure_after_comments_is_an_error_event(sink: SinkName) -> None:
    """No worker is left: the client is told, without a clean end."""
    script = after(1, lose)
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink, **HOLD) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.status == 200
        error = json.loads(without_comments(answer.body)[6:])["error"]
        assert error["code"] == "worker_failed"
        assert not answer.whole
        await gateway.told("worker_failed")


async def test_first_byte_timeout_after_comments_is_an_error_event(sink: SinkName) -> None:
    """Comments of our own do not keep a dead worker alive."""

    async def script(exchange: Exchange) -> None:
        await exchange.gone()

    changes = {**HOLD, "timeouts__first_byte": "350ms"}
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink, **changes) as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body()))
        error = json.loads(without_comments(answer.body)[6:])["error"]
        assert error["code"] == "worker_timeout"
        assert not answer.whole
        await gateway.told("timeout")


async def test_client_that_leaves_during_comments_frees_the_worker(sink: SinkName) -> None:
    """The same as in any other phase."""
    async with (
        scripted(after(1000, good)) as worker,
        run_gateway(worker.url, sink=sink, discovery_interval="1h", **HOLD) as gateway,
    ):
        async with dial(gateway.port) as client:
            await client.send(post(chat_body()))
            answer = await client.head()
            await client.events(answer, len(COMMENT))
        await until(lambda: gateway.gateway.connections.open == 0)
        await gateway.told("client_closed")

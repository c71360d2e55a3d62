"""Faults of a worker after some of its answer has gone down: the client is told, and never finds a
clean end.

`docs/faults.md`, the rows marked *after*.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway import SinkName, run_gateway
from tests.support.raw import RawAnswer, ask, chat_body, post
from tests.support.scripted import (
    DONE,
    ROLE,
    WHOLE,
    Exchange,
    chat_event,
    error_event,
    good,
    scripted,
    usage_event,
)

if TYPE_CHECKING:
    from tests.support.scripted import Script

BEGUN = (ROLE, chat_event("one"), chat_event(" two"))


def check_is_cut_stream(answer: RawAnswer, down: bytes, code: str) -> None:
    """`down` has come through, then one error event; the end is not clean."""
    assert answer.status == 200
    assert answer.body[: len(down)] == down
    event = answer.body[len(down) :]
    assert event[:6] == b"data: "
    assert event[-2:] == b"\n\n"
    assert event.count(b"\n") == 2
    error = json.loads(event[6:])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert not answer.whole


async def reset(exchange: Exchange) -> None:
    exchange.reset()


async def close(exchange: Exchange) -> None:
    exchange.close()


async def bad_chunk(exchange: Exchange) -> None:
    await exchange.send(b"what is this\r\n")
    await exchange.gone()


async def garbage(exchange: Exchange) -> None:
    await exchange.send(b"\x00\xff\x17\x03\x01 garbage \r\n\r\n")
    await exchange.gone()


async def huge_chunk_size(exchange: Exchange) -> None:
    await exchange.send(b"ffffffffffffffffff\r\n")
    await exchange.gone()


async def end_of_chunks(exchange: Exchange) -> None:
    await exchange.last_chunk()


async def close_in_chunk(exchange: Exchange) -> None:
    await exchange.send(b"ff\r\n")
    exchange.close()


FAULTS = [reset, close, bad_chunk, garbage, huge_chunk_size, end_of_chunks, close_in_chunk]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("asked", [False, True], ids=["usage hidden", "usage asked"])
async def test_stream_that_breaks_off_is_told_in_the_stream(
    fault: Script, asked: bool, sink: SinkName
) -> None:
    """What came is there, an error event follows, then the connection closes without a last
    chunk; no other worker is asked."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(*BEGUN)
        await fault(exchange)

    async with (
        scripted(script) as worker,
        scripted(script) as other,
        run_gateway(worker.url, other.url, sink=sink) as gateway,
    ):
        more: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
        answer = await ask(gateway.port, post(chat_body(**more)))
        check_is_cut_stream(answer, b"".join(BEGUN), "worker_failed")
        assert len(worker.seen) + len(other.seen) == 1
        await gateway.told("worker_failed")
        assert await gateway.tokens() == {"completion estimated": 2}


@pytest.mark.parametrize("fault", [reset, close, bad_chunk, end_of_chunks])
async def test_half_an_event_is_ended_before_the_error_event(fault: Script, sink: SinkName) -> None:
    """Where bytes go down as they come, the error event must not be glued to half an event."""
    half = chat_event("half of this never comes")[:40]

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(*BEGUN, half)
        await fault(exchange)

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        body = chat_body(stream_options={"include_usage": True})
        answer = await ask(gateway.port, post(body))
        check_is_cut_stream(answer, b"".join(BEGUN) + half + b"\n\n", "worker_failed")
        await gateway.told("worker_failed")


async def test_half_an_event_is_not_shown_where_only_whole_events_go_down(sink: SinkName) -> None:
    """Where usage is hidden, half an event is dropped and the error event told."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(*BEGUN, chat_event("half of this never comes")[:40])
        exchange.reset()

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        check_is_cut_stream(answer, b"".join(BEGUN), "worker_failed")
        await gateway.told("worker_failed")


async def test_usage_without_done_is_no_clean_end(sink: SinkName) -> None:
    """Only the surface's own terminal event ends a stream."""

    async def script(exchange: Exchange) -> None:
        await exchange.stream(*BEGUN, usage_event(5, 2))

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        check_is_cut_stream(answer, b"".join(BEGUN), "worker_failed")
        await gateway.told("worker_failed")


async def test_done_inside_of_a_token_is_no_end(sink: SinkName) -> None:
    """A model that writes `data: [DONE]` has not ended its stream."""
    begun = (ROLE, chat_event("data: [DONE]\n\n"))

    async def script(exchange: Exchange) -> None:
        await exchange.stream(*begun)

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        check_is_cut_stream(answer, b"".join(begun), "worker_failed")
        await gateway.told("worker_failed")


async def test_close_after_done_without_the_last_chunk_is_no_clean_end(sink: SinkName) -> None:
    """A reset between `[DONE]` and the last chunk loses nothing that the client needs: but it must
    not be told of a clean end that the worker never sent."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(*BEGUN, DONE)
        exchange.reset()

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.body.startswith(b"".join([*BEGUN, DONE]))
        assert not answer.whole
        await gateway.told("worker_failed")


@pytest.mark.parametrize("count", [1, 40])
async def test_idle_timeout_is_told_in_the_stream(count: int, sink: SinkName) -> None:
    """A worker that falls silent in mid-stream is given up after `timeouts.idle`."""
    words = [chat_event(f" {number}") for number in range(count)]

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(ROLE, *words)
        await exchange.gone()

    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink, timeouts__idle="200ms") as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body()))
        check_is_cut_stream(answer, b"".join([ROLE, *words]), "worker_timeout")
        await gateway.told("timeout")


async def test_error_event_later_is_passed_on_as_sent(sink: SinkName) -> None:
    """The worker tells the failure itself; its bytes are the client's, and it counts as failed."""
    events = [*BEGUN, error_event(500, "the engine died"), DONE]

    async def script(exchange: Exchange) -> None:
        await exchange.stream(*events)

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.status == 200
        assert answer.body == b"".join(events)
        assert answer.whole
        await gateway.told("worker_failed")


async def test_error_event_later_without_done_ends_as_the_worker_ended(sink: SinkName) -> None:
    """No `[DONE]` is made up."""
    events = [*BEGUN, error_event(500, "the engine died")]

    async def script(exchange: Exchange) -> None:
        await exchange.stream(*events)

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.body == b"".join(events)
        await gateway.told("worker_failed")


async def test_event_too_large_to_hold_back_fails_visibly(sink: SinkName) -> None:
    """Where a usage event must be hidden, an unfinished event is held up to its bound."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(*BEGUN, chat_event("x" * 20_000))
        await exchange.gone()

    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink, limits__max_event_bytes="8KiB") as gateway,
    ):
        begun = chat_event("x" * 20_000)[:-1]

        async def unfinished(exchange: Exchange) -> None:
            await exchange.head()
            await exchange.chunks(*BEGUN, begun)
            await exchange.gone()

        worker.script = unfinished
        answer = await ask(gateway.port, post(chat_body()))
        check_is_cut_stream(answer, b"".join(BEGUN), "worker_failed")
        await gateway.told("worker_failed")


# --- whole answers ---


@pytest.mark.parametrize("fault", [reset, close])
@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("asked", [True, False], ids=["asked for a stream", "asked for a whole"])
async def test_whole_answer_that_breaks_off_is_cut(
    fault: Script, status: int, asked: bool, sink: SinkName
) -> None:
    """The client finds fewer bytes than announced, and nothing that was not the worker's."""

    async def script(exchange: Exchange) -> None:
        head = (
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
            f"content-length: {len(WHOLE) + 1000}\r\n\r\n"
        )
        await exchange.send(head.encode() + WHOLE)
        await fault(exchange)

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body(stream=asked)))
        assert answer.status == status
        assert WHOLE.startswith(answer.body)
        assert not answer.whole
        await gateway.told("worker_failed")


@pytest.mark.parametrize("fault", [reset, close, bad_chunk, garbage])
async def test_chunked_whole_answer_that_breaks_off_is_cut(fault: Script, sink: SinkName) -> None:
    """The same without a length: there is no last chunk."""

    async def script(exchange: Exchange) -> None:
        await exchange.head(200, "application/json")
        await exchange.chunks(WHOLE)
        await fault(exchange)

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body(stream=False)))
        assert answer.body == WHOLE
        assert not answer.whole
        await gateway.told("worker_failed")


async def test_whole_answer_that_falls_silent_is_cut(sink: SinkName) -> None:
    """The idle timeout holds for whole answers too."""

    async def script(exchange: Exchange) -> None:
        await exchange.head(200, "application/json")
        await exchange.chunks(WHOLE)
        await exchange.gone()

    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink, timeouts__idle="200ms") as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body(stream=False)))
        assert answer.body == WHOLE
        assert not answer.whole
        await gateway.told("timeout")


async def test_next_request_is_served_after_a_cut_one(sink: SinkName) -> None:
    """A cut answer leaves no trace on the next."""

    async def script(exchange: Exchange) -> None:
        if len(worker.seen) > 1:
            await good(exchange)
            return
        await exchange.head()
        await exchange.chunks(*BEGUN)
        exchange.reset()

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        assert not (await ask(gateway.port, post(chat_body()))).whole
        assert (await ask(gateway.port, post(chat_body()))).whole
        await gateway.told("worker_failed", "ok")

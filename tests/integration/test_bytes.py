"""Bytes through the gateway are the worker's bytes, on real sockets and on both sinks.

A worker sends drawn streams, cut anywhere: between events, within them, within chunk headers and
between the two halves of a line end. What the client reads is what was sent, less the usage event
that it did not ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.gateway import RunningGateway, SinkName, run_gateway
from tests.support.scripted import (
    DONE,
    ROLE,
    Exchange,
    ScriptedWorker,
    answer_of,
    chat_event,
    scripted,
    usage_event,
)
from tests.unit.streams import Stream, cut, cut_points, streams

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

EXAMPLES = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Bench:
    """One worker, one gateway and one client connection, which live across examples."""

    def __init__(self, sink: SinkName, max_event_bytes: str = "8MiB") -> None:
        self._runner = asyncio.Runner()
        self._open = contextlib.AsyncExitStack()
        self._writes: Sequence[bytes] = ()
        try:
            self._runner.run(self._start(sink, max_event_bytes))
        except BaseException:
            self._runner.close()
            raise

    async def _start(self, sink: SinkName, max_event_bytes: str) -> None:
        self.worker: ScriptedWorker = await self._open.enter_async_context(scripted(self._answer))
        self.gateway: RunningGateway = await self._open.enter_async_context(
            run_gateway(
                self.worker.url,
                sink=sink,
                limits__max_event_bytes=max_event_bytes,
                # The worker's connections are counted: none by the clock.
                discovery_interval="1h",
                timeouts__worker_keep_alive="1h",
            )
        )
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self.gateway.port, limit=2**24
        )

    def close(self) -> None:
        """Close it all, and check that nothing was left behind."""

        async def close() -> None:
            self._writer.close()
            await self._writer.wait_closed()
            await self._open.aclose()

        with self._runner:
            self._runner.run(close())

    async def _answer(self, x: Exchange) -> None:
        await x.send(*self._writes)

    def relay(self, writes: Sequence[bytes], *, usage: bool) -> bytes:
        """Have the worker answer with `writes`, each a write of its own; give back the body that
        the client reads."""
        self._writes = writes
        return self._runner.run(in_time(self._relay(usage=usage)))

    async def _relay(self, *, usage: bool) -> bytes:
        body: dict[str, object] = {"model": "demo", "stream": True, "messages": []}
        if usage:
            body["stream_options"] = {"include_usage": True}
        text = json.dumps(body).encode()
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
        assert b"transfer-encoding: chunked" in head
        return await read_chunks(self._reader)


async def in_time(reading: Coroutine[None, None, bytes]) -> bytes:
    """A hang is a failure, not a wait for ever."""
    async with asyncio.timeout(20):
        return await reading


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body, strictly."""
    body = b""
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        chunk = await reader.readexactly(size + 2)
        assert chunk[-2:] == b"\r\n"
        if size == 0:
            return body
        body += chunk[:-2]


@pytest.fixture(scope="module", params=get_args(SinkName))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """One for all examples on one sink."""
    with contextlib.closing(Bench(request.param)) as running:
        yield running


def in_chunks(parts: Sequence[bytes]) -> bytes:
    """A chunked body, one chunk for each part that is not empty."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"


@given(stream=streams(), chunks=cut_points, writes=cut_points, usage=st.booleans())
@EXAMPLES
def test_bytes_are_the_workers_wherever_they_are_cut(
    bench: Bench,
    stream: Stream,
    chunks: list[int],
    writes: list[int],
    usage: bool,
) -> None:
    """Chunks are cut anywhere in the stream, and writes anywhere in the chunks: several chunks in
    one write, one chunk in several, and cuts within the chunk headers."""
    body = in_chunks(cut(stream.data, chunks))
    sent = [HEAD, *cut(body, writes)]
    assert bench.relay(sent, usage=usage) == (stream.data if usage else stream.shown)


@given(stream=streams(), writes=cut_points, usage=st.booleans())
@EXAMPLES
def test_an_event_a_chunk_is_relayed_as_it_is(
    bench: Bench,
    stream: Stream,
    writes: list[int],
    usage: bool,
) -> None:
    """vLLM's own way; the head may be cut, too, and may come along with the first events."""
    sent = cut(HEAD + in_chunks(stream.events), writes)
    assert bench.relay(sent, usage=usage) == (stream.data if usage else stream.shown)


@pytest.mark.parametrize("usage", [True, False])
def test_byte_by_byte(bench: Bench, usage: bool) -> None:
    """The most cuts there can be: each byte a chunk, and then each byte a write."""
    events = answer_of("one", " two", '"content":"three"')
    whole = b"".join(events)
    expected = whole if usage else b"".join((*events[:-2], events[-1]))
    each_byte = [whole[at : at + 1] for at in range(len(whole))]
    assert bench.relay([HEAD, in_chunks(each_byte)], usage=usage) == expected
    body = HEAD + in_chunks(events)
    assert bench.relay([body[at : at + 1] for at in range(len(body))], usage=usage) == expected


@pytest.mark.parametrize("usage", [True, False])
def test_all_at_once(bench: Bench, usage: bool) -> None:
    """The fewest: head, events and end in one write."""
    events = (ROLE, *[chat_event(f" word{n}") for n in range(500)], usage_event(5, 500), DONE)
    expected = b"".join(event for event in events if usage or event != events[-2])
    assert bench.relay([HEAD + in_chunks(events)], usage=usage) == expected


def test_after_a_pause_a_kept_worker_connection_can_be_read_again(bench: Bench) -> None:
    """An answer may end in the same read that fills the client's sink; the worker's connection is
    kept, and the next request on it must not find it paused for ever."""
    events = (ROLE, *[chat_event("x" * 20_000) for _ in range(10)], DONE)
    opened = bench.worker.connections
    for _ in range(3):
        assert bench.relay([HEAD + in_chunks(events)], usage=False) == b"".join(events)
    assert bench.worker.connections == opened


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_larger_than_any_buffer(bench: Bench, usage: bool) -> None:
    """Pauses and resumes lose nothing."""
    events = (ROLE, *[chat_event("x" * 20_000) for _ in range(200)], usage_event(), DONE)
    expected = b"".join(event for event in events if usage or event != events[-2])
    assert bench.relay([HEAD, in_chunks(events)], usage=usage) == expected


@pytest.mark.parametrize("sink", get_args(SinkName))
def test_an_event_larger_than_may_be_held_passes_where_nothing_is_hidden(sink: SinkName) -> None:
    """And the events after it are read as ever: the stream ends as it should."""
    events = (ROLE, chat_event("x" * 300_000), chat_event("b"), usage_event(), DONE)
    whole = b"".join(events)
    sent = [HEAD, *cut(in_chunks(events), [70_000, 300_300])]
    with contextlib.closing(Bench(sink, max_event_bytes="1KiB")) as running:
        assert running.relay(sent, usage=True) == whole


async def relay_cut(sink: SinkName, *sent: bytes, usage: bool) -> bytes:
    """What a client reads of an answer that the worker ends cleanly, but too early."""

    async def script(x: Exchange) -> None:
        await x.head()
        await x.chunks(*sent)
        await x.last_chunk()

    body = {"model": "demo", "stream": True, "messages": []}
    if usage:
        body["stream_options"] = {"include_usage": True}
    text = json.dumps(body).encode()
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(text), text)
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    _, _, chunked = answer.partition(b"\r\n\r\n")
    assert not chunked.endswith(b"0\r\n\r\n")  # no clean end
    whole = b""
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        whole, chunked = whole + chunked[: int(size, 16)], chunked[int(size, 16) + 2 :]
    return whole


@pytest.mark.parametrize("sink", get_args(SinkName))
@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("half", [9, chat_event("b").index(b'"content":"') + 11])
async def test_a_failure_in_mid_event_is_an_event_of_its_own(
    sink: SinkName,
    usage: bool,
    half: int,
) -> None:
    """Half an event has gone down, where nothing is hidden: it is ended before the error is told,
    or no client could read the error."""
    sent = (ROLE, chat_event("a"), chat_event("b")[:half])
    got = await relay_cut(sink, *sent, usage=usage)
    passed = b"".join(sent) + b"\n\n" if usage else b"".join(sent[:2])
    assert got.startswith(passed + b'data: {"error":')
    error = got.removeprefix(passed)
    assert error.endswith(b"\n\n")
    assert json.loads(error[6:])["error"]["code"] == "worker_failed"

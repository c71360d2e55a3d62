"""Every row of the surface table: what goes up, what comes down, and what is counted.

Written over `CASES`, so that a new row is tested as soon as it has a case, and fails the build
until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.api.surfaces import SURFACES
from gateway.routing.response_ids import tag_in, worker_tag
from tests.support.gateway import RunningGateway, SinkName, run_gateway
from tests.support.raw import CLIENT_KEY, RawClient, ask, dial
from tests.support.scripted import Exchange, ScriptedWorker, scripted
from tests.support.surfaces import CASES, FORMS, STREAMS, Case
from tests.unit.streams import cut, cut_points

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EXAMPLES = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """The test runs with each case of each row."""
    each: Case = request.param
    return each


def test_every_row_has_a_case() -> None:
    """A row that is added to the table is added here, or the build fails."""
    assert {case.surface for case in CASES} == set(SURFACES)


def test_every_format_that_streams_is_streamed_here() -> None:
    """Each way to read a stream has a case that is one."""
    assert {case.surface.format for case in STREAMS} == {row.format for row in SURFACES}
    assert {case.telling for case in CASES} == {"data", "event: error", "response.failed", "cut"}


def test_the_marked_token_events_are_those_that_carry_text() -> None:
    """The cases' own word for which events carry tokens, held to what stands in them."""
    for case in STREAMS:
        carrying = []
        for at, event in enumerate(case.parts):
            data = event.partition(b"data: ")[2]
            read = json.loads(data) if data.startswith(b"{") else {}
            choice = (read.get("choices") or [{}])[0]
            delta = choice.get("delta", read.get("delta", ""))
            text = delta if isinstance(delta, str) else delta.get("content") or delta.get("text")
            spoken = read.get("audio") if read.get("type") == "speech.audio.delta" else None
            if text or choice.get("text") or spoken:
                carrying.append(at)
        assert tuple(carrying) == case.tokens, case.name


# --- down ---


async def test_what_comes_down_is_the_workers_and_is_counted_once(
    case: Case, sink: SinkName
) -> None:
    """Status, headers and body are the worker's; one record says how it went, which tokens there
    were and when; and afterwards nothing is under way."""
    async with scripted(case.good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, case.request(worker.url), most_head_bytes=2**20)
        assert answer.status == 200
        assert answer.body == b"".join(case.shown)
        assert answer.whole
        assert answer.header("content-type") == case.answers
        for header in case.headers:
            name, _, value = header.partition(": ")
            assert answer.header(name) == value
        await gateway.told("ok")
        await check_is_counted(gateway, case, worker)


async def check_is_counted(gateway: RunningGateway, case: Case, worker: ScriptedWorker) -> None:
    """The figures of one whole answer, by the definitions of docs/figures.md."""
    model = "" if case.pinned else "demo"
    metrics = await gateway.metrics()
    labels = f'endpoint="{case.surface.endpoint}",model="{model}",outcome="ok"'
    assert {name: value for name, value in metrics.items() if "gateway_requests_total" in name} == {
        f'vllm_gateway_requests_total{{{labels},worker="{worker.url}"}}': 1
    }
    assert await gateway.tokens() == case.counted()
    sound = case.surface.audio and not case.streamed
    first = 0 if case.pinned else int(bool(case.tokens) or sound)
    gaps = max(0, len(case.tokens) - 1) * first
    counted = case.usage.completion_tokens if case.usage else 0
    assert samples_of(metrics) == {
        "time_to_first_token": first,
        "inter_token_latency": gaps,
        "time_per_output_token": int(bool(case.tokens) and counted >= 2 and not case.pinned),
    }
    spoken = {name: value for name, value in metrics.items() if "audio_bytes_total" in name}
    size = len(b"".join(case.parts))
    assert spoken == ({'vllm_gateway_audio_bytes_total{model="demo"}': size} if sound else {})
    assert metrics["vllm_gateway_requests_in_flight"] == 0
    assert metrics[f'vllm_gateway_worker_leases{{worker="{worker.url}"}}'] == 0
    (line,) = gateway.request_lines
    assert line["endpoint"] == case.surface.endpoint
    assert line["model"] == (model or "-")
    assert line["worker"] == worker.url
    assert line["status"] == 200


def samples_of(metrics: dict[str, float]) -> dict[str, float]:
    """How many samples the three fine histograms have."""
    return {
        name: metrics.get(f'vllm_gateway_{name}_seconds_count{{model="demo"}}', 0)
        for name in ("time_to_first_token", "inter_token_latency", "time_per_output_token")
    }


async def test_first_sound_goes_down_at_once(sink: SinkName) -> None:
    """A listener need not wait for the end: the first bytes come while the worker still speaks."""
    (case,) = (case for case in CASES if case.surface.audio and not case.streamed)
    heard = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(case.framed(case.parts[:1], whole=False))
        await heard.wait()
        await exchange.chunks(*case.parts[1:])
        await exchange.last_chunk()

    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(case.request())
        answer = await client.head()
        assert await client.events(answer, len(case.parts[0])) == case.parts[0]
        heard.set()
        assert (await client.rest(answer)).body == b"".join(case.parts)
        await gateway.told("ok")


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.name)
async def test_every_event_goes_down_at_once(case: Case, sink: SinkName) -> None:
    """A client has each event before the worker sends the next; only what is announced before the
    engine has answered waits for the first event that is an answer."""
    may_send = asyncio.Semaphore(0)

    async def script(exchange: Exchange) -> None:
        await exchange.send(case.framed((), whole=False))
        for event in case.parts:
            await may_send.acquire()
            await exchange.chunks(event)
        await exchange.last_chunk()

    preambles = [case.surface.format.read(event).preamble for event in case.parts]
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(case.request(worker.url))
        for _ in range(preambles.index(False) + 1):
            may_send.release()
        answer = await client.head()
        for at in range(preambles.index(False), len(case.parts)):
            seen = b"".join(x for x in case.shown if x in case.parts[: at + 1])
            assert await client.events(answer, len(seen)) == seen
            may_send.release()
        assert (await client.rest(answer)).whole
        assert answer.body == b"".join(case.shown)
        await gateway.told("ok")


@pytest.mark.parametrize("size", [10_000, 1_500_000, 6_000_000])
@pytest.mark.parametrize("name", ["v2/rerank", "v1/embeddings", "v2/embed", "v1/score"])
async def test_usage_of_a_large_answer_is_counted(name: str, size: int, sink: SinkName) -> None:
    """Wherever a surface writes it: first, or last. Few bytes of the answer are kept for it."""
    (small,) = (case for case in CASES if case.name == name)
    long_list = b'"data":[%b],' % b",".join([b"-0.14693358540534973"] * (size // 21))
    (answer,) = small.parts
    first, usage, rest = answer.rpartition(b'"meta"' if name == "v2/embed" else b'"usage"')
    parts = (first + (b"" if name == "v2/rerank" else long_list), usage + rest)
    if name == "v2/rerank":
        parts = (parts[0], usage + rest[:-1] + b"," + long_list[:-1] + b"}")
    case = replace(small, parts=parts)
    assert json.loads(b"".join(parts))
    async with scripted(case.good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        assert (await ask(gateway.port, case.request())).body == b"".join(parts)
        await gateway.told("ok")
        assert await gateway.tokens() == small.counted()


# --- up ---


async def test_what_goes_up_is_the_clients(case: Case, sink: SinkName) -> None:
    """Method, path, query and every byte of the body, but for what the gateway may say: it asks
    chat streams for usage, and names new responses. Keys of clients stay here."""
    headers = (
        f"Authorization: Bearer {CLIENT_KEY}",
        f"x-api-key: {CLIENT_KEY}",
        "anthropic-version: 2023-06-01",
    )
    async with scripted(case.good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        request = case.request(worker.url, *headers)
        assert (await ask(gateway.port, request, most_head_bytes=2**20)).whole
        (seen,) = worker.seen
        assert seen.line == f"{case.surface.method} {case.target(worker.url)} HTTP/1.1"
        assert seen.body == expected_body(case, seen.body, worker.url)
        assert seen.header("authorization") is None
        assert seen.header("x-api-key") is None
        assert seen.header("anthropic-version") == "2023-06-01"
        assert seen.header("host") == worker.url.removeprefix("http://")
        assert seen.header("accept-encoding") == "identity"
        assert seen.header("content-length") == str(len(seen.body))
        assert seen.header("transfer-encoding") is None
        if case.body:
            assert seen.header("content-type") == case.content_type
        assert CLIENT_KEY not in str(seen)


def expected_body(case: Case, body: bytes, worker_url: str) -> bytes:
    """The client's body, with what the design adds on this surface."""
    if case.surface.makes_response:
        made = json.loads(body)["request_id"]
        assert tag_in(made, b"") == worker_tag(worker_url)
        return case.body[:-1] + b',"request_id":"%b"}' % made.encode()
    if case.hidden is not None:
        # Built anew at the top level: each value is still the client's own.
        fields = json.loads(case.body)
        assert b'"unknown_field":{"a": [1.0, 2.50e0]}' in body
        assert json.loads(body) == {**fields, "stream_options": {"include_usage": True}}
        return body
    return case.body


@pytest.mark.parametrize("case", FORMS, ids=lambda case: case.name)
async def test_a_form_in_chunks_goes_up_in_chunks(case: Case, sink: SinkName) -> None:
    """A client that does not know the length yet: the same bytes, none of them in memory for
    longer than they need."""
    at = len(case.body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(x), x) for x in (case.body[:at], case.body[at:]))
    request = (
        f"POST {case.path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: {case.content_type}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()
    async with scripted(case.good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        assert (await ask(gateway.port, request + chunks + b"0\r\n\r\n")).whole
        (seen,) = worker.seen
        assert seen.body == case.body
        assert seen.header("transfer-encoding") == "chunked"
        assert seen.header("content-length") is None
        await gateway.told("ok")


# --- cut anywhere ---


class Bench:
    """One worker, one gateway and one client connection, which live across examples."""

    def __init__(self, case: Case, sink: SinkName) -> None:
        self._case = case
        self._runner = asyncio.Runner()
        self._open = contextlib.AsyncExitStack()
        self._writes: Sequence[bytes] = ()
        try:
            self._runner.run(self._start(sink))
        except BaseException:
            self._runner.close()
            raise

    async def _start(self, sink: SinkName) -> None:
        self._worker = await self._open.enter_async_context(scripted(self._answer))
        gateway = await self._open.enter_async_context(run_gateway(self._worker.url, sink=sink))
        self._client: RawClient = await self._open.enter_async_context(dial(gateway.port))

    def close(self) -> None:
        """Close it all, and check that nothing was left behind."""
        with self._runner:
            self._runner.run(self._open.aclose())

    async def _answer(self, exchange: Exchange) -> None:
        await exchange.send(*self._writes)

    def relay(self, writes: Sequence[bytes]) -> bytes:
        """What the client reads of an answer in these writes."""
        self._writes = writes
        return self._runner.run(self._relay())

    async def _relay(self) -> bytes:
        await self._client.send(self._case.request(self._worker.url))
        answer = await self._client.answer()
        assert answer.whole
        return answer.body


@pytest.fixture(
    scope="module",
    params=[(case, sink) for case in STREAMS for sink in get_args(SinkName)],
    ids=lambda pair: f"{pair[0].name}-{pair[1]}",
)
def bench(request: pytest.FixtureRequest) -> Iterator[tuple[Case, Bench]]:
    """One per stream and sink, for all examples."""
    case, sink = request.param
    with contextlib.closing(Bench(case, sink)) as running:
        yield case, running


@given(chunks=cut_points, writes=cut_points)
@EXAMPLES
def test_bytes_are_the_workers_wherever_they_are_cut(
    bench: tuple[Case, Bench], chunks: list[int], writes: list[int]
) -> None:
    """Chunks are cut anywhere in the stream, and writes anywhere in the chunks and the head."""
    case, running = bench
    parts = [part for part in cut(b"".join(case.parts), chunks) if part]
    assert running.relay(cut(case.framed(parts), writes)) == b"".join(case.shown)


@given(writes=cut_points, crlf=st.booleans())
@EXAMPLES
def test_an_event_a_chunk_is_relayed_as_it_is(
    bench: tuple[Case, Bench], writes: list[int], crlf: bool
) -> None:
    """vLLM's own way; and with the line ends of other servers."""
    case, running = bench
    parts, shown = case.parts, case.shown
    if crlf:
        parts, shown = (tuple(x.replace(b"\n", b"\r\n") for x in some) for some in (parts, shown))
    assert running.relay(cut(case.framed(parts), writes)) == b"".join(shown)


def test_byte_by_byte(bench: tuple[Case, Bench]) -> None:
    """The most cuts there can be: each byte of the answer a write."""
    case, running = bench
    answer = case.framed(case.parts)
    each_byte = [answer[at : at + 1] for at in range(len(answer))]
    assert running.relay(each_byte) == b"".join(case.shown)

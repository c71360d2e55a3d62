"""The rows of docs/faults.md on every surface: another worker, or the failure told in the surface's
own words; and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway import RunningGateway, SinkName, run_gateway, until
from tests.support.raw import RawAnswer, ask, dial
from tests.support.scripted import Exchange, Script, ScriptedWorker, in_turn, scripted
from tests.support.surfaces import CASES, FORMS, STREAMS, Case

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TWO_MODELS = b'{"object":"list","data":[{"id":"demo"},{"id":"other"}]}'
ONCE_ASKED: dict[str, Any] = {"discovery_interval": "1h"}
UNKEPT: dict[str, Any] = {"timeouts__worker_keep_alive": "0"}
"""Every request on a connection of its own: none can meet a stale one."""


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """The test runs with each case of each row."""
    each: Case = request.param
    return each


@contextlib.asynccontextmanager
async def workers_of(
    *scripts: Script, sink: SinkName, count: int = 0, **changes: Any
) -> AsyncIterator[tuple[RunningGateway, list[ScriptedWorker]]]:
    """A gateway over as many workers as there are scripts, or over `count`; whichever worker is
    asked first runs the first script, and so on. They serve two models, so that a form is read up
    to its model, and kept."""
    script = in_turn(*scripts)
    async with contextlib.AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(scripted(script, models=TWO_MODELS))
            for _ in range(count or len(scripts))
        ]
        urls = [worker.url for worker in workers]
        yield await stack.enter_async_context(run_gateway(*urls, sink=sink, **changes)), workers


def check_is_good(answer: RawAnswer, case: Case) -> None:
    """The worker's whole answer has come."""
    assert answer.status == 200
    assert answer.body == b"".join(case.shown)
    assert answer.whole


def check_is_error(answer: RawAnswer, case: Case, status: int, code: str, type_: str) -> None:
    """An error of the gateway's own, in the surface's shape; `type_` is Anthropic's."""
    assert answer.status == status
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-request-id")
    assert answer.whole
    told = json.loads(answer.body)
    if case.anthropic:
        assert set(told) == {"type", "error"}
        assert told["type"] == "error"
        assert set(told["error"]) == {"type", "message"}
        assert told["error"]["type"] == type_
    else:
        assert set(told) == {"error"}
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert told["error"]["code"] == code


def asked(*workers: ScriptedWorker) -> int:
    """Requests that reached these workers."""
    return sum(len(worker.seen) for worker in workers)


# --- before the answer ---


async def reset(exchange: Exchange) -> None:
    exchange.reset()


async def close_after_head(exchange: Exchange) -> None:
    await exchange.head(200, "application/json")
    exchange.close()


async def malformed(exchange: Exchange) -> None:
    await exchange.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    await exchange.gone()


LOST = [reset, close_after_head, malformed]


async def test_lost_before_the_answer_is_made_up_for_by_another_worker(
    case: Case, sink: SinkName
) -> None:
    """However it is lost, the client notices nothing; where one worker alone can answer, it is
    told."""
    scripts = [script for fault in LOST for script in (fault, case.good)]
    if case.pinned:
        scripts = list(LOST)
    async with workers_of(*scripts, sink=sink, count=2, **UNKEPT) as (gateway, workers):
        for _ in LOST:
            request = case.request(workers[0].url)
            answer = await ask(gateway.port, request, most_head_bytes=2**20)
            if case.pinned:
                check_is_error(answer, case, 502, "worker_failed", "api_error")
            else:
                check_is_good(answer, case)
        if case.pinned:
            assert [len(worker.seen) for worker in workers] == [3, 0]
            await gateway.told(*["worker_failed"] * 3)
            return
        assert [len(worker.seen) for worker in workers] == [3, 3]
        for seen in (seen for worker in workers for seen in worker.seen):
            assert seen.line == workers[0].seen[0].line
            assert without_request_id(seen.body) == without_request_id(workers[0].seen[0].body)
        await gateway.told(*["ok"] * 3, retries=3)


def without_request_id(body: bytes) -> bytes:
    """All but the name of a new response, which says where it lives."""
    return body.partition(b',"request_id":"resp_')[0]


async def test_what_fails_two_workers_is_not_sent_to_a_third(case: Case, sink: SinkName) -> None:
    """It may be what kills them."""
    async with workers_of(reset, reset, case.good, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, case.request(workers[0].url))
        check_is_error(answer, case, 502, "worker_failed", "api_error")
        assert asked(*workers) == (1 if case.pinned else 2)
        await gateway.told("worker_failed", retries=0 if case.pinned else 1)


BUSY = b'{"error":{"message":"engine is full","type":"ServiceUnavailable","code":503}}'


async def test_busy_worker_is_made_up_for_by_another(case: Case, sink: SinkName) -> None:
    """Where one alone can answer, its own refusal is the answer, `Retry-After` and all."""

    def busy(status: int) -> Script:
        async def script(exchange: Exchange) -> None:
            await exchange.whole(status, BUSY, "retry-after: 7")

        return script

    scripts = [busy(429), busy(503)]
    if not case.pinned:
        scripts = [busy(429), case.good, busy(503), case.good]
    async with workers_of(*scripts, sink=sink, count=2) as (gateway, workers):
        for status in (429, 503):
            request = case.request(workers[0].url)
            answer = await ask(gateway.port, request, most_head_bytes=2**20)
            if case.pinned:
                assert (answer.status, answer.body) == (status, BUSY)
                assert answer.header("retry-after") == "7"
            else:
                check_is_good(answer, case)
        if case.pinned:
            await gateway.told("refused", "refused")
        else:
            await gateway.told("ok", "ok", retries=2)


async def test_all_workers_busy_gives_the_workers_own_answer(case: Case, sink: SinkName) -> None:
    """The last word is a worker's."""

    async def busy(exchange: Exchange) -> None:
        await exchange.whole(503, BUSY, "retry-after: 7")

    async with workers_of(busy, busy, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, case.request(workers[0].url))
        assert (answer.status, answer.body) == (503, BUSY)
        assert answer.header("retry-after") == "7"
        await gateway.told("refused", retries=0 if case.pinned else 1)


async def test_a_workers_own_error_is_passed_on_untouched(case: Case, sink: SinkName) -> None:
    """No other worker is asked: it would say the same, or the request may be what broke it."""
    body = b'{"type" : "error", "error":{"type":"BadRequestError","message":"no\\u00e9 "}}\n'

    def refuse(status: int) -> Script:
        async def script(exchange: Exchange) -> None:
            await exchange.whole(status, body, "x-from: worker")

        return script

    async with workers_of(refuse(400), refuse(500), sink=sink) as (gateway, workers):
        for number, status in enumerate((400, 500), 1):
            answer = await ask(gateway.port, case.request(workers[0].url))
            assert (answer.status, answer.body, answer.whole) == (status, body, True)
            assert answer.header("x-from") == "worker"
            assert asked(*workers) == number
        await gateway.told("refused", "worker_failed")
        assert await gateway.tokens() == {}


@pytest.mark.parametrize("case", FORMS, ids=lambda case: case.name)
async def test_a_form_that_was_passed_on_as_it_came_is_not_sent_twice(
    case: Case, sink: SinkName
) -> None:
    """With one model there is nothing to wait for, so nothing is kept: a loss is told."""
    script = in_turn(reset, case.good)
    async with (
        scripted(script) as worker,
        scripted(script) as other,
        run_gateway(worker.url, other.url, sink=sink) as gateway,
    ):
        answer = await ask(gateway.port, case.request())
        check_is_error(answer, case, 502, "worker_failed", "api_error")
        assert asked(worker, other) == 1
        await gateway.told("worker_failed")


REFUSED = b'{"message":"too long","type":"BadRequestError","param":"x","code":400}'


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.name)
async def test_an_error_that_comes_first_is_a_status(case: Case, sink: SinkName) -> None:
    """The engine refuses after the worker's 200: the client still finds a status, and the worker's
    own words as its body. What was announced before is not told."""
    body = b'{"error":%b}' % REFUSED
    event = b"data: %b\n\n" % body
    if case.anthropic:
        body = b'{"type":"error","error":{"type":"invalid_request_error","message":"too long"}}'
        event = b"event: error\ndata: %b\n\n" % body
    preambles = [case.surface.format.read(part).preamble for part in case.parts]
    announced = case.parts[: preambles.index(False)]

    async def refuse(exchange: Exchange) -> None:
        await exchange.send(case.framed((*announced, event)))

    async with workers_of(refuse, case.good, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, case.request(workers[0].url))
        assert (answer.status, answer.body, answer.whole) == (400, body, True)
        assert answer.header("content-type") == "application/json"
        assert asked(*workers) == 1
        await gateway.told("refused")


@pytest.mark.parametrize(
    ("message", "status", "outcome"),
    [
        ("Field required [input_value={'error': {'param': None, 'code': 400}}]", 400, "refused"),
        ("the engine died", 500, "worker_failed"),
    ],
)
async def test_a_refused_message_of_vllms_has_the_status_that_it_quotes(
    message: str, status: int, outcome: str, sink: SinkName
) -> None:
    """vLLM 0.32 calls each late refusal of a message `internal_error`, and quotes the chat error
    that it could not translate; where it quotes none, it is the worker's failure."""
    (case,) = (case for case in STREAMS if case.anthropic)
    told = {"type": "error", "error": {"type": "internal_error", "message": message}}
    body = json.dumps(told).encode()

    async def refuse(exchange: Exchange) -> None:
        await exchange.send(case.framed((b"event: error\ndata: %b\n\n" % body,)))

    async with workers_of(refuse, case.good, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, case.request())
        assert (answer.status, answer.body) == (status, body)
        assert asked(*workers) == 1
        await gateway.told(outcome)


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.name)
async def test_an_error_event_later_is_passed_on(case: Case, sink: SinkName) -> None:
    """The worker tells the failure itself, and closes cleanly: its bytes are the client's."""
    error = b'data: {"error":%b}\n\n' % REFUSED
    if case.telling != "data":
        error = b'event: error\ndata: {"type":"error","error":{"type":"api_error"}}\n\n'
    parts = (*case.begun, error)

    async def fail(exchange: Exchange) -> None:
        await exchange.send(case.framed(parts))

    async with workers_of(fail, case.good, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, case.request(workers[0].url))
        assert (answer.status, answer.body, answer.whole) == (200, b"".join(parts), True)
        assert asked(*workers) == 1
        await check_is_counted_cut(gateway, case, "worker_failed")


# --- after it has begun ---


async def close(exchange: Exchange) -> None:
    exchange.close()


async def bad_chunk(exchange: Exchange) -> None:
    await exchange.send(b"what is this\r\n")
    await exchange.gone()


async def end_of_chunks(exchange: Exchange) -> None:
    await exchange.last_chunk()


def check_is_broken(answer: RawAnswer, case: Case, begun: bytes, code: str) -> None:
    """What came is there; then the failure, in the surface's own words; and no clean end."""
    assert answer.status == 200
    assert not answer.whole
    assert answer.body[: len(begun)] == begun
    event = answer.body[len(begun) :]
    if case.telling == "cut":
        assert event == b""
        return
    assert event.endswith(b"}\n\n")
    *name, data = event.removesuffix(b"\n\n").split(b"\n")
    assert data.startswith(b"data: {")
    told = json.loads(data.removeprefix(b"data: "))
    if case.telling == "data":
        assert name == []
        assert set(told) == {"error"}
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert told["error"]["code"] == code
    elif case.telling == "event: error":
        assert name == [b"event: error"]
        assert set(told) == {"type", "error"}
        assert set(told["error"]) == {"type", "message"}
        assert told["error"]["type"] == {"worker_timeout": "timeout_error"}.get(code, "api_error")
    else:
        assert name == [b"event: response.failed"]
        announced = json.loads(case.parts[0].partition(b"data: ")[2])["response"]
        message = told["response"]["error"]["message"]
        assert told == {
            "response": {
                **announced,
                "status": "failed",
                "error": {"code": "server_error", "message": message},
            },
            "sequence_number": len(case.begun),
            "type": "response.failed",
        }


def begins(case: Case, then: Script) -> Script:
    """Sends the answer as far as it has `begun`, in one write; then something else."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(case.framed(case.begun, whole=False))
        await then(exchange)

    return script


async def check_is_counted_cut(gateway: RunningGateway, case: Case, outcome: str) -> None:
    """One record, with the tokens that were relayed."""
    await gateway.told(outcome)
    assert await gateway.tokens() == case.counted_when_cut()
    metrics = await gateway.metrics()
    first = metrics.get('vllm_gateway_time_to_first_token_seconds_count{model="demo"}', 0)
    sound = case.surface.audio and not case.streamed
    assert first == (0 if case.pinned else int(sound or bool(case.tokens)))
    spoken = metrics.get('vllm_gateway_audio_bytes_total{model="demo"}', 0)
    assert spoken == (len(case.begun[0]) if sound else 0)


BROKEN = [(case, fault) for case in CASES for fault in (reset, close)] + [
    (case, bad_chunk) for case in CASES if case.chunked
]


@pytest.mark.parametrize(
    ("case", "fault"), BROKEN, ids=[f"{case.name}-{fault.__name__}" for case, fault in BROKEN]
)
async def test_an_answer_that_breaks_off_is_told(case: Case, fault: Script, sink: SinkName) -> None:
    """Whatever has begun is never begun again, and never seems whole."""
    script = begins(case, fault)
    async with workers_of(script, script, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, case.request(workers[0].url), most_head_bytes=2**20)
        check_is_broken(answer, case, b"".join(case.begun), "worker_failed")
        assert asked(*workers) == 1
        await check_is_counted_cut(gateway, case, "worker_failed")


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.name)
async def test_a_stream_without_its_terminal_event_is_told(case: Case, sink: SinkName) -> None:
    """A clean end of the body alone ends no stream."""
    script = begins(case, end_of_chunks)
    async with workers_of(script, script, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, case.request(workers[0].url))
        check_is_broken(answer, case, b"".join(case.begun), "worker_failed")
        assert asked(*workers) == 1
        await check_is_counted_cut(gateway, case, "worker_failed")


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.name)
async def test_all_but_the_terminal_event_is_no_whole_stream(case: Case, sink: SinkName) -> None:
    """Not even the usage event makes it one; what it says is counted."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(case.framed(case.parts[:-1]))

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, case.request(worker.url))
        assert answer.body.startswith(b"".join(case.shown[:-1]))
        assert not answer.whole
        await gateway.told("worker_failed")
        if case.surface.format.read(case.parts[-1]).usage is None:
            assert await gateway.tokens() == case.counted()


async def test_an_answer_that_falls_silent_is_told(case: Case, sink: SinkName) -> None:
    """After `timeouts.idle`."""
    script = begins(case, Exchange.gone)
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink, timeouts__idle="50ms") as gateway,
    ):
        answer = await ask(gateway.port, case.request(worker.url), most_head_bytes=2**20)
        check_is_broken(answer, case, b"".join(case.begun), "worker_timeout")
        await check_is_counted_cut(gateway, case, "timeout")


@pytest.mark.parametrize(
    "case",
    [case for case in STREAMS if case.telling == "response.failed"],
    ids=lambda case: case.name,
)
@pytest.mark.parametrize("size", [30, 70, 125], ids=["in its head", "in its data", "near its end"])
async def test_a_failure_in_mid_event_goes_on_from_the_last_whole_one(
    case: Case, size: int, sink: SinkName
) -> None:
    """Half an event has gone down, in reads of its own: the number that follows is still the
    next, and the response the one that was announced, comments or not."""
    half = case.parts[len(case.begun)][:size]
    comment = b": ping\n\n"

    async def script(exchange: Exchange) -> None:
        await exchange.send(case.framed((comment, *case.begun, comment), whole=False))
        await until(arrived.is_set)
        await exchange.chunks(half)
        exchange.close()

    arrived = asyncio.Event()
    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(case.request(worker.url))
        answer = await client.head()
        begun = comment + b"".join(case.begun) + comment
        assert await client.events(answer, len(begun)) == begun
        arrived.set()
        await client.rest(answer)
        check_is_broken(answer, case, begun + half + b"\n\n", "worker_failed")
        await gateway.told("worker_failed")


# --- the client leaves ---


async def test_a_client_that_leaves_in_prefill_frees_the_worker(case: Case, sink: SinkName) -> None:
    """The worker's connection is closed at once, and the worker is not to blame."""
    freed = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.gone()
        freed.set()

    async with (
        scripted(script) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port) as client,
    ):
        await client.send(case.request(worker.url))
        await until(lambda: len(worker.seen) == 1)
        client.close()
        async with asyncio.timeout(5):
            await freed.wait()
        await gateway.told("client_closed")
        assert await gateway.tokens() == {}


async def test_a_client_that_leaves_in_mid_answer_frees_the_worker(
    case: Case, sink: SinkName
) -> None:
    """What it has received is counted."""
    freed = asyncio.Event()

    async def then(exchange: Exchange) -> None:
        await exchange.gone()
        freed.set()

    async with (
        scripted(begins(case, then)) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
        dial(gateway.port, most_head_bytes=2**20) as client,
    ):
        await client.send(case.request(worker.url))
        answer = await client.head()
        if answer.header("transfer-encoding") == "chunked":
            await client.events(answer, len(b"".join(case.begun)))
        client.close()
        async with asyncio.timeout(5):
            await freed.wait()
        await check_is_counted_cut(gateway, case, "client_closed")


@pytest.mark.parametrize("case", FORMS, ids=lambda case: case.name)
async def test_a_client_that_leaves_in_mid_upload_frees_the_worker(
    case: Case, sink: SinkName
) -> None:
    """Half a form has been passed on: the worker sees its connection closed, and no request."""
    async with (
        scripted(case.good) as worker,
        run_gateway(worker.url, sink=sink, **ONCE_ASKED) as gateway,
        dial(gateway.port) as client,
    ):
        await until(lambda: worker.open == 0)  # its models have been asked for
        await client.send(case.request()[:-50])
        await until(lambda: worker.open == 1)
        client.close()
        await until(lambda: worker.open == 0)
        assert worker.seen == []
        await gateway.told("client_closed")

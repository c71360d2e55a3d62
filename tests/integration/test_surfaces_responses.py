"""Responses live in the worker that made them: their ids say where, and whose they are."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.routing.response_ids import make_id, tag_in, worker_tag
from tests.support.gateway import RunningGateway, SinkName, run_gateway, until
from tests.support.raw import CLIENT_KEY, PROMPT, RawAnswer, ask, dial
from tests.support.samples import compact, response, response_events
from tests.support.scripted import Exchange, Script, ScriptedWorker, in_turn, scripted
from tests.support.surfaces import EVENTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OTHER_KEY = "sk-somebody-else"
OWNER = hashlib.sha256(CLIENT_KEY.encode()).digest()
KEYS: dict[str, Any] = {"api_keys": f"{CLIENT_KEY},{OTHER_KEY}"}


def create(*headers: str, **fields: object) -> bytes:
    """A whole request for a new response."""
    return sent("POST", "/v1/responses", *headers, body=body_of(**fields))


def body_of(**fields: object) -> bytes:
    """Its body."""
    return json.dumps({"model": "demo", "input": PROMPT, **fields}).encode()


def sent(method: str, target: str, *headers: str, body: bytes = b"") -> bytes:
    """A whole request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def key(value: str) -> str:
    """The header of a key."""
    return f"Authorization: Bearer {value}"


async def keeps(exchange: Exchange) -> None:
    """A worker with a store that has everything: what it makes is named as it was told."""
    seen = exchange.request
    method, target, _ = seen.line.split(" ")
    path, _, query = target.partition("?")
    if method == "POST" and path == "/v1/responses":
        asked = json.loads(seen.body)
        id_, streamed = asked["request_id"], asked.get("stream", False)
    else:
        id_, streamed = path.split("/")[3], query == "stream=true"
    if streamed:
        await exchange.send(stream_head())
        await exchange.chunks(*response_events(id_))
        await exchange.last_chunk()
    else:
        status = "cancelled" if path.endswith("/cancel") else "completed"
        await exchange.whole(200, compact(response(id_, status)))


def stream_head() -> bytes:
    """Head of a stream."""
    return (
        f"HTTP/1.1 200 OK\r\ncontent-type: {EVENTS}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    )


@contextlib.asynccontextmanager
async def fleet(
    *scripts: Script, sink: SinkName, **changes: Any
) -> AsyncIterator[tuple[RunningGateway, list[ScriptedWorker]]]:
    """A gateway over five workers that keep responses, or over one per script."""
    async with contextlib.AsyncExitStack() as stack:
        each = scripts or [keeps] * 5
        workers = [await stack.enter_async_context(scripted(script)) for script in each]
        urls = [worker.url for worker in workers]
        yield await stack.enter_async_context(run_gateway(*urls, sink=sink, **changes)), workers


def id_in(answer: RawAnswer) -> str:
    """The id of the response that has been told."""
    assert answer.status == 200
    text = answer.body
    if answer.header("content-type") == EVENTS:
        text = text.partition(b"data: ")[2].partition(b"\n\n")[0]
    told = json.loads(text)
    found: str = told.get("response", told)["id"]
    return found


def maker_of(id_: str, workers: list[ScriptedWorker], owner: bytes = b"") -> ScriptedWorker:
    """The worker that an id names."""
    (maker,) = (worker for worker in workers if worker_tag(worker.url) == tag_in(id_, owner))
    return maker


def lines(workers: list[ScriptedWorker]) -> list[list[str]]:
    """What each worker has been asked for since it was last looked at."""
    found = [[seen.line.removesuffix(" HTTP/1.1") for seen in worker.seen] for worker in workers]
    for worker in workers:
        worker.seen.clear()
    return found


def check_is_unknown(answer: RawAnswer, id_: str, param: str) -> None:
    """404 in vLLM's own words, near enough."""
    assert answer.status == 404
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["code"] == "not_found"
    assert answer.error["param"] == param
    assert f"'{id_[:100]}' not found" in answer.error["message"]


# --- where they live ---


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_response_is_found_where_it_was_made(streamed: bool, sink: SinkName) -> None:
    """Of five workers, the one that made it is asked for it, and no other: to tell it, to stream
    it, to cancel it, and to go on from it."""
    async with fleet(sink=sink) as (gateway, workers):
        made = []
        for _ in range(10):
            answer = await ask(gateway.port, create(stream=streamed))
            (maker,) = (worker for worker in workers if worker.seen)
            assert id_in(answer) == json.loads(maker.seen[0].body)["request_id"]
            assert maker_of(id_in(answer), workers) is maker
            made.append((id_in(answer), maker))
            lines(workers)
        assert {worker.url for _, worker in made} == {worker.url for worker in workers}
        assert len({id_ for id_, _ in made}) == 10
        for id_, maker in made:
            path = f"/v1/responses/{id_}"
            requests = [
                ("GET", path, b""),
                ("GET", f"{path}?stream=true", b""),
                ("GET", f"{path}?include=a&starting_after=3", b""),
                ("POST", f"{path}/cancel", b""),
                ("POST", "/v1/responses", body_of(previous_response_id=id_)),
            ]
            for method, target, body in requests:
                answer = await ask(gateway.port, sent(method, target, body=body))
                assert answer.whole
                if not body:
                    assert id_in(answer) == id_
                expected = [[f"{method} {target}"] if each is maker else [] for each in workers]
                assert lines(workers) == expected
        await gateway.told(*["ok"] * 60)


async def test_any_gateway_over_the_same_workers_finds_it(sink: SinkName) -> None:
    """Nothing is shared but the settings."""
    async with fleet(sink=sink) as (first, workers):
        urls = [worker.url for worker in workers]
        async with run_gateway(*reversed(urls), sink=sink) as second:
            id_ = id_in(await ask(first.port, create()))
            assert id_in(await ask(second.port, sent("GET", f"/v1/responses/{id_}"))) == id_
            assert sorted(len(worker.seen) for worker in workers) == [0, 0, 0, 0, 2]


async def test_going_on_from_one_leaves_the_rest_of_the_request_alone(sink: SinkName) -> None:
    """The id that came is the id that goes up, beside a new one for the new response."""
    async with fleet(sink=sink) as (gateway, workers):
        earlier = id_in(await ask(gateway.port, create()))
        body = body_of(previous_response_id=earlier, x=[1.0])
        maker = maker_of(earlier, workers)
        lines(workers)
        later = id_in(await ask(gateway.port, sent("POST", "/v1/responses", body=body)))
        (seen,) = maker.seen
        assert seen.body == body[:-1] + b',"request_id":"%b"}' % later.encode()
        assert maker_of(later, workers) is maker


async def test_a_streamed_retrieval_is_live(sink: SinkName) -> None:
    """Each event is there before the next is sent."""
    may_send = asyncio.Semaphore(0)
    id_ = ""

    async def script(exchange: Exchange) -> None:
        await exchange.send(stream_head())
        for event in response_events(id_):
            await may_send.acquire()
            await exchange.chunks(event)
        await exchange.last_chunk()

    async with (
        fleet(script, sink=sink) as (gateway, (worker,)),
        dial(gateway.port) as client,
    ):
        id_ = make_id(1, worker.url, b"")
        events = response_events(id_)
        await client.send(sent("GET", f"/v1/responses/{id_}?stream=true&starting_after=-1"))
        for _ in range(3):
            may_send.release()
        answer = await client.head()
        for at in range(2, len(events)):
            size = sum(len(event) for event in events[: at + 1])
            assert len(await client.events(answer, size)) == size
            may_send.release()
        assert (await client.rest(answer)).body == b"".join(events)


# --- whose they are ---


async def test_another_key_finds_nothing(sink: SinkName) -> None:
    """404, as if it had never been; nobody is asked."""
    async with fleet(sink=sink, **KEYS) as (gateway, workers):
        id_ = id_in(await ask(gateway.port, create(key(CLIENT_KEY))))
        assert tag_in(id_, OWNER) is not None
        lines(workers)
        other = key(OTHER_KEY)
        path = f"/v1/responses/{id_}"
        for request in (sent("GET", path, other), sent("POST", f"{path}/cancel", other)):
            check_is_unknown(await ask(gateway.port, request), id_, "response_id")
        answer = await ask(gateway.port, create(other, previous_response_id=id_))
        check_is_unknown(answer, id_, "previous_response_id")
        assert lines(workers) == [[]] * 5
        assert id_in(await ask(gateway.port, sent("GET", path, key(CLIENT_KEY)))) == id_
        assert id_in(await ask(gateway.port, sent("GET", path, f"x-api-key: {CLIENT_KEY}"))) == id_
        await gateway.told("ok", "invalid", "invalid", "invalid", "ok", "ok")


async def test_made_up_ids_find_nothing(sink: SinkName) -> None:
    """Not with a worker's tag in them, nor with another's code, nor vLLM's own ids."""
    async with fleet(sink=sink, **KEYS) as (gateway, workers):
        real = id_in(await ask(gateway.port, create(key(CLIENT_KEY))))
        maker = maker_of(real, workers, OWNER)
        (other, *_) = (worker for worker in workers if worker is not maker)
        lines(workers)
        made_up = [
            "resp_0123456789abcdef",
            "mine-1",
            "x",
            real[:-1],
            real + "0",
            real.upper(),
            real.replace("resp_", "RESP_"),
            real[:-1] + ("0" if real[-1] != "0" else "1"),
            real.replace(worker_tag(maker.url), worker_tag(other.url)),
            make_id(1, maker.url, b""),
            make_id(1, maker.url, hashlib.sha256(OTHER_KEY.encode()).digest()),
            "-" * 128,
        ]
        mine = key(CLIENT_KEY)
        for id_ in made_up:
            for request in (
                sent("GET", f"/v1/responses/{id_}", mine),
                sent("GET", f"/v1/responses/{id_}?stream=true", mine),
                sent("POST", f"/v1/responses/{id_}/cancel", mine),
            ):
                check_is_unknown(await ask(gateway.port, request), id_, "response_id")
        for id_ in [*made_up, "resp/../x", "é", "\n", "x" * 5000]:
            answer = await ask(gateway.port, create(mine, previous_response_id=id_))
            check_is_unknown(answer, id_, "previous_response_id")
        assert lines(workers) == [[]] * 5


@pytest.mark.parametrize("value", [7, ["x"], {"id": "x"}, True])
async def test_a_previous_response_that_is_no_string_is_refused(
    value: object, sink: SinkName
) -> None:
    """400, with the field."""
    async with fleet(keeps, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, create(previous_response_id=value))
        assert answer.status == 400
        assert answer.error["param"] == "previous_response_id"
        assert lines(workers) == [[]]


@pytest.mark.parametrize("value", [None, ""])
async def test_no_previous_response_is_none(value: object, sink: SinkName) -> None:
    """SDKs write fields that have nothing to say."""
    async with fleet(keeps, sink=sink) as (gateway, workers):
        assert (await ask(gateway.port, create(previous_response_id=value))).status == 200
        assert lines(workers) == [["POST /v1/responses"]]


# --- names ---


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"demo","request_id":"mine-1","input":"x"}',
        b'{"request_id":null,"model":"demo","input":"x"}',
        b'{"model":"demo","input":"x","request\\u005fid":"mine-1"}',
        b' {"model" : "demo", "input": "x" , "request_id" : {"a": [1]} } \r\n\t',
        b'{"model":"demo","input":"x"}\n',
    ],
)
async def test_a_client_does_not_name_its_response(body: bytes, sink: SinkName) -> None:
    """Two clients that choose one name would overwrite each other's (vLLM does so silently), so
    the gateway's name takes the place of theirs, and stands once."""
    async with fleet(keeps, sink=sink) as (gateway, (worker,)):
        answer = await ask(gateway.port, sent("POST", "/v1/responses", body=body))
        (seen,) = worker.seen
        pairs = json.loads(seen.body, object_pairs_hook=list)
        assert [name for name, _ in pairs] == ["model", "input", "request_id"]
        assert dict(pairs) == {"model": "demo", "input": "x", "request_id": id_in(answer)}
        assert tag_in(id_in(answer), b"") == worker_tag(worker.url)


async def test_a_second_request_id_is_refused(sink: SinkName) -> None:
    """Neither of the two is it."""
    body = b'{"model":"demo","input":"x","request_id":"a","request_id":"b"}'
    async with fleet(keeps, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, sent("POST", "/v1/responses", body=body))
        assert (answer.status, answer.error["param"]) == (400, "request_id")
        assert lines(workers) == [[]]


async def reset(exchange: Exchange) -> None:
    exchange.reset()


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_made_by_another_worker_it_is_named_after_that_one(
    streamed: bool, sink: SinkName
) -> None:
    """The worker that failed was told a name of its own; the answer's leads to who answered."""
    script = in_turn(reset, keeps)
    async with fleet(script, script, sink=sink) as (gateway, workers):
        id_ = id_in(await ask(gateway.port, create(stream=streamed)))
        told = [json.loads(worker.seen[0].body)["request_id"] for worker in workers]
        assert [tag_in(each, b"") for each in told] == [worker_tag(each.url) for each in workers]
        assert id_ in told
        maker = maker_of(id_, workers)
        lines(workers)
        assert id_in(await ask(gateway.port, sent("GET", f"/v1/responses/{id_}"))) == id_
        assert len(maker.seen) == 1
        await gateway.told("ok", "ok", retries=1)


# --- when its worker is not there ---


async def test_a_worker_that_left_the_settings_took_its_responses_along(sink: SinkName) -> None:
    """404: nobody has them any more."""
    id_ = make_id(1, "http://127.0.0.1:9", b"")
    async with fleet(sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, sent("GET", f"/v1/responses/{id_}"))
        check_is_unknown(answer, id_, "response_id")
        answer = await ask(gateway.port, create(previous_response_id=id_))
        check_is_unknown(answer, id_, "previous_response_id")
        assert lines(workers) == [[]] * 5
        await gateway.told("invalid", "invalid")


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "not noticed yet"])
async def test_a_worker_that_is_away_may_come_back(noticed: bool, sink: SinkName) -> None:
    """503 and `Retry-After`, not 404; and nobody else is asked, nor for what goes on from it."""
    changes: dict[str, Any] = {} if noticed else {"discovery_interval": "1h"}
    async with fleet(keeps, keeps, sink=sink, **changes) as (gateway, workers):
        worker = workers[0]
        worker.kill()
        known = gateway.gateway.registry.workers[0]
        if noticed:
            await until(lambda: not known.reachable)
        id_ = make_id(1, worker.url, b"")
        for request in (
            sent("GET", f"/v1/responses/{id_}"),
            sent("GET", f"/v1/responses/{id_}?stream=true"),
            sent("POST", f"/v1/responses/{id_}/cancel"),
            create(previous_response_id=id_),
        ):
            answer = await ask(gateway.port, request)
            assert answer.status == 503
            code = "no_worker_available" if noticed else "worker_unreachable"
            assert answer.error["code"] == code
            assert answer.header("retry-after") == "2"
            assert answer.header("x-should-retry") == "true"
        assert workers[1].seen == []
        await gateway.told(*["unavailable"] * 4, standing=not noticed)


async def test_what_goes_on_from_a_busy_workers_response_has_that_workers_answer(
    sink: SinkName,
) -> None:
    """No other worker could answer: its refusal is passed on."""
    body = b'{"error":{"message":"full","type":"x","param":null,"code":503}}'

    async def busy(exchange: Exchange) -> None:
        await exchange.whole(503, body, "retry-after: 9")

    async with fleet(busy, keeps, sink=sink) as (gateway, workers):
        id_ = make_id(1, workers[0].url, b"")
        answer = await ask(gateway.port, create(previous_response_id=id_, stream=True))
        assert (answer.status, answer.body) == (503, body)
        assert answer.header("retry-after") == "9"
        assert workers[1].seen == []
        await gateway.told("refused")


async def test_a_retrieval_that_the_worker_cannot_stream_is_told(sink: SinkName) -> None:
    """vLLM 0.32 sends a head and closes, for all but what was made in the background as a stream
    (README, surprise 8): that is a failure, not an empty answer."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(stream_head())
        exchange.close()

    async with fleet(script, keeps, sink=sink) as (gateway, workers):
        id_ = make_id(1, workers[0].url, b"")
        answer = await ask(gateway.port, sent("GET", f"/v1/responses/{id_}?stream=true"))
        assert answer.status == 502
        assert answer.error["code"] == "worker_failed"
        assert answer.whole
        assert (len(workers[0].seen), len(workers[1].seen)) == (1, 0)
        await gateway.told("worker_failed")


# --- refused late ---


async def announces(exchange: Exchange) -> None:
    """vLLM's late refusal: announced, then closed without a word."""
    id_ = json.loads(exchange.request.body)["request_id"]
    await exchange.send(stream_head())
    await exchange.chunks(*response_events(id_)[:2])
    exchange.close()


async def test_refused_late_by_two_workers_is_an_error(sink: SinkName) -> None:
    """It looks like a crash, so one more worker is asked; then 502, since nothing has gone down."""
    async with fleet(announces, announces, announces, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, create(stream=True))
        assert answer.status == 502
        assert answer.error["code"] == "worker_failed"
        assert answer.header("x-should-retry") == "false"
        assert answer.whole
        assert sum(len(worker.seen) for worker in workers) == 2
        await gateway.told("worker_failed", retries=1)


async def test_lost_after_its_announcement_it_is_begun_anew(sink: SinkName) -> None:
    """The client finds one announcement: that of the worker that answers."""
    script = in_turn(announces, keeps)
    async with fleet(script, script, sink=sink) as (gateway, workers):
        answer = await ask(gateway.port, create(stream=True))
        id_ = id_in(answer)
        assert answer.body == b"".join(response_events(id_))
        assert answer.body.count(b"event: response.created") == 1
        assert maker_of(id_, workers).seen
        await gateway.told("ok", retries=1)


async def test_refused_late_after_the_head_it_is_told_in_the_stream(sink: SinkName) -> None:
    """When the head could wait no longer: comments went down, no announcement; then one
    `response.failed`, on what the last worker announced."""
    free = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        id_ = json.loads(exchange.request.body)["request_id"]
        await exchange.send(stream_head())
        await exchange.chunks(*response_events(id_)[:2])
        await free.wait()
        exchange.close()

    async with (
        fleet(slowly, slowly, sink=sink, timeouts__head_hold="20ms") as (gateway, workers),
        dial(gateway.port) as client,
    ):
        await client.send(create(stream=True))
        answer = await client.head()
        await client.events(answer, len(b": keep-alive\n\n"))
        free.set()
        await client.rest(answer)
        assert not answer.whole
        comments, name, data = answer.body.partition(b"event: response.failed\ndata: ")
        assert comments == b": keep-alive\n\n" * (len(comments) // 14)
        assert name
        told = json.loads(data)
        ids = [json.loads(worker.seen[0].body)["request_id"] for worker in workers]
        assert told["response"]["id"] in ids
        assert told["response"]["status"] == "failed"
        assert told["sequence_number"] == 2
        await gateway.told("worker_failed", retries=1)


async def test_a_response_that_failed_in_the_engine_is_passed_on(sink: SinkName) -> None:
    """`response.failed` is the worker's own terminal event: its bytes, a clean end, and the
    worker's failure."""
    (created, progress, *_) = response_events("resp_1")
    failed = created.replace(b"response.created", b"response.failed")
    events = (created, progress, failed)

    async def script(exchange: Exchange) -> None:
        await exchange.send(stream_head())
        await exchange.chunks(*events)
        await exchange.last_chunk()

    async with fleet(script, sink=sink) as (gateway, _):
        answer = await ask(gateway.port, create(stream=True))
        assert (answer.status, answer.body, answer.whole) == (200, b"".join(events), True)
        await gateway.told("worker_failed")


async def test_what_a_client_calls_delta_is_no_token(sink: SinkName) -> None:
    """A response tells its request's metadata again, also in its terminal event: which still ends
    the stream, and still has its usage."""
    events = response_events("resp_1", metadata={"delta": "x", "sequence_number": "7"})

    async def script(exchange: Exchange) -> None:
        await exchange.send(stream_head())
        await exchange.chunks(*events)
        await exchange.last_chunk()

    async with fleet(script, sink=sink) as (gateway, _):
        answer = await ask(gateway.port, create(stream=True))
        assert (answer.body, answer.whole) == (b"".join(events), True)
        await gateway.told("ok")
        assert await gateway.tokens() == {
            "prompt exact": 117,
            "completion exact": 4,
            "cached_prompt exact": 96,
        }
        metrics = await gateway.metrics()
        gaps = 'vllm_gateway_inter_token_latency_seconds_count{model="demo"}'
        assert metrics[gaps] == 2

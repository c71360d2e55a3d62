"""Each fault does what it says, seen over a real socket."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.sim import Sim, SimOptions

from .client import CHAT, COMPLETIONS, ask, chat, completion, connect, faulty

_BODY = chat(stream=True, max_tokens=8, stream_options={"include_usage": True})
_NAMED = {"x-request-id": "abc"}


async def _clean(sim: Sim) -> bytes:
    return (await ask(sim, CHAT, _BODY, headers=_NAMED)).body


async def _with(sim: Sim, fault: str) -> tuple[bytes, bytes, str]:
    """Body, raw bytes and end of the same request under a fault."""
    answer = await ask(sim, CHAT, _BODY, headers={**_NAMED, "x-sim-fault": fault})
    return answer.body, answer.raw, answer.ended


@pytest.fixture
async def frozen() -> AsyncIterator[Sim]:
    """The same request gets the same bytes."""
    async with Sim(SimOptions(frozen_time=1.0)) as running:
        yield running


@pytest.mark.parametrize("events", [1, 3])
@pytest.mark.parametrize(("name", "end"), [("reset", "reset"), ("eof", "eof")])
async def test_cut_off_after_events(sim: Sim, name: str, end: str, events: int) -> None:
    answer = await faulty(sim, f"{name}@{events}")
    assert (answer.ended, len(answer.events)) == (end, events)
    assert "[DONE]" not in answer.data
    await sim.wait_for(lambda: sim.aborted == 1 and sim.running == 0)


@pytest.mark.parametrize(("name", "end"), [("reset", "reset"), ("eof", "eof")])
async def test_cut_off_before_and_after_the_head(sim: Sim, name: str, end: str) -> None:
    before = await faulty(sim, f"{name}@0")
    assert (before.raw, before.ended) == (b"", end)
    assert sim.started == 0
    after = await faulty(sim, f"{name}@head")
    assert (after.status, after.body, after.ended) == (200, b"", end)


async def test_cut_off_in_the_middle_of_json(sim: Sim) -> None:
    answer = await faulty(sim, "eof@1", chat(max_tokens=4))
    assert answer.ended == "eof"
    assert 0 < len(answer.body) < int(answer.headers["content-length"])


async def test_truncate_ends_cleanly_without_done(sim: Sim) -> None:
    async with connect(sim) as client:
        body = chat(stream=True, max_tokens=8)
        client.send(CHAT, body, headers={"x-sim-fault": "truncate@2"})
        answer = await client.answer()
        assert (answer.ended, len(answer.data)) == ("complete", 2)
        client.send("/version")
        assert (await client.answer()).status == 200


async def test_no_done(sim: Sim) -> None:
    answer = await faulty(sim, "no-done")
    assert answer.ended == "complete"
    assert answer.data[-1] != "[DONE]"
    assert answer.events[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(("fault", "events"), [("hang@0", 0), ("hang@head", 0), ("hang@3", 3)])
async def test_hang_says_nothing_more_and_ends_as_an_abort(
    sim: Sim, fault: str, events: int
) -> None:
    async with connect(sim) as client:
        client.send(CHAT, chat(stream=True), headers={"x-sim-fault": fault})
        seen = b""
        if events:
            seen = await client.read_events(events)
        elif fault == "hang@head":
            seen = await client.reader.readuntil(b"\r\n\r\n")
        await sim.wait_for(lambda: sim.running == 1)
        # Another stream goes by; this one has had every chance to go on.
        assert (await ask(sim, CHAT, chat(stream=True))).data[-1] == "[DONE]"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.reader.read(1)
        assert seen.count(b"data: ") == events
        assert sim.running == 1
    await sim.wait_for(lambda: sim.aborted == 1)


async def test_hang_of_any_path(sim: Sim) -> None:
    async with connect(sim) as client:
        client.send("/health", headers={"x-sim-fault": "hang@0"})
        await sim.wait_for(lambda: sim.requests_total == 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.reader.read(1)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "BadRequestError"),
        (429, "Too Many Requests"),
        (500, "InternalServerError"),
        (503, "Service Unavailable"),
    ],
)
async def test_refusals(sim: Sim, status: int, kind: str) -> None:
    answer = await faulty(sim, f"status={status},retry-after=7")
    assert (answer.status, answer.headers["retry-after"]) == (status, "7")
    assert (answer.json["error"]["type"], answer.json["error"]["code"]) == (kind, status)
    assert sim.started == 0


async def test_error_events(sim: Sim) -> None:
    first = await faulty(sim, "error-first=400")
    assert first.status == 200
    assert first.body.startswith(b'data: {"error": {"message": ')
    assert (first.events[0]["error"]["code"], first.data[1:]) == (400, ["[DONE]"])
    assert (sim.started, sim.requests_total) == (0, 1)
    later = await faulty(sim, "error@3=503")
    assert [("error" in event) for event in later.events] == [False, False, False, True]
    assert (later.events[3]["error"]["code"], later.data[-1]) == (503, "[DONE]")
    assert later.ended == "complete"


async def test_broken_http(sim: Sim) -> None:
    assert (await faulty(sim, "bad-head")).ended == "bad"
    chunk = await faulty(sim, "bad-chunk@2")
    assert (chunk.ended, len(chunk.events)) == ("bad", 2)
    huge = await faulty(sim, "huge-head=100000")
    assert len(huge.headers["x-padding"]) == 100_000
    assert huge.data[-1] == "[DONE]"


async def test_old_and_closing_http(frozen: Sim) -> None:
    clean = await _clean(frozen)
    body, raw, _ = await _with(frozen, "http10")
    assert raw.startswith(b"HTTP/1.0 200 OK\r\n")
    assert raw.endswith(b"\r\n\r\n" + clean)
    body, raw, end = await _with(frozen, "close")
    assert (body, end) == (clean, "complete")
    assert b"connection: close\r\n" in raw
    await frozen.wait_for(lambda: frozen.connections == 0)


@pytest.mark.parametrize(
    ("fault", "mark"),
    [
        ("content-length", b"\r\ncontent-length: "),
        ("chunk-ext", b';sim=1;note="a;b"\r\n'),
        ("trailers", b"0\r\nx-sim-trailer: yes\r\n\r\n"),
        ("rechunk=7", b"\r\n\r\n7\r\ndata: {\r\n7\r\n"),
        ("merge=4", b"\n\ndata: "),
        ("coalesce=100", b"\r\n\r\n"),
        ("cut=1", b"\r\n\r\n"),
        ("cut=7,chunk-ext,trailers", b"\r\n\r\n"),
    ],
)
async def test_framing_changes_no_byte_of_the_body(frozen: Sim, fault: str, mark: bytes) -> None:
    clean = await _clean(frozen)
    body, raw, end = await _with(frozen, fault)
    assert (body, end) == (clean, "complete")
    assert mark in raw


@pytest.mark.parametrize("framing", ["rechunk=50", "merge=10", "cut=3", "content-length"])
async def test_an_ending_comes_after_all_that_was_before_it(sim: Sim, framing: str) -> None:
    answer = await faulty(sim, f"eof@3,{framing}")
    assert (answer.ended, len(answer.events)) == ("eof", 3)


async def test_each_request_gets_one_answer(sim: Sim) -> None:
    for fault in (
        "status=503",
        "error-first",
        "error@2",
        "error@2,content-length",
        "truncate@2,rechunk=9",
        "no-done",
        "comments",
    ):
        async with connect(sim) as client:
            client.send(CHAT, _BODY, headers={"x-sim-fault": fault})
            await client.answer()
            client.send("/version")
            assert (await client.answer()).json == {"version": "0.32.0"}


async def test_cut_bytes_arrive_alone(sim: Sim) -> None:
    answer = await faulty(sim, "cut=1")
    alone = sum(len(read) == 1 for read in answer.reads)
    assert alone > len(answer.raw) * 0.8


async def test_coalesced_events_arrive_together(sim: Sim) -> None:
    answer = await faulty(sim, "coalesce=500", chat(stream=True, max_tokens=80, ignore_eos=True))
    assert len(answer.reads) <= 4
    assert len(answer.data) == 82


@pytest.mark.parametrize(("fault", "end"), [("newline=crlf", b"\r\n\r\n"), ("newline=cr", b"\r\r")])
async def test_line_ends(frozen: Sim, fault: str, end: bytes) -> None:
    clean = await _clean(frozen)
    body, _, _ = await _with(frozen, fault)
    assert body == clean.replace(b"\n\n", end)


async def test_comments(frozen: Sim) -> None:
    clean = await _clean(frozen)
    body, _, _ = await _with(frozen, "comments")
    events = clean.count(b"data: ")
    assert body.count(b": a comment before\n\n: and one inside\n") == events
    assert body.replace(b": a comment before\n\n: and one inside\n", b"") == clean


async def test_big_event(sim: Sim) -> None:
    answer = await faulty(sim, "big-event=1000000")
    text = answer.events[1]["choices"][0]["delta"]["content"]
    assert len(text.encode()) == 1_000_000
    assert answer.data[-1] == "[DONE]"


async def test_usage_faults(sim: Sim) -> None:
    none = await faulty(sim, "no-usage", _BODY)
    assert all("usage" not in event for event in none.events)
    assert none.data[-1] == "[DONE]"
    zero = await faulty(sim, "zero-usage", _BODY)
    assert zero.events[-1]["usage"] == {
        "prompt_tokens": 0,
        "total_tokens": 0,
        "completion_tokens": 0,
    }


async def test_times(sim: Sim) -> None:
    loop = asyncio.get_running_loop()
    for fault, head_waits in (("late-head=60ms", True), ("slow-first=60ms", False)):
        async with connect(sim) as client:
            start = loop.time()
            client.send(CHAT, chat(stream=True, max_tokens=2), headers={"x-sim-fault": fault})
            await client.reader.readuntil(b"\r\n\r\n")
            head_s = loop.time() - start
            await client.reader.readuntil(b"data: ")
            assert loop.time() - start >= 0.059
            assert not head_waits or head_s >= 0.059
    start = loop.time()
    paused = await faulty(sim, "sleep@2=60ms")
    assert paused.data[-1] == "[DONE]"
    assert loop.time() - start >= 0.059


@pytest.mark.parametrize(("kind", "ends"), [("next", "eof"), ("reset", "reset"), ("now", "eof")])
async def test_stale_connections(sim: Sim, kind: str, ends: str) -> None:
    """The first answer is whole; the second request on the connection gets not one byte."""
    async with connect(sim) as client:
        client.send(CHAT, chat(max_tokens=1), headers={"x-sim-fault": f"stale={kind}"})
        first = await client.answer()
        assert (first.status, first.headers.get("connection")) == (200, None)
        if kind != "now":
            client.send(CHAT, chat(max_tokens=1))
        second = await client.answer()
        assert (second.raw, second.ended) == (b"", ends)
    assert sim.started == 1


async def test_start_flags_have_a_scope() -> None:
    faults = ("status=500,first=2,skip=1", "hang@0,path=/health")
    async with Sim(SimOptions(faults=faults)) as sim:
        body = completion(max_tokens=1)
        statuses = [(await ask(sim, COMPLETIONS, body)).status for _ in range(5)]
        assert statuses == [200, 500, 500, 200, 200]
        assert (await ask(sim, "/version")).status == 200
        async with connect(sim) as client:
            client.send("/health")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.reader.read(1)


async def test_probability_is_seeded_and_about_right() -> None:
    async with Sim(SimOptions(faults=("status=503,p=0.3",), seed=4)) as sim, connect(sim) as client:
        refused = 0
        for _ in range(200):
            client.send(COMPLETIONS, completion(max_tokens=1))
            refused += (await client.answer()).status == 503
        assert 40 <= refused <= 80


async def test_the_header_wins_and_mistakes_are_told() -> None:
    async with Sim(SimOptions(faults=("status=500",))) as sim:
        assert (await faulty(sim, "status=429")).status == 429
        wrong = await faulty(sim, "explode@3")
        assert wrong.status == 400
        assert b"unknown fault 'explode@3'" in wrong.body

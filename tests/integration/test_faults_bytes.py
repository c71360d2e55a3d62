"""However a worker frames and cuts its answer, the client receives the same bytes.

`docs/faults.md`: framing, cuts, usage.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway import SinkName, run_gateway
from tests.support.raw import ask, chat_body, post
from tests.support.scripted import (
    DONE,
    ROLE,
    WHOLE,
    Exchange,
    answer_of,
    chat_event,
    scripted,
    usage_event,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.scripted import Script

EVENTS = answer_of("one", " zwei € drei 😀", ' "four" \\n ', " five")
SHOWN = b"".join([*EVENTS[:-2], DONE])
ASKED: dict[str, Any] = {"stream_options": {"include_usage": True}}


def chunked(*parts: bytes, after_size: bytes = b"", trailers: bytes = b"") -> bytes:
    """A chunked body."""
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(p), after_size, p) for p in parts)
    return framed + b"0" + after_size + b"\r\n" + trailers + b"\r\n"


def head(*lines: str, version: str = "1.1", kind: str = "text/event-stream") -> bytes:
    """A worker's head."""
    return "\r\n".join([f"HTTP/{version} 200 OK", f"content-type: {kind}", *lines, "", ""]).encode()


def sends(*parts: bytes, close: bool = False) -> Script:
    """A script that sends these bytes."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(*parts)
        if close:
            exchange.close()

    return script


BODY = b"".join(EVENTS)
TE = "transfer-encoding: chunked"
FRAMINGS = {
    "an event a chunk": sends(head(TE) + chunked(*EVENTS)),
    "one chunk": sends(head(TE) + chunked(BODY)),
    "chunk extensions": sends(head(TE) + chunked(*EVENTS, after_size=b';name="value;"')),
    "trailers": sends(head(TE) + chunked(*EVENTS, trailers=b"x-late: 1\r\nx-later: 2\r\n")),
    "content-length": sends(head(f"content-length: {len(BODY)}"), *EVENTS),
    "close": sends(head("connection: close"), *EVENTS, close=True),
    "close, no header": sends(head(), *EVENTS, close=True),
    "close, chunked": sends(head(TE, "connection: close"), chunked(*EVENTS), close=True),
    "HTTP/1.0": sends(head(version="1.0"), *EVENTS, close=True),
    "HTTP/1.0 with length": sends(
        head(f"content-length: {len(BODY)}", version="1.0"), *EVENTS, close=True
    ),
    "all in one write": sends(head(TE) + chunked(*EVENTS)),
    "head alone": sends(head(TE), chunked(*EVENTS)),
    "a byte a write": sends(*[bytes([b]) for b in head(TE) + chunked(*EVENTS)]),
    "7 bytes a write": sends(
        *[(head(TE) + chunked(*EVENTS))[at : at + 7] for at in range(0, 3000, 7)]
    ),
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("asked", [False, True], ids=["usage hidden", "usage asked"])
async def test_stream_in_any_framing_is_the_same(framing: str, asked: bool, sink: SinkName) -> None:
    """Twice in a row, so that a kept connection is in order too."""
    async with (
        scripted(FRAMINGS[framing]) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        for _ in range(2):
            answer = await ask(gateway.port, post(chat_body(**(ASKED if asked else {}))))
            assert answer.status == 200
            assert answer.body == (BODY if asked else SHOWN)
            assert answer.whole
            assert not {"x-late", "x-later", "trailer"} & answer.names
        await gateway.told("ok", "ok")
        assert await gateway.tokens() == {"completion exact": 8, "prompt exact": 10}


JSON = "application/json"
WHOLE_FRAMINGS = {
    "content-length": sends(head(f"content-length: {len(WHOLE)}", kind=JSON) + WHOLE),
    "chunked": sends(head(TE, kind=JSON) + chunked(WHOLE[:10], WHOLE[10:])),
    "trailers": sends(head(TE, kind=JSON) + chunked(WHOLE, trailers=b"x-late: 1\r\n")),
    "close": sends(head("connection: close", kind=JSON), WHOLE, close=True),
    "HTTP/1.0": sends(head(version="1.0", kind=JSON), WHOLE, close=True),
    "a byte a write": sends(
        *[bytes([b]) for b in head(f"content-length: {len(WHOLE)}", kind=JSON) + WHOLE]
    ),
}


@pytest.mark.parametrize("framing", WHOLE_FRAMINGS)
async def test_whole_answer_in_any_framing_is_the_same(framing: str, sink: SinkName) -> None:
    """The same for answers that are not streamed."""
    async with (
        scripted(WHOLE_FRAMINGS[framing]) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        for _ in range(2):
            answer = await ask(gateway.port, post(chat_body(stream=False)))
            assert (answer.status, answer.body, answer.whole) == (200, WHOLE, True)
            assert "x-late" not in answer.names
        await gateway.told("ok", "ok")
        assert await gateway.tokens() == {"completion exact": 6, "prompt exact": 10}


async def test_answer_without_a_body_is_whole(sink: SinkName) -> None:
    """A length of zero is an answer."""
    script = sends(head("content-length: 0", kind=JSON))
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body(stream=False)))
        assert (answer.status, answer.body, answer.whole) == (200, b"", True)
        await gateway.told("ok")


async def test_answer_of_megabytes_is_the_same(sink: SinkName) -> None:
    """Embeddings, say: larger than what is kept for reading its usage."""
    body = b'{"data":[' + b"0.123456789," * 400_000 + b'0],"usage":{"prompt_tokens":7}}'
    script = sends(head(f"content-length: {len(body)}", kind=JSON), body)
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body(stream=False)))
        assert len(answer.body) == len(body)
        assert answer.body == body
        assert answer.whole
        await gateway.told("ok")
        assert await gateway.tokens() == {"prompt exact": 7}


def in_writes_of(size: int) -> Callable[[bytes], list[bytes]]:
    """Cuts bytes into parts of one size."""
    return lambda data: [data[at : at + size] for at in range(0, len(data), size)]


STREAMS: dict[str, Sequence[bytes]] = {
    "CRLF": [event.replace(b"\n", b"\r\n") for event in EVENTS],
    "CR": [event.replace(b"\n", b"\r") for event in EVENTS],
    "mixed ends": [*EVENTS[:2], *[event.replace(b"\n", b"\r\n") for event in EVENTS[2:]]],
    "comments": [part for event in EVENTS for part in (b": a comment\n\n", event)],
    "comment lines in events": [b": a comment\n" + event for event in EVENTS],
    "no space": [event.replace(b"data: ", b"data:") for event in EVENTS],
    "names and ids": [b"event: x\nid: 1\nretry: 5\n" + event for event in EVENTS],
    "a byte order mark": [b"\xef\xbb\xbf" + EVENTS[0], *EVENTS[1:]],
    "not JSON": [*EVENTS[:2], b"data: not json\n\n", *EVENTS[2:]],
    "not UTF-8": [*EVENTS[:2], b"data: \xff\xfe\x00\n\n", *EVENTS[2:]],
    "blank lines": [*EVENTS[:2], b"\n\n\n", *EVENTS[2:]],
}  # fmt: skip


@pytest.mark.parametrize("cut", [1, 3, 64, 100_000])
@pytest.mark.parametrize("name", STREAMS)
async def test_stream_in_any_form_and_cut_is_the_same(name: str, cut: int, sink: SinkName) -> None:
    """Line ends, comments, fields and cuts do not matter: the bytes are the worker's, with or
    without its usage event."""
    events = STREAMS[name]
    body = b"".join(events)

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(*in_writes_of(cut)(body))
        await exchange.last_chunk()

    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        asked, not_asked = await asyncio.gather(
            ask(gateway.port, post(chat_body(**ASKED))), ask(gateway.port, post(chat_body()))
        )
        assert asked.body == body
        assert asked.whole
        hidden = next(event for event in events if b'"usage":{' in event)
        assert not_asked.body == body.replace(hidden, b"")
        assert not_asked.whole
        await gateway.told("ok", "ok")
        assert await gateway.tokens() == {"completion exact": 8, "prompt exact": 10}


async def test_hundreds_of_events_in_one_write_are_the_same(sink: SinkName) -> None:
    """A worker that was faster than its connection."""
    events = answer_of(*[f" word{number}" for number in range(800)])
    script = sends(head(TE) + chunked(b"".join(events[:400]), b"".join(events[400:])))
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.body == b"".join([*events[:-2], DONE])
        assert answer.whole
        await gateway.told("ok")
        metrics = await gateway.metrics()
        gaps = metrics['vllm_gateway_inter_token_latency_seconds_count{model="demo"}']
        assert gaps == 799


@pytest.mark.parametrize("asked", [False, True], ids=["usage hidden", "usage asked"])
async def test_event_of_a_megabyte_is_the_same(asked: bool, sink: SinkName) -> None:
    """Logprobs and tool calls can be large."""
    events = (ROLE, chat_event("x" * 2**20), chat_event(" end"), usage_event(5, 3), DONE)
    script = sends(head(TE) + chunked(*in_writes_of(10_000)(b"".join(events))))
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body(**(ASKED if asked else {}))))
        shown = events if asked else (*events[:-2], DONE)
        assert len(answer.body) == len(b"".join(shown))
        assert answer.body == b"".join(shown)
        assert answer.whole
        await gateway.told("ok")


async def test_last_event_without_its_blank_line_is_passed_on(sink: SinkName) -> None:
    """Some servers end right after `[DONE]`."""
    script = sends(head(TE) + chunked(*EVENTS[:-1], b"data: [DONE]"))
    async with scripted(script) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.body == SHOWN[:-2]
        assert answer.whole
        await gateway.told("ok")


# --- usage ---


async def test_usage_event_is_hidden_from_who_did_not_ask(sink: SinkName) -> None:
    """The gateway asks for usage; only a client that asked too reads it."""
    async with (
        scripted(sends(head(TE) + chunked(*EVENTS))) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        for options, shown in (
            ({}, SHOWN),
            ({"stream_options": None}, SHOWN),
            ({"stream_options": {}}, SHOWN),
            ({"stream_options": {"include_usage": False}}, SHOWN),
            ({"stream_options": {"include_usage": True}}, BODY),
        ):
            answer = await ask(gateway.port, post(chat_body(**options)))
            assert answer.body == shown, options
            assert b'"include_usage":true' in worker.seen[-1].body.replace(b" ", b"")
        await gateway.told(*["ok"] * 5)


async def test_usage_beside_a_token_is_not_hidden(sink: SinkName) -> None:
    """An event that carries more than usage is the client's."""
    both = usage_event(5, 1).replace(
        b'"choices":[]', b'"choices":[{"index":0,"delta":{"content":"word"}}]'
    )
    events = (ROLE, both, DONE)
    async with (
        scripted(sends(head(TE) + chunked(*events))) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.body == b"".join(events)
        await gateway.told("ok")
        assert await gateway.tokens() == {"completion exact": 1, "prompt exact": 5}


async def test_stream_without_usage_counts_what_was_relayed(sink: SinkName) -> None:
    """Tokens are then estimated, and say so."""
    events = (ROLE, chat_event("one"), chat_event(" two"), chat_event(""), DONE)
    async with (
        scripted(sends(head(TE) + chunked(*events))) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.body == b"".join(events)
        assert answer.whole
        await gateway.told("ok")
        assert await gateway.tokens() == {"completion estimated": 2}


async def test_usage_of_zero_stays_zero(sink: SinkName) -> None:
    """The worker's own zero is not replaced by an estimate."""
    events = (ROLE, chat_event("one"), usage_event(0, 0), DONE)
    async with (
        scripted(sends(head(TE) + chunked(*events))) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.body == b"".join([*events[:-2], DONE])
        await gateway.told("ok")
        assert await gateway.tokens() == {}
        assert gateway.request_lines[0]["completion_tokens"] == 0
        assert "tokens" not in gateway.request_lines[0]


async def test_tokens_of_two_kinds_of_delta_are_counted(sink: SinkName) -> None:
    """Reasoning and tool calls are tokens as content is."""
    events = (
        ROLE,
        chat_event(reasoning="think"),
        chat_event("say"),
        chat_event(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}]),
        chat_event(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        DONE,
    )
    async with (
        scripted(sends(head(TE) + chunked(*events))) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        answer = await ask(gateway.port, post(chat_body()))
        assert answer.body == b"".join(events)
        await gateway.told("ok")
        assert await gateway.tokens() == {"completion estimated": 4}

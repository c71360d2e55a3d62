"""The kinds of requests in a soak, and how the gateway must count each. Pure.

Each kind ends in exactly one way, whatever the timing: what is to be cut waits until it is cut.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from gateway.terms import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

MODEL = "soak"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LONG_EVENT_BYTES = 300_000


class Act(StrEnum):
    """What the client does with one request."""

    READ = "read"
    """Send, read to the end, keep the connection if the answer allows."""
    LEAVE_BODY = "leave_body"
    """Close in the middle of the request's body."""
    LEAVE_PREFILL = "leave_prefill"
    """Close before anything has come."""
    LEAVE_DECODE = "leave_decode"
    """Close after the first bytes of the answer."""
    RESET_DECODE = "reset_decode"
    """The same, with RST."""
    HALF_CLOSE = "half_close"
    """Shut down the sending side after the first bytes: it counts as leaving."""
    READ_SLOWLY = "read_slowly"
    """Small window, pauses between reads; then the rest at once."""
    LEAVE_SLOWLY = "leave_slowly"
    """The same, but close while most of the answer waits."""
    DEAF = "deaf"
    """Read nothing until the gateway must have given up."""


class End(StrEnum):
    """How an answer that is read to its end must end."""

    WHOLE = "whole"
    """As HTTP says; a stream with `[DONE]`."""
    CUT = "cut"
    """With an error event, no `[DONE]`, and a closed connection; or, where the failure came so soon
    that nothing had gone down, with 502."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request. Its name stands in the gateway's log, as the request's id."""

    name: str
    weight: int
    """How many in a thousand, about."""
    outcome: Outcome
    request: bytes
    act: Act = Act.READ
    status: int = 200
    end: End = End.WHOLE
    stream: bool = True


def kinds() -> tuple[Kind, ...]:
    """All of them."""
    return (*_good(), *_odd(), *_rude(), *_wrong(), *_failing())


def deck(of: tuple[Kind, ...], random: Random) -> Iterator[Kind]:
    """For ever: each kind as often as its weight says, in another order each time."""
    cards = [kind for kind in of for _ in range(kind.weight)]
    while True:
        random.shuffle(cards)
        yield from cards


def _good() -> Iterator[Kind]:
    yield Kind("whole", 260, Outcome.OK, _chat(8, stream=False), stream=False)
    yield Kind("stream", 180, Outcome.OK, _chat(16))
    yield Kind("stream with usage", 120, Outcome.OK, _chat(16, stream_options=_USAGE))
    yield Kind("completions", 40, Outcome.OK, _post(COMPLETIONS, _completion(8)))
    yield Kind("long prompt", 10, Outcome.OK, _chat(4, words=20_000))
    yield Kind("models", 10, Outcome.OK, _get("/v1/models"), stream=False)


def _odd() -> Iterator[Kind]:
    """Workers that are slow, or that write in ways few do: nothing is wrong with them."""
    for fault in (
        "sleep@3=100ms", "late-head=50ms", "slow-first=50ms", "cut=40", "newline=crlf",
        "comments", "merge=5", "rechunk=30", "content-length", "http10", "close", "chunk-ext",
        "trailers", "no-usage", "zero-usage", "stale=next", "stale=reset", "stale=now",
    ):  # fmt: skip
        yield Kind(fault, 5, Outcome.OK, _chat(8, fault=fault))


def _rude() -> Iterator[Kind]:
    """Clients that leave, or that do not read."""
    gone = Outcome.CLIENT_CLOSED
    long = _chat(4000)
    # 6 MB in 4,000 events: more than the sockets between a worker and a client hold (some 3 MB with
    # Linux' defaults), so that the gateway has to pause.
    large = _chat(1000, n=4, logprobs=True, top_logprobs=20)
    medium = _chat(4, fault=f"big-event={LONG_EVENT_BYTES}")
    yield Kind("left in body", 10, gone, _chat(8, words=500), Act.LEAVE_BODY)
    yield Kind("left in prefill", 40, gone, _chat(8, fault="hang@0"), Act.LEAVE_PREFILL)
    yield Kind("left at head", 10, gone, _chat(8, fault="hang@head"), Act.LEAVE_PREFILL)
    yield Kind("left in decode", 30, gone, long, Act.LEAVE_DECODE)
    yield Kind("reset in decode", 20, gone, long, Act.RESET_DECODE)
    yield Kind("left in a pause", 10, gone, _chat(8, fault="hang@4"), Act.LEAVE_DECODE)
    yield Kind("half-closed", 10, gone, _chat(8, fault="hang@4"), Act.HALF_CLOSE)
    yield Kind("slow reader", 10, Outcome.OK, medium, Act.READ_SLOWLY)
    yield Kind("slow reader, large", 1, Outcome.OK, large, Act.READ_SLOWLY)
    yield Kind("slow reader left", 1, gone, large, Act.LEAVE_SLOWLY)
    yield Kind("deaf", 1, gone, large, Act.DEAF)


def _wrong() -> Iterator[Kind]:
    """Requests that the gateway itself refuses."""
    bad = Outcome.INVALID
    yield Kind("no JSON", 20, bad, _post(CHAT, b'{"model": '), status=400)
    yield Kind("no model", 10, bad, _post(CHAT, b"{}"), status=400)
    yield Kind("wrong type", 10, bad, _post(CHAT, b'{"model": 7}'), status=400)
    yield Kind("unknown model", 30, bad, _chat(8, model="nobody"), status=404)
    yield Kind("no HTTP", 10, bad, b"GET / HTTP/one\r\n\r\n", status=400)
    yield Kind("wrong method", 5, bad, _get(CHAT), status=405)
    yield Kind("wrong path", 5, bad, _get("/v1/nothing"), status=404)


def _failing() -> Iterator[Kind]:
    """Workers that fail. Each fault meets both of them."""
    refused, failed = Outcome.REFUSED, Outcome.WORKER_FAILED
    for status, outcome in ((400, refused), (429, refused), (503, refused), (500, failed)):
        request = _chat(8, fault=f"status={status}")
        yield Kind(f"status={status}", 5, outcome, request, status=status)
    yield Kind("late 400", 5, refused, _chat(8, fault="error-first=400"), status=400)
    for fault in ("reset@0", "eof@head", "bad-head", "huge-head=4000000"):
        yield Kind(fault, 5, failed, _chat(8, fault=fault), status=502)
    yield Kind("error@4", 5, failed, _chat(8, fault="error@4"))
    for fault in ("reset@4", "eof@4", "truncate@4", "bad-chunk@4"):
        request = _chat(8, fault=f"sleep@3=10ms,{fault}")
        yield Kind(fault, 5, failed, request, end=End.CUT)
    yield Kind("silent", 1, Outcome.TIMEOUT, _chat(8, fault="hang@4"), end=End.CUT)


_USAGE = {"include_usage": True}


def _chat(
    tokens: int,
    *,
    fault: str = "",
    words: int = 8,
    stream: bool = True,
    model: str = MODEL,
    **fields: Any,
) -> bytes:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "word " * words}],
        "max_tokens": tokens,
        "min_tokens": tokens,
        "stream": stream,
        **fields,
    }
    return _post(CHAT, json.dumps(body).encode(), fault)


def _completion(tokens: int) -> bytes:
    return json.dumps(
        {"model": MODEL, "prompt": "word", "max_tokens": tokens, "stream": True}
    ).encode()


def _post(path: str, body: bytes, fault: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
    if fault:
        head += f"X-Sim-Fault: {fault}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: soak\r\n\r\n".encode()

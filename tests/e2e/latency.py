"""Do the gateway's own figures agree with what a client measures through the same socket?

`compare` sends streams through a gateway with a client of its own: an `asyncio.Protocol` that
stamps each read and looks at the bytes only afterwards. It returns the means of that client, and
those of the gateway's histograms for the same requests.
"""

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any
from urllib.parse import urlsplit

from tests.conformance.answers import wait_until
from tests.conformance.bodies import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from tests.conformance.samples import total
from tests.conformance.targets import Gateway

HISTOGRAMS = {
    "TTFT": "vllm_gateway_time_to_first_token_seconds",
    "TPOT": "vllm_gateway_time_per_output_token_seconds",
    "ITL": "vllm_gateway_inter_token_latency_seconds",
}


@dataclass(frozen=True)
class Mean:
    """A mean, and how many samples it has."""

    count: int
    mean_s: float


@dataclass(frozen=True)
class Agreement:
    """One figure, as both saw it."""

    figure: str
    client: Mean
    gateway: Mean

    @property
    def holds(self) -> bool:
        """Whether both have as many samples, and means within 2 % or 1 ms of each other."""
        apart_s = abs(self.client.mean_s - self.gateway.mean_s)
        near = apart_s <= max(0.001, 0.02 * self.client.mean_s)
        return near and self.client.count == self.gateway.count


@dataclass(frozen=True)
class Timing:
    """What the client measured of one stream."""

    sent_s: float
    token_events_s: list[float]
    completion_tokens: int


class _Reader(asyncio.Protocol):
    """Keeps what comes, with the time of each read."""

    def __init__(self) -> None:
        self.reads: list[tuple[float, bytes]] = []
        self.begun = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.monotonic(), data))
        self.begun.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(exc)


async def compare(gateway: Gateway, path: str, bodies: Sequence[dict[str, Any]]) -> list[Agreement]:
    """Send all `bodies` as streams of one choice; return what both sides measured.

    A stream begins when the one before it has: so that they run side by side, but no request
    waits unread in a socket because another has just come, which only the client could see.
    Nobody else may use the gateway at that time.
    """
    before = {figure: _read(gateway, name) for figure, name in HISTOGRAMS.items()}
    timings = await _measure(gateway.url, path, bodies)
    requests = before["TTFT"][0] + len(timings)
    wait_until(
        lambda: _read(gateway, HISTOGRAMS["TTFT"])[0] >= requests, "all requests are recorded"
    )
    seen = _means(timings)
    agreements = []
    for figure, name in HISTOGRAMS.items():
        count, sum_s = _read(gateway, name)
        count, sum_s = count - before[figure][0], sum_s - before[figure][1]
        agreements.append(Agreement(figure, seen[figure], Mean(count, sum_s / max(1, count))))
    return agreements


def _read(gateway: Gateway, name: str) -> tuple[int, float]:
    count = total(gateway.admin_url, f"{name}_count")
    return int(count), total(gateway.admin_url, f"{name}_sum")


def _means(timings: list[Timing]) -> dict[str, Mean]:
    ttft = [each.token_events_s[0] - each.sent_s for each in timings]
    tpot = [
        (each.token_events_s[-1] - each.token_events_s[0]) / (each.completion_tokens - 1)
        for each in timings
        if each.completion_tokens >= 2
    ]
    itl = [late - early for each in timings for early, late in pairwise(each.token_events_s)]
    samples = {"TTFT": ttft, "TPOT": tpot, "ITL": itl}
    return {
        figure: Mean(len(values), sum(values) / max(1, len(values)))
        for figure, values in samples.items()
    }


async def _measure(url: str, path: str, bodies: Sequence[dict[str, Any]]) -> list[Timing]:
    host, _, port = urlsplit(url).netloc.partition(":")
    loop = asyncio.get_running_loop()
    connections = [await loop.create_connection(_Reader, host, int(port)) for _ in bodies]
    sent_s = []
    for (transport, reader), body in zip(connections, bodies, strict=True):
        request = _request(url, path, body)
        sent_s.append(time.monotonic())
        transport.write(request)
        await reader.begun.wait()
    await asyncio.gather(*(reader.ended for _, reader in connections))
    return [
        _timing(began_s, path, reader.reads)
        for began_s, (_, reader) in zip(sent_s, connections, strict=True)
    ]


def _request(url: str, path: str, body: dict[str, Any]) -> bytes:
    asked = {**body, "stream": True}
    if path in (CHAT, COMPLETIONS):
        asked["stream_options"] = {"include_usage": True}
    content = json.dumps(asked).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def _timing(sent_s: float, path: str, reads: list[tuple[float, bytes]]) -> Timing:
    events = _events(reads)
    if path in (CHAT, COMPLETIONS):
        assert events.pop()[1] == b"[DONE]"
    decoded = [(stamp_s, json.loads(data)) for stamp_s, data in events]
    return Timing(
        sent_s,
        [stamp_s for stamp_s, event in decoded if _has_token(event)],
        _generated(path, [event for _, event in decoded]),
    )


def _generated(path: str, events: list[dict[str, Any]]) -> int:
    """The tokens that the worker says it generated."""
    used: Any
    if path == RESPONSES:
        assert events[-1]["type"] == "response.completed"
        used = events[-1]["response"]["usage"]["output_tokens"]
    elif path == MESSAGES:
        assert events[-1]["type"] == "message_stop"
        used = events[-2]["usage"]["output_tokens"]
    else:
        used = events[-1]["usage"]["completion_tokens"]
    return int(used)


def _has_token(event: dict[str, Any]) -> bool:
    """Whether there is text in it."""
    if "choices" in event:
        texts = [
            choice["text"] if "text" in choice else choice["delta"].get("content")
            for choice in event["choices"]
        ]
    elif event["type"] == "content_block_delta":
        texts = [event["delta"]["text"]]
    else:
        texts = [event["delta"]] if event["type"].endswith(".delta") else []
    return any(texts)


def _events(reads: list[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
    """The data of each event, with the time of the read that brought its last byte."""
    raw = b"".join(data for _, data in reads)
    read_ends = list(accumulate(len(data) for _, data in reads))
    head, _, _ = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), raw
    assert b"transfer-encoding: chunked" in head.lower()
    events = []
    unfinished = b""
    for chunk_end, chunk in _chunks(raw, len(head) + 4):
        *whole, unfinished = (unfinished + chunk).split(b"\n\n")
        left = len(unfinished)
        for data in reversed(whole):
            stamp_s = reads[bisect_left(read_ends, chunk_end - left)][0]
            left += len(data) + 2
            events.append((stamp_s, data.split(b"\n")[-1].removeprefix(b"data: ")))
        events[len(events) - len(whole) :] = reversed(events[len(events) - len(whole) :])
    assert not unfinished
    return events


def _chunks(raw: bytes, at: int) -> list[tuple[int, bytes]]:
    """Each chunk of a chunked body, and where it ends in `raw`."""
    chunks: list[tuple[int, bytes]] = []
    while True:
        line_end = raw.index(b"\r\n", at)
        size = int(raw[at:line_end], 16)
        start = line_end + 2
        if size == 0:
            return chunks
        chunks.append((start + size, raw[start : start + size]))
        at = start + size + 2

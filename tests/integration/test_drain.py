"""SIGTERM, SIGINT and what follows, on a real `vllm-gateway serve`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway import until
from tests.support.raw import PROMPT, RawAnswer, RawClient, ask, chat_body, dial, post
from tests.support.scripted import (
    DONE,
    ROLE,
    Exchange,
    chat_event,
    good,
    good_body,
    scripted,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_ROOT = Path(__file__).parents[2]
_PORT = re.compile(r"(clients|admin) on http://127\.0\.0\.1:(\d+)")
READY = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
ONE, TWO = ROLE + chat_event("one"), chat_event(" two") + DONE


class Served:
    """A gateway process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.ports: dict[str, int] = {}

    @property
    def port(self) -> int:
        """The client port."""
        return self.ports["clients"]

    @property
    def outcomes(self) -> list[str]:
        """Outcomes in the request log, `/ready` left out."""
        fields = [json.loads(line) for line in self.lines]
        return sorted(line["outcome"] for line in fields if line.get("endpoint") == "chat")

    async def read(self) -> None:
        """Follow the log, to its end."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            text = line.decode()
            self.lines.append(text)
            if found := _PORT.search(text):
                self.ports[found[1]] = int(found[2])

    async def accepts(self) -> bool:
        """New connections are taken."""
        try:
            async with dial(self.port):
                return True
        except ConnectionError:
            return False

    async def closed_to_new_clients(self) -> None:
        """Wait until new connections are refused."""
        async with asyncio.timeout(20):
            while await self.accepts():  # noqa: ASYNC110 - another process knows
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        """Wait for the end: the exit status."""
        async with asyncio.timeout(20):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def serve(worker: str, *flags: str) -> AsyncIterator[Served]:
    """Run a gateway that is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "serve", "--worker", worker, "--port", "0",
        "--admin-port", "0", "--log-format", "json", "--discovery-interval", "100ms", *flags,
        cwd=_ROOT, stderr=asyncio.subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if not k.startswith("VLLM_GATEWAY_")},
    )  # fmt: skip
    served = Served(process)
    reading = asyncio.create_task(served.read())
    try:
        await until(lambda: len(served.ports) == 2 or process.returncode is not None, 30)
        assert process.returncode is None, served.lines
        async with asyncio.timeout(30):
            while (await ask(served.port, READY)).status != 200:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.02)
        yield served
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading
    assert PROMPT not in "".join(served.lines)
    assert not any("Traceback" in line for line in served.lines), served.lines


class Long:
    """A worker whose streams go on until they are told to end."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if b"long" not in exchange.request.body:
            await good(exchange)
            return
        await exchange.head()
        await exchange.chunks(ONE)
        await self.end.wait()
        await exchange.chunks(TWO)
        await exchange.last_chunk()


async def begin(client: RawClient, **more: Any) -> RawAnswer:
    """Begin a long stream, and read what it has so far."""
    await client.send(post(chat_body(user="long", **more)))
    answer = await client.head()
    assert (await client.events(answer, len(ONE))).startswith(ONE)
    return answer


async def test_sigterm_drains() -> None:
    """`/ready` says no at once; new requests are served for `lame_duck` on connections that close
    after; then nobody new is let in; the long stream ends whole; exit status 0."""
    script = Long()
    async with (
        scripted(script) as worker,
        serve(worker.url, "--timeouts-lame-duck", "3s") as gateway,
        dial(gateway.port) as kept,
        dial(gateway.port) as long,
    ):
        await kept.send(post(chat_body()))
        assert (await kept.answer()).header("connection") is None
        stream = await begin(long)
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: any("draining" in line for line in gateway.lines))

        ready = await ask(gateway.port, READY)
        assert ready.status == 503
        assert (await ask(gateway.port, READY.replace(b"/ready", b"/health"))).status == 200
        for stream_too in (True, False):
            answer = await ask(gateway.port, post(chat_body(stream=stream_too)))
            assert (answer.status, answer.body) == (200, good_body(stream=stream_too))
            assert answer.header("connection") == "close"
            assert answer.whole
        await kept.send(post(chat_body()))
        answer = await kept.answer()
        assert answer.body == good_body(stream=True)
        assert answer.header("connection") == "close"
        assert await kept.closed() == b""

        await gateway.closed_to_new_clients()
        metrics = await ask(gateway.ports["admin"], READY.replace(b"/ready", b"/metrics"))
        assert b"vllm_gateway_requests_in_flight 1.0" in metrics.body
        script.end.set()
        await long.rest(stream)
        assert stream.body == ONE + TWO
        assert stream.whole
        assert await long.closed() == b""
        assert await gateway.ended() == 0
    assert gateway.outcomes == ["ok"] * 5


async def test_long_stream_outlives_the_lame_duck_by_far() -> None:
    """Nothing but `timeouts.drain` cuts a stream: not the HTTP server's own patience (5 s)."""
    script = Long()
    async with (
        scripted(script) as worker,
        serve(worker.url, "--timeouts-lame-duck", "0", "--timeouts-drain", "1h") as gateway,
        dial(gateway.port) as long,
    ):
        stream = await begin(long)
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.closed_to_new_clients()
        asyncio.get_running_loop().call_later(6.5, script.end.set)
        await long.rest(stream)
        assert stream.body == ONE + TWO
        assert stream.whole
        assert await gateway.ended() == 0
    assert gateway.outcomes == ["ok"]


async def test_deadline_of_the_drain_is_told_to_all_that_still_run() -> None:
    """A stream gets an error event, who has no byte yet a real 503: in prefill or in the queue."""

    async def script(exchange: Exchange) -> None:
        if b"long" in exchange.request.body:
            await exchange.head()
            await exchange.chunks(ONE)
        await exchange.gone()

    flags = ("--timeouts-lame-duck", "0", "--timeouts-drain", "300ms", "--limits-max-running", "3")
    async with (
        scripted(script) as worker,
        serve(worker.url, *flags) as gateway,
        dial(gateway.port) as long,
        dial(gateway.port) as prefill,
        dial(gateway.port) as whole,
        dial(gateway.port) as queued,
    ):
        stream = await begin(long)
        await prefill.send(post(chat_body()))
        await until(lambda: len(worker.seen) == 2)
        await whole.send(post(chat_body(stream=False)))
        await until(lambda: len(worker.seen) == 3)
        await queued.send(post(chat_body()))
        await until_queued(gateway)
        gateway.process.send_signal(signal.SIGTERM)
        await long.rest(stream)
        assert stream.body.startswith(ONE + b"data: ")
        assert stream.error["code"] == "gateway_shutting_down"
        assert stream.body.count(b"data: ") == ONE.count(b"data: ") + 1
        assert not stream.whole
        for client in (prefill, whole, queued):
            answer = await client.answer()
            assert answer.status == 503
            assert answer.error["code"] == "gateway_shutting_down"
            assert answer.header("retry-after") == "1"
            assert answer.header("x-should-retry") == "true"
            assert answer.header("connection") == "close"
        assert await gateway.ended() == 0
        await until(lambda: worker.open == 0)
    assert gateway.outcomes == ["unavailable"] * 4


async def until_queued(gateway: Served) -> None:
    """Wait until a request waits for admission."""
    request = READY.replace(b"/ready", b"/metrics")
    async with asyncio.timeout(20):
        while True:
            metrics = await ask(gateway.ports["admin"], request)
            if b"vllm_gateway_requests_queued 1.0" in metrics.body:
                return
            await asyncio.sleep(0.02)


async def test_deadline_of_the_drain_ends_half_an_event_first() -> None:
    """The error event must be readable: it is not glued to half an event."""
    half = chat_event("half of this never comes")[:40]

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunks(ONE, half)
        await exchange.gone()

    async with (
        scripted(script) as worker,
        serve(worker.url, "--timeouts-lame-duck", "0", "--timeouts-drain", "300ms") as gateway,
        dial(gateway.port) as long,
    ):
        stream = await begin(long, stream_options={"include_usage": True})
        await long.events(stream, len(ONE + half))
        gateway.process.send_signal(signal.SIGTERM)
        await long.rest(stream)
        assert stream.body.startswith(ONE + half + b"\n\ndata: ")
        assert stream.error["code"] == "gateway_shutting_down"
        assert not stream.whole
        assert await gateway.ended() == 0


async def test_sigint_skips_the_lame_duck() -> None:
    """A person at a terminal does not wait for a load balancer; streams end whole all the same."""
    script = Long()
    async with (
        scripted(script) as worker,
        serve(worker.url, "--timeouts-lame-duck", "1h") as gateway,
        dial(gateway.port) as long,
    ):
        stream = await begin(long)
        gateway.process.send_signal(signal.SIGINT)
        await gateway.closed_to_new_clients()
        script.end.set()
        await long.rest(stream)
        assert stream.body == ONE + TWO
        assert stream.whole
        assert await gateway.ended() == 0
    assert gateway.outcomes == ["ok"]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_skips_the_drain(first: signal.Signals, second: signal.Signals) -> None:
    """Whoever sends it wants an end now; the clients are told."""
    script = Long()
    flags = ("--timeouts-lame-duck", "1h", "--timeouts-drain", "1h")
    async with (
        scripted(script) as worker,
        serve(worker.url, *flags) as gateway,
        dial(gateway.port) as long,
    ):
        stream = await begin(long)
        gateway.process.send_signal(first)
        await until(lambda: any("draining" in line for line in gateway.lines))
        gateway.process.send_signal(second)
        await long.rest(stream)
        assert stream.body.startswith(ONE + b"data: ")
        assert stream.error["code"] == "gateway_shutting_down"
        assert not stream.whole
        assert await gateway.ended() == 0
    assert gateway.outcomes == ["unavailable"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_idle_gateway_ends_at_once(number: signal.Signals) -> None:
    """Connections without a request are closed, and do not hold it up."""
    async with (
        scripted(good) as worker,
        serve(worker.url, "--timeouts-lame-duck", "0", "--timeouts-drain", "1h") as gateway,
        dial(gateway.port) as idle,
        dial(gateway.port) as fresh,
    ):
        await idle.send(post(chat_body()))
        assert (await idle.answer()).whole
        gateway.process.send_signal(number)
        assert await gateway.ended() == 0
        assert await idle.closed() == b""
        assert await fresh.closed() == b""
    assert gateway.outcomes == ["ok"]

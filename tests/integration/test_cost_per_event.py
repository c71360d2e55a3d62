"""What one relayed event costs, in figures that no noise can move.

Each event is a chunk, a write and a read of its own: the worker sends the next one only when the
client has got the one before. Between event 50 and event 250 everything is counted; the difference,
divided by 200, is the cost of one event. No time is measured.

Counted: calls of Python functions and of C functions made by the gateway's own code (and by
uvicorn's protocol classes), tasks, JSON decodes; and, of a gateway in a process of its own, the
system calls that read or write (`/proc/PID/io`; waiting in epoll is not among them).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
import uvloop

import gateway
from tests.support.gateway import SinkName, run_gateway
from tests.support.scripted import DONE, ROLE, Exchange, chat_event, scripted, usage_event

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

FIRST, LAST = 50, 250
EVENT = chat_event(" word")
# Background work, due by the clock and not by events.
BACKGROUND = {"watch_loop_lag", "RequestLog.flush"}
GATEWAY = str(Path(gateway.__file__).parent)
COUNTED = (GATEWAY, str(Path(uvicorn.__file__).parent / "protocols"))

# The bounds, by sink. Raise one only with a reason: the promise is to cost next to nothing.
# Resuming a coroutine counts as a call of each function that it is suspended in: four of the
# thirteen. What is written in Cython (httptools, uvloop) is not seen.
PYTHON_CALLS = {"transport": 7, "asgi": 13}
C_CALLS = {"transport": 10, "asgi": 19}
READS_AND_WRITES = 2


class Counting:
    """Counts, as a profiler of this thread, what the gateway's code calls."""

    def __init__(self) -> None:
        self.python: Counter[str] = Counter()
        self.c: Counter[str] = Counter()
        self.decodes = 0
        self.tasks = 0

    def snapshot(self) -> tuple[Counter[str], Counter[str], int, int]:
        """The counts up to now."""
        return self.python.copy(), self.c.copy(), self.decodes, self.tasks

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        """For `sys.setprofile`."""
        code = frame.f_code
        if not code.co_filename.startswith(COUNTED) or self._background(frame):
            return
        if event == "call":
            self.python[code.co_qualname] += 1
        elif event == "c_call":
            name = getattr(argument, "__qualname__", repr(argument))
            self.c[f"{code.co_qualname}: {name}"] += 1
            owner = type(getattr(argument, "__self__", None)).__module__
            if owner.partition(".")[0] in ("msgspec", "json", "_json"):
                self.decodes += 1

    def new_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> Any:
        """A task factory that counts."""
        self.tasks += 1
        return asyncio.Task(coro, loop=loop, **more)

    @staticmethod
    def _background(frame: FrameType) -> bool:
        caller = frame.f_back
        names = {frame.f_code.co_qualname, caller.f_code.co_qualname if caller else ""}
        return bool(names & BACKGROUND)


class Handshake:
    """A worker that sends an event when it is told to, and a client that tells it so when it has
    got the one before."""

    def __init__(self) -> None:
        self._turn: asyncio.Semaphore = asyncio.Semaphore(0)

    async def answer(self, x: Exchange) -> None:
        """The worker's script."""
        await x.head()
        for event in (ROLE, *[EVENT] * LAST, usage_event(5, LAST), DONE):
            await self._turn.acquire()
            await x.chunks(event)
        await x.last_chunk()

    async def relay(self, port: int, at: Callable[[int], None]) -> None:
        """One stream, event by event; `at` is told how many token events have come."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"model": "demo", "stream": True, "messages": []}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self._turn.release()
        await reader.readuntil(ROLE)
        for number in range(1, LAST + 1):
            self._turn.release()
            await reader.readuntil(EVENT)
            at(number)
        for _ in range(2):  # the usage event, which is hidden, and the end
            self._turn.release()
        assert (await reader.read()).endswith(DONE + b"\r\n0\r\n\r\n")
        writer.close()
        await writer.wait_closed()


NO_TIMERS: dict[str, Any] = {
    "discovery_interval": "1h",
    "timeouts__head_hold": "1h",
    "timeouts__worker_keep_alive": "1h",
}


async def count(sink: SinkName) -> tuple[Counter[str], Counter[str], int, int]:
    """What the 200 events between the first and the last snapshot cost."""
    counting, handshake = Counting(), Handshake()
    snapshots = []

    def at(number: int) -> None:
        if number in (FIRST, LAST):
            snapshots.append(counting.snapshot())

    async with (
        scripted(handshake.answer) as worker,
        run_gateway(worker.url, sink=sink, **NO_TIMERS) as running,
    ):
        asyncio.get_running_loop().set_task_factory(counting.new_task)
        sys.setprofile(counting.profile)
        try:
            await handshake.relay(running.port, at)
        finally:
            sys.setprofile(None)
            asyncio.get_running_loop().set_task_factory(None)
    (python0, c0, decodes0, tasks0), (python1, c1, decodes1, tasks1) = snapshots
    return python1 - python0, c1 - c0, decodes1 - decodes0, tasks1 - tasks0


def per_event(counts: Counter[str]) -> dict[str, float]:
    """By function, the costly first: what a failure shows."""
    return {name: count / (LAST - FIRST) for name, count in counts.most_common()}


@pytest.fixture(scope="module", params=["transport", "asgi"])
def cost(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """The counts on one sink, on the event loop that the product runs on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return request.param, runner.run(count(request.param))


def test_python_calls_per_event(cost: tuple[str, Any]) -> None:
    """Calls of functions of the gateway, for one event from socket to socket."""
    sink, (python, _, _, _) = cost
    assert python.total() > 0
    assert python.total() <= PYTHON_CALLS[sink] * (LAST - FIRST), per_event(python)


def test_c_calls_per_event(cost: tuple[str, Any]) -> None:
    """Calls that the gateway makes into C: parsers, searches, clocks, the transport."""
    sink, (_, c, _, _) = cost
    assert c.total() > 0
    assert c.total() <= C_CALLS[sink] * (LAST - FIRST), per_event(c)


def test_no_task_per_event(cost: tuple[str, Any]) -> None:
    """A task switch was what cost most."""
    assert cost[1][3] == 0


def test_no_json_decode_per_event(cost: tuple[str, Any]) -> None:
    """A token event is recognised by its bytes; no event is read by its format."""
    _, (python, _, decodes, _) = cost
    assert decodes == 0
    assert not any(name.endswith("Format.read") for name in python)


def reads_and_writes(pid: int) -> int:
    """System calls of a process that have read or written."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    counters = dict(line.split(": ") for line in lines)
    return int(counters["syscr"]) + int(counters["syscw"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's /proc/PID/io")
async def test_system_calls_per_event() -> None:
    """One read of the worker's socket and one write to the client's."""
    handshake = Handshake()
    counts: list[int] = []
    async with scripted(handshake.answer) as worker:
        flags = {
            "worker": worker.url, "port": "0", "admin-port": "0", "discovery-interval": "1h",
            "timeouts-head-hold": "1h", "log-requests": "false",
        }  # fmt: skip
        command = [part for name, value in flags.items() for part in (f"--{name}", value)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "serve", *command, stderr=asyncio.subprocess.PIPE
        )
        try:
            assert process.stderr is not None
            async with asyncio.timeout(30):
                port, ready = 0, False
                while not (port and ready):
                    line = (await process.stderr.readline()).decode()
                    assert line, "the gateway has ended"
                    if "clients on" in line:
                        port = int(line.rpartition(":")[2])
                    ready = ready or "serves demo" in line

            def at(number: int) -> None:
                if number in (FIRST, LAST):
                    counts.append(reads_and_writes(process.pid))

            await handshake.relay(port, at)
        finally:
            process.kill()
            await process.wait()
    # A call at either end may not have been finished when it was counted.
    assert counts[1] - counts[0] <= READS_AND_WRITES * (LAST - FIRST) + 2

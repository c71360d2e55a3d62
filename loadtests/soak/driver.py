"""The soak's clients: one process, many connections, one request after another on each.

Bare sockets on an event loop: nothing is read that was not asked for, so that a slow reader is
really slow. Prints lines of JSON: how many requests are done, and at the end what was sent, and
what was not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic

import httptools
import uvloop

from loadtests.soak.mix import Act, End, Kind, deck, kinds

PATIENCE_S = 90.0
"""Longer than any request here may take, by far."""
PREFILL_S = 0.01
"""How long a client that leaves in prefill waits."""
SLOW_READS, SLOW_PAUSE_S, SLOW_BYTES = 10, 0.03, 4096
SMALL_WINDOW_BYTES, LARGE_WINDOW_BYTES = 4096, 2**20
READ_BYTES = 2**18
BODY_LEFT_BYTES = 500
DEAF_LOOK_S = 0.5
TELL_S = 0.5
SOCKETS = Path("/proc/net/tcp")
ESTABLISHED = "01"


class Seen:
    """One answer, as far as it has been read."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.begun = False
        self.over = False
        self.error_event = False
        self.tail = b""

    def feed(self, data: bytes) -> None:
        """Bytes from the gateway."""
        self.begun = True
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """httptools: a part of the body."""
        window = self.tail + data
        self.error_event = self.error_event or b'data: {"error"' in window
        self.tail = window[-32:]

    def on_message_complete(self) -> None:
        """httptools: the answer is whole."""
        self.over = True

    def wrong(self, kind: Kind) -> str:
        """What is not as `kind` says it must be; empty if all is."""
        if not self.begun:
            return "connection closed before an answer"
        status = self.parser.get_status_code()
        done = self.tail.rstrip().endswith(b"[DONE]")
        if kind.end is End.CUT and status == 200:
            if self.over or done:
                return "clean end of a stream that was cut"
            return "" if self.error_event else "stream was cut without an error event"
        if status != (502 if kind.end is End.CUT else kind.status):
            return f"status {status}"
        whole = self.over and (done or not kind.stream or status != 200)
        return "" if whole else "answer is not whole"


class Client:
    """One client: a request after another, on one connection for as long as it lasts."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None

    async def do(self, kind: Kind) -> str:
        """One request. Returns what was not as it must be; empty if all was."""
        keep = False
        try:
            async with asyncio.timeout(PATIENCE_S):
                sock = await self._connection(kind.act)
                await self._loop.sock_sendall(sock, _sent(kind))
                seen = await self._after(sock, kind)
                keep = seen is not None and seen.over and seen.parser.should_keep_alive()
                return seen.wrong(kind) if seen is not None else ""
        except TimeoutError:
            return "no end"
        except httptools.HttpParserError:
            return "answer is not HTTP"
        except OSError as error:
            return type(error).__name__
        finally:
            if not keep:
                self.close()

    def close(self) -> None:
        """Leave, whatever is under way."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _connection(self, act: Act) -> socket.socket:
        if act in _SLOW:
            self.close()
        if self._socket is None:
            self._socket = socket.socket()
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if act in _SLOW:
                self._set_window(self._socket, SMALL_WINDOW_BYTES)
            await self._loop.sock_connect(self._socket, self._address)
        return self._socket

    async def _after(self, sock: socket.socket, kind: Kind) -> Seen | None:
        """What the client does once it has sent. None: it leaves, and wants to know nothing."""
        act = kind.act
        if act is Act.READ:
            return await self._read(sock, Seen())
        if act is Act.LEAVE_PREFILL:
            await asyncio.sleep(PREFILL_S)
        elif act in (Act.LEAVE_DECODE, Act.RESET_DECODE):
            await self._loop.sock_recv(sock, READ_BYTES)
            if act is Act.RESET_DECODE:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif act is Act.HALF_CLOSE:
            await self._loop.sock_recv(sock, READ_BYTES)
            sock.shutdown(socket.SHUT_WR)
            await self._read_to_close(sock)
        elif act in (Act.READ_SLOWLY, Act.LEAVE_SLOWLY):
            seen = Seen()
            for _ in range(SLOW_READS):
                await asyncio.sleep(SLOW_PAUSE_S)
                seen.feed(await self._loop.sock_recv(sock, SLOW_BYTES))
            if act is Act.LEAVE_SLOWLY:
                return None
            self._set_window(sock, LARGE_WINDOW_BYTES)
            return await self._read(sock, seen)
        elif act is Act.DEAF:
            while not given_up(sock):  # noqa: ASYNC110 - nothing can tell a client that does not read
                await asyncio.sleep(DEAF_LOOK_S)
        return None

    async def _read(self, sock: socket.socket, seen: Seen) -> Seen:
        while not seen.over:
            data = await self._loop.sock_recv(sock, READ_BYTES)
            if not data:
                break
            seen.feed(data)
        return seen

    async def _read_to_close(self, sock: socket.socket) -> None:
        with suppress(ConnectionError):
            while await self._loop.sock_recv(sock, READ_BYTES):
                pass

    @staticmethod
    def _set_window(sock: socket.socket, size: int) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def given_up(sock: socket.socket) -> bool:
    """Has the other side, on this machine, closed its end? What it said last waits behind all that
    has not been read, so the socket itself cannot tell; the kernel's table of sockets does."""
    try:
        mine, other = sock.getsockname()[1], sock.getpeername()[1]
    except OSError:
        return True  # it was reset
    for line in SOCKETS.read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if local.endswith(f":{other:04X}") and remote.endswith(f":{mine:04X}"):
            return state != ESTABLISHED
    return True


_SLOW = frozenset({Act.READ_SLOWLY, Act.LEAVE_SLOWLY, Act.DEAF})


def _sent(kind: Kind) -> bytes:
    name = kind.name.replace(" ", "-").replace(",", "").encode()
    request = kind.request.replace(b"\r\n", b"\r\nX-Request-Id: %b\r\n" % name, 1)
    return request[:-BODY_LEFT_BYTES] if kind.act is Act.LEAVE_BODY else request


@dataclass
class Tally:
    """What has been sent, and what was not as it should be."""

    sent: Counter[str] = field(default_factory=Counter)
    done: int = 0
    wrong: Counter[str] = field(default_factory=Counter)


async def drive(options: argparse.Namespace) -> Tally:
    """Run all clients until enough has been sent, for long enough."""
    tally = Tally()
    cards = deck(kinds(), Random(options.seed))  # noqa: S311 - an order, no secret
    until_s = monotonic() + options.seconds

    async def one_client() -> None:
        client = Client(("127.0.0.1", options.port))
        while tally.sent.total() < options.requests or monotonic() < until_s:
            kind = next(cards)
            tally.sent[kind.name] += 1
            wrong = await client.do(kind)
            if wrong:
                tally.wrong[f"{kind.name}: {wrong}"] += 1
            tally.done += 1
        client.close()

    telling = asyncio.create_task(_tell(tally))
    async with asyncio.TaskGroup() as group:
        for _ in range(options.clients):
            group.create_task(one_client())
    telling.cancel()
    return tally


async def _tell(tally: Tally) -> None:
    while True:
        print(json.dumps({"done": tally.done}), flush=True)
        await asyncio.sleep(TELL_S)


def main() -> int:
    """The process's entry."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak.driver", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="the gateway's client port")
    parser.add_argument("--requests", type=int, default=1000, help="send at least so many (1000)")
    parser.add_argument("--seconds", type=float, default=0.0, help="for at least so long (0)")
    parser.add_argument("--clients", type=int, default=48, help="at once (48)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of requests (0)")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tally = runner.run(drive(options))
    print(json.dumps({"done": tally.done, "sent": tally.sent, "wrong": tally.wrong}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

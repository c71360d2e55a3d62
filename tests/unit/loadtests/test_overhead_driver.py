"""The load driver's own correctness: it counts what is right, and notices what is wrong."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from typing import TYPE_CHECKING, Self

import pytest

from loadtests.overhead.driver import Driver, Load

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")) and os.environ.get("CI") != "true",
    reason="no C compiler (in CI that is a failure)",
)

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":" x"},"finish_reason":null}]}\n\n'
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = Load("stream", 1, warm_s=0.0, window_s=0.05, events=3, gap_us=1_000)


@pytest.fixture
def driver() -> Iterator[Driver]:
    with Driver(core=min(os.sched_getaffinity(0))) as running:
        yield running


class ScriptedWorker:
    """Answers every request with the same bytes, cut into pieces, on a real socket."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while connection.recv(4096):
                        for piece in self._pieces:
                            connection.sendall(piece)
                except OSError:
                    continue


def answer(events: list[bytes]) -> bytes:
    """A chunked event stream, an event to a chunk."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("mode", ["stream", "json"])
def test_its_own_worker_satisfies_its_own_client(driver: Driver, mode: str) -> None:
    """Direct, nothing in between: every request ends as it should."""
    load = Load("json" if mode == "json" else "stream", 4, 0.0, 0.1, events=5, gap_us=1_000)
    window = driver.run(driver.port, load, lambda: None).window
    assert window.failures == {}
    assert window.requests > 0
    assert (window.events > 0) is (mode == "stream")


def test_the_meter_is_read_once_as_the_window_begins_and_once_as_it_ends(driver: Driver) -> None:
    """In this order."""
    readings = iter(["first", "second"])
    measured = driver.run(driver.port, STREAM, lambda: next(readings))
    assert (measured.before, measured.after) == ("first", "second")


def test_an_answer_may_be_cut_anywhere(driver: Driver) -> None:
    """A proxy owes nobody the worker's chunks or writes."""
    whole = answer([ROLE, TOKEN + TOKEN, TOKEN, FINISH, DONE])
    pieces = [whole[at : at + 11] for at in range(0, len(whole), 11)]
    with ScriptedWorker(pieces) as worker:
        window = driver.run(worker.port, STREAM, lambda: None).window
    assert window.failures == {}
    assert window.requests > 0


@pytest.mark.parametrize(
    ("whole", "kind"),
    [
        pytest.param(answer([ROLE, TOKEN, TOKEN, FINISH, DONE]), "wrong_events", id="lost"),
        pytest.param(answer([ROLE, *[TOKEN] * 4, FINISH, DONE]), "wrong_events", id="doubled"),
        pytest.param(answer([ROLE, *[TOKEN] * 3, FINISH]), "wrong_events", id="no DONE"),
        pytest.param(answer([ROLE, *[TOKEN] * 3, DONE]), "wrong_events", id="no finish"),
        pytest.param(answer([ROLE, TOKEN, FINISH, TOKEN, TOKEN, DONE]), "protocol", id="order"),
        pytest.param(answer([ROLE, b"datum: x\n\n"]), "protocol", id="no event"),
        pytest.param(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status", id="503"),
    ],
)
def test_an_answer_that_is_wrong_is_an_error(driver: Driver, whole: bytes, kind: str) -> None:
    """A proxy that loses, doubles or reorders events must not pass for being fast."""
    with ScriptedWorker([whole]) as worker:
        window = driver.run(worker.port, STREAM, lambda: None).window
    assert set(window.failures) == {kind}
    assert window.errors > 0

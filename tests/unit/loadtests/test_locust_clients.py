"""The two clients of the load generator, against a simulated worker: both see the same things."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.sim.options import SimOptions
from gateway.sim.sim import Sim
from loadtests.chat.raw import RawClient
from loadtests.chat.sdk import SdkClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from loadtests.chat.answer import Answer
    from loadtests.chat.client import Client

TOKENS = 6


@pytest.fixture(params=["raw", "openai"])
def client_class(request: pytest.FixtureRequest) -> type[RawClient | SdkClient]:
    """Each test runs with both."""
    return RawClient if request.param == "raw" else SdkClient


@asynccontextmanager
async def worker(*faults: str) -> AsyncIterator[Sim]:
    """A quick one, that misbehaves as asked."""
    async with Sim(SimOptions(ttft_s=0.02, itl_s=0.005, faults=faults)) as sim:
        yield sim


async def ask(client: Client, model: str = "demo") -> Answer:
    """One answer; the clients block."""
    return await asyncio.to_thread(client.ask, model, "hello", TOKENS)


@asynccontextmanager
async def connected(
    client_class: type[RawClient | SdkClient], url: str
) -> AsyncIterator[RawClient | SdkClient]:
    """A client, closed at the end."""
    client = client_class(url, None, 10.0)
    try:
        yield client
    finally:
        client.close()


async def test_an_answer_is_timed(client_class: type[RawClient | SdkClient]) -> None:
    """First token, gaps, tokens as the worker counts them; the connection serves the next too."""
    async with worker() as sim, connected(client_class, sim.url) as client:
        for _ in range(2):
            answer = await ask(client)
            assert answer.failure is None
            assert answer.tokens == TOKENS
            assert len(answer.gaps_s) == TOKENS - 1
            assert answer.ttft_s is not None
            assert 0.02 <= answer.ttft_s < 5
            assert answer.tpot_s is not None
            assert 0 < answer.tpot_s < 5
            assert answer.ended_at_s >= answer.last_at_s


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("no-done", "stream ended without [DONE]"),
        ("truncate@3", "stream ended without [DONE]"),
        ("error@4=503", "error event: 503"),
        ("status=503", "HTTP 503 503"),
        ("status=400", "HTTP 400 400"),
    ],
)
async def test_a_failure_has_the_same_name_for_both(
    client_class: type[RawClient | SdkClient], fault: str, failure: str
) -> None:
    """One that does not differ from answer to answer, so that they add up."""
    async with worker(fault) as sim, connected(client_class, sim.url) as client:
        assert str((await ask(client)).failure) == failure


@pytest.mark.parametrize("fault", ["reset@4", "bad-chunk@4", "eof@4"])
async def test_an_answer_that_is_cut_is_a_failure(
    client_class: type[RawClient | SdkClient], fault: str
) -> None:
    """What came before the cut still counts."""
    async with worker(f"sleep@3=50ms,{fault}") as sim, connected(client_class, sim.url) as client:
        answer = await ask(client)
    assert answer.failure is not None
    assert answer.ttft_s is not None


async def test_a_kept_connection_that_was_closed_is_no_failure(
    client_class: type[RawClient | SdkClient],
) -> None:
    """Servers close idle connections; clients connect again."""
    async with worker("stale=now,first=1") as sim, connected(client_class, sim.url) as client:
        assert (await ask(client)).failure is None
        await asyncio.sleep(0.05)  # the worker's FIN is on its way
        assert (await ask(client)).failure is None


async def test_nobody_there_is_a_failure(client_class: type[RawClient | SdkClient]) -> None:
    """Not an exception: the user goes on asking."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with connected(client_class, f"http://127.0.0.1:{unused.getsockname()[1]}") as client:
            answer = await ask(client)
    assert str(answer.failure).startswith("connection lost: Conn")

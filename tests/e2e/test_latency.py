"""The gateway's latency figures are what a client measures."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.bodies import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    chat,
    completion,
    message,
    response,
)
from tests.conformance.targets import Gateway, start_gateway, start_simulator
from tests.e2e.latency import Agreement, compare

STREAMS = 4
ROUNDS = 8


async def assert_figures_agree(gateway: Gateway, path: str, bodies: list[dict[str, Any]]) -> None:
    """Each agrees in one of a few rounds: a busy machine drives them apart, nothing together."""
    apart: dict[str, Agreement] = {}
    for number in range(ROUNDS):
        agreements = await compare(gateway, path, bodies)
        assert all(each.client.count == each.gateway.count for each in agreements)
        open_figures = {each.figure for each in agreements} if number == 0 else apart.keys()
        apart = {
            each.figure: each
            for each in agreements
            if each.figure in open_figures and not each.holds
        }
        if not apart:
            return
    assert apart == {}


@pytest.fixture(scope="module", params=["sim", pytest.param("vllm", marks=pytest.mark.vllm)])
def measured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that only this module uses, or in front of the engines that all use."""
    if request.param == "vllm":
        yield request.getfixturevalue("gateway")
        return
    folder = tmp_path_factory.mktemp("measured")
    url, simulator = start_simulator(folder / "simulator.log")
    try:
        gateway = start_gateway([url], folder / "gateway.log")
        yield gateway
        gateway.program.stop()
    finally:
        simulator.stop()


async def test_chat_figures_agree(measured: Gateway) -> None:
    """TTFT, TPOT and ITL of chats: as many samples, and the same means to 2 % or 1 ms."""
    messages = [
        [{"role": "user", "content": f"Number {number} " + "fox " * 50 * number}]
        for number in range(STREAMS)
    ]
    bodies = [chat(messages=each, max_tokens=100) for each in messages]
    await assert_figures_agree(measured, CHAT, bodies)


async def test_completion_figures_agree(measured: Gateway) -> None:
    """The same of completions."""
    bodies = [
        completion(prompt=f"Number {number}", max_tokens=20 * (number + 1))
        for number in range(STREAMS)
    ]
    await assert_figures_agree(measured, COMPLETIONS, bodies)


async def test_response_figures_agree(measured: Gateway) -> None:
    """The same of responses, where what comes before the first text is no token."""
    bodies = [
        response(input=f"Number {number}", max_output_tokens=20 * (number + 1))
        for number in range(STREAMS)
    ]
    await assert_figures_agree(measured, RESPONSES, bodies)


async def test_message_figures_agree(measured: Gateway) -> None:
    """The same of messages."""
    bodies = [
        message(
            messages=[{"role": "user", "content": f"Number {number}"}], max_tokens=20 * (number + 1)
        )
        for number in range(STREAMS)
    ]
    await assert_figures_agree(measured, MESSAGES, bodies)


async def test_one_token_has_no_time_per_token(measured: Gateway) -> None:
    """A stream of one token counts for TTFT alone."""
    agreements = await compare(measured, COMPLETIONS, [completion(max_tokens=1)])
    assert [each.gateway.count for each in agreements] == [1, 0, 0]

"""A client that leaves the gateway frees the engine, in whatever phase its request is.

vLLM counts no aborted requests when a client leaves (`finished_reason="abort"` stays as it is), so
the proof is that the engine runs and queues nothing any more, while the tokens that it was asked
for were not generated.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.conformance.answers import wait_until
from tests.conformance.bodies import CHAT, COMPLETIONS, chat, completion
from tests.conformance.samples import total
from tests.conformance.targets import Gateway
from tests.conformance.test_abort import GENERATED, RUNNING, TOKENS, WAITING, send
from tests.support.engine import MAX_MODEL_LEN, Engine

pytestmark = pytest.mark.vllm

FREE_WITHIN_S = 1.0
SEED = iter(range(7, 400))
STREAM = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@pytest.fixture(autouse=True)
def quiet_engine(queueing_engine: Engine) -> None:
    """Each case begins with an engine that has nothing to do."""
    wait_until(lambda: busy(queueing_engine) == 0, "the engine has nothing to do")


def busy(engine: Engine) -> float:
    """Requests that the engine has, running or waiting."""
    return total(engine.url, RUNNING) + total(engine.url, WAITING)


def in_flight(gateway: Gateway) -> float:
    """Requests that the gateway has."""
    return total(gateway.admin_url, "vllm_gateway_requests_in_flight")


def assert_soon(condition: Callable[[], bool], what: str) -> None:
    """`condition()` becomes true within the time that the gateway promises."""
    begin = time.monotonic()
    wait_until(condition, what)
    assert time.monotonic() - begin <= FREE_WITHIN_S, what


@contextmanager
def two_that_run(gateway: Gateway, engine: Engine) -> Iterator[None]:
    """Two streams that fill the engine."""
    body = chat(max_tokens=TOKENS, stream=True)
    with ExitStack() as stack:
        for _ in range(engine.max_num_seqs):
            stack.enter_context(send(gateway.url, CHAT, body))
        wait_until(lambda: total(engine.url, RUNNING) == engine.max_num_seqs, "the engine is full")
        yield


@STREAM
def test_leaving_the_engines_queue(
    queueing_gateway: Gateway, queueing_engine: Engine, stream: bool
) -> None:
    """A request that waits in the engine's queue leaves it, and those that run go on."""
    url = queueing_engine.url
    with two_that_run(queueing_gateway, queueing_engine):
        with send(queueing_gateway.url, CHAT, chat(max_tokens=TOKENS, stream=stream)):
            wait_until(lambda: total(url, WAITING) == 1, "the third waits")
        assert_soon(lambda: total(url, WAITING) == 0, "nothing waits any more")
        assert total(url, RUNNING) == queueing_engine.max_num_seqs
    assert_soon(lambda: busy(queueing_engine) == 0, "the engine is free")


@STREAM
def test_leaving_in_prefill(
    queueing_gateway: Gateway, queueing_engine: Engine, stream: bool
) -> None:
    """A request whose prompt is being read is stopped before its first token."""
    url = queueing_engine.url
    before = total(url, GENERATED)
    # Prompts of their own, so that none comes from the prefix cache, and seconds of work.
    prompts = [[next(SEED)] * (MAX_MODEL_LEN - 100) for _ in range(6)]
    body = completion(prompt=prompts, max_tokens=64, stream=stream)
    with send(queueing_gateway.url, COMPLETIONS, body):
        wait_until(lambda: total(url, RUNNING) > 0, "the engine has begun")
    assert_soon(lambda: busy(queueing_engine) == 0, "the engine is free")
    assert total(url, GENERATED) - before < 64 * len(prompts)


@STREAM
def test_leaving_in_decode(
    queueing_gateway: Gateway, queueing_engine: Engine, stream: bool
) -> None:
    """A request that has tokens already is stopped long before its last."""
    url = queueing_engine.url
    before = total(url, GENERATED)
    with send(queueing_gateway.url, CHAT, chat(max_tokens=TOKENS, stream=stream)):
        wait_until(lambda: total(url, GENERATED) > before, "the engine generates")
    assert_soon(lambda: busy(queueing_engine) == 0, "the engine is free")
    assert total(url, GENERATED) - before < TOKENS


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, chat(max_tokens=TOKENS, stream=True)), (CHAT, chat(max_tokens=TOKENS))],
    ids=["stream", "whole"],
)
def test_gateway_forgets_the_request(
    queueing_gateway: Gateway, queueing_engine: Engine, path: str, body: dict[str, Any]
) -> None:
    """The gateway has nothing in flight any more, and counts one client that left."""
    admin = queueing_gateway.admin_url
    before = total(admin, "vllm_gateway_requests_total", outcome="client_closed")
    with send(queueing_gateway.url, path, body):
        wait_until(lambda: total(queueing_engine.url, RUNNING) == 1, "the request runs")
        assert in_flight(queueing_gateway) == 1
    assert_soon(lambda: in_flight(queueing_gateway) == 0, "nothing is in flight")
    after = total(admin, "vllm_gateway_requests_total", outcome="client_closed")
    assert after - before == 1

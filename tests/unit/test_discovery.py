"""What a worker serves, as its `/v1/models` tells it."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from gateway.pool.discovery import learn_models, parse_models, resolve_names
from gateway.pool.registry import Registry
from gateway.terms import Model, Worker

LIST = b'{"object":"list","data":[{"id":"m"},{ "id" : "n" , "root":"\\u00e9" }]}'


def test_each_entry_keeps_its_bytes() -> None:
    """The gateway's own list is made of them."""
    assert parse_models(LIST) == (
        Model(name="m", entry=b'{"id":"m"}'),
        Model(name="n", entry=b'{ "id" : "n" , "root":"\\u00e9" }'),
    )


def test_a_worker_may_serve_nothing() -> None:
    """An empty list is a list."""
    assert parse_models(b'{"data":[]}') == ()


@pytest.mark.parametrize(
    "body",
    [b"", b"no", b"[]", b"{}", b'{"data":null}', b'{"data":{}}', b'{"data":[{}]}',
     b'{"data":[{"id":7}]}', b'{"data":["m"]}', b'{"data":[{"id":"m"}]',
     b'{"data":[{"id":"\xff"}]}'],
)  # fmt: skip
def test_what_is_no_list_of_models_is_refused(body: bytes) -> None:
    """The worker then counts as away; it does not take the gateway's loop down."""
    with pytest.raises(ValueError, match=r"^/v1/models: |utf-8"):
        parse_models(body)


class Answers:
    """A `Fetch` that gives one answer after another, then cancels its caller."""

    def __init__(self, *answers: tuple[int, bytes] | OSError) -> None:
        self._answers = list(answers)

    async def __call__(self, worker: Worker, path: str) -> tuple[int, bytes]:
        assert (worker.url, path) == ("http://a:1", "/v1/models")
        if not self._answers:
            raise asyncio.CancelledError
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


async def learn(registry: Registry, *answers: tuple[int, bytes] | OSError) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await learn_models(registry, registry.workers[0], Answers(*answers), 0.0)


async def test_a_worker_that_answers_is_reachable() -> None:
    """And its models are known."""
    registry = Registry([Worker("http://a:1", "a", 1)])
    await learn(registry, (200, LIST))
    assert list(registry.models) == ["m", "n"]


@pytest.mark.parametrize(
    "answer", [(500, b""), (200, b"no"), (401, b"{}"), OSError("connection refused")]
)
async def test_a_worker_that_does_not_answer_is_away(answer: tuple[int, bytes] | OSError) -> None:
    """Whatever it does instead; and it is asked again."""
    registry = Registry([Worker("http://a:1", "a", 1)])
    await learn(registry, (200, LIST), answer)
    assert not registry.ready
    await learn(registry, answer, (200, LIST))
    assert registry.ready


async def test_a_worker_that_stays_away_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A line for each look would bury the log; a new reason is news."""
    registry = Registry([Worker("http://a:1", "a", 1)])
    with caplog.at_level(logging.INFO, "gateway.pool"):
        await learn(registry, *[OSError("refused")] * 3, *[(500, b"")] * 2, (200, LIST))
    assert [record.getMessage() for record in caplog.records] == [
        "worker http://a:1 is not available: refused",
        "worker http://a:1 is not available: /v1/models answered 500",
        "worker http://a:1 serves m, n",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address_needs_no_name_service(host: str) -> None:
    """One look, and done."""
    worker = Worker("http://x:1", host, 1)
    await resolve_names(worker, 1.0)
    assert worker.addresses == (host,)

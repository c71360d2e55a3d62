"""What the integration tests share: uvloop, as in production, and the two sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import uvloop

if TYPE_CHECKING:
    from tests.support.gateway import SinkName


def pytest_asyncio_loop_factories() -> dict[str, object]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["transport", "asgi"])
def sink(request: pytest.FixtureRequest) -> SinkName:
    """Where the relay writes: the test runs on both."""
    name: SinkName = request.param
    return name


@pytest.fixture(params=[True, False], ids=["stream", "whole"])
def stream(request: pytest.FixtureRequest) -> bool:
    """A streamed or a whole answer: the test runs with both."""
    streamed: bool = request.param
    return streamed

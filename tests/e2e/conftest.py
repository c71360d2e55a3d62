"""Gateways in front of real engines."""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.conformance.targets import Gateway, start_gateway
from tests.support import engine

API_KEY = "sk-e2e-one"
OTHER_API_KEY = "sk-e2e-two"


@pytest.fixture(scope="session")
def gateway(
    engines: tuple[engine.Engine, engine.Engine], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """In front of both engines, open to everyone."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    started = start_gateway([each.url for each in engines], log)
    yield started
    started.program.stop()


@pytest.fixture(scope="session")
def guarded_gateway(
    engines: tuple[engine.Engine, engine.Engine], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """In front of both engines, for two keys."""
    log = tmp_path_factory.mktemp("guarded-gateway") / "log"
    keys = {"VLLM_GATEWAY_API_KEYS": f"{API_KEY},{OTHER_API_KEY}"}
    started = start_gateway([each.url for each in engines], log, keys)
    yield started
    started.program.stop()


@pytest.fixture(scope="session")
def queueing_engine(engines: tuple[engine.Engine, engine.Engine]) -> engine.Engine:
    """The engine that runs two sequences at once, and queues the rest."""
    return engines[1]


@pytest.fixture(scope="session")
def queueing_gateway(
    queueing_engine: engine.Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """In front of the queueing engine alone."""
    log = tmp_path_factory.mktemp("queueing-gateway") / "log"
    started = start_gateway([queueing_engine.url], log)
    yield started
    started.program.stop()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK, as a user has it: only the base URL differs."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused") as sdk:
        yield sdk


@pytest.fixture
async def async_client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    """The same, for asyncio."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused") as sdk:
        yield sdk

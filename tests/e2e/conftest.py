"""Gateways in front of real engines, and the SDKs that talk to them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import anthropic
import openai
import pytest

from tests.conformance.targets import Gateway, start_gateway, start_simulator
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


@pytest.fixture(scope="session")
def pooling_gateway(
    pooling_engine: engine.Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """In front of the engine that embeds."""
    log = tmp_path_factory.mktemp("pooling-gateway") / "log"
    started = start_gateway([pooling_engine.url], log)
    yield started
    started.program.stop()


@pytest.fixture(scope="session")
def transcribing_gateway(
    transcribing_engine: engine.Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """In front of the engine that hears speech."""
    log = tmp_path_factory.mktemp("transcribing-gateway") / "log"
    started = start_gateway([transcribing_engine.url], log)
    yield started
    started.program.stop()


@pytest.fixture(scope="session")
def sim_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """In front of two simulators: for what no engine of vLLM serves."""
    logs = tmp_path_factory.mktemp("sim-gateway")
    with ExitStack() as stack:
        urls = []
        for at in range(2):
            url, program = start_simulator(logs / f"sim-{at}")
            stack.callback(program.stop)
            urls.append(url)
        started = start_gateway(urls, logs / "log")
        stack.callback(started.program.stop)
        yield started


@pytest.fixture
def sim_client(sim_gateway: Gateway) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK, for the simulators."""
    with openai.OpenAI(base_url=f"{sim_gateway.url}/v1", api_key="unused") as sdk:
        yield sdk


@pytest.fixture
def pooling_client(pooling_gateway: Gateway) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK, for the engine that embeds."""
    with openai.OpenAI(base_url=f"{pooling_gateway.url}/v1", api_key="unused") as sdk:
        yield sdk


@pytest.fixture
def anthropic_client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    """Anthropic's SDK, as a user has it: only the base URL differs."""
    with anthropic.Anthropic(base_url=gateway.url, api_key="unused") as sdk:
        yield sdk


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

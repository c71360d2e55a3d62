"""The fixture `target`: every case runs against each of them, with the same assertions.

An engine serves the surfaces of one kind only, so that each kind has a fixture of its own; the
simulator serves them all.
"""

import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.conformance.targets import Target, start_gateway, start_simulator
from tests.support.engine import Engine

TIMEOUT_S = 60.0

every_target = pytest.fixture(
    scope="session",
    params=[
        "sim",
        pytest.param("vllm", marks=pytest.mark.vllm),
        "gateway+sim",
        pytest.param("gateway+vllm", marks=pytest.mark.vllm),
    ],
)


@pytest.fixture(scope="session")
def simulator_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url, program = start_simulator(tmp_path_factory.mktemp("simulator") / "log")
    yield url
    program.stop()


@pytest.fixture(scope="session")
def generating_engine(engines: tuple[Engine, Engine]) -> Engine:
    """The one that runs many sequences at once."""
    return engines[0]


def _serve(
    request: pytest.FixtureRequest, engine_fixture: str, factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """The target that the parameter names, with that engine where the worker is a real one."""
    name: str = request.param
    if name.endswith("sim"):
        worker_url: str = request.getfixturevalue("simulator_url")
    else:
        engine: Engine = request.getfixturevalue(engine_fixture)
        worker_url = engine.url
    if name.startswith("gateway+"):
        gateway = start_gateway([worker_url], factory.mktemp(name) / "log")
        try:
            with httpx.Client(base_url=gateway.url, timeout=TIMEOUT_S) as client:
                yield Target(name, gateway.url, worker_url, client)
        finally:
            gateway.program.stop()
    else:
        with httpx.Client(base_url=worker_url, timeout=TIMEOUT_S) as client:
            yield Target(name, worker_url, worker_url, client)


@every_target
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """For what generates text."""
    yield from _serve(request, "generating_engine", tmp_path_factory)


@every_target
def pooling_target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """For embeddings, and for scores made of them."""
    yield from _serve(request, "pooling_engine", tmp_path_factory)


@every_target
def classifying_target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """For classes."""
    yield from _serve(request, "classifying_engine", tmp_path_factory)


@every_target
def transcribing_target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """For speech."""
    yield from _serve(request, "transcribing_engine", tmp_path_factory)


@pytest.fixture
def worker_target(target: Target) -> Target:
    """A target that is a worker itself, for what the gateway does not pass on."""
    return target


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A case of the worker's own is no case of the gateway's."""

    def is_pointless(item: pytest.Item) -> bool:
        return "worker_target" in getattr(item, "fixturenames", ()) and "[gateway+" in item.name

    config.hook.pytest_deselected(items=[item for item in items if is_pointless(item)])
    items[:] = [item for item in items if not is_pointless(item)]


@pytest.fixture
def fresh_prompt() -> str:
    """A prompt of several hundred tokens that no worker has seen before."""
    return f"{uuid.uuid4()} " + "fox " * 600

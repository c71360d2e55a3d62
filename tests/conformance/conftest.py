"""The fixture `target`: every case runs against each of them, with the same assertions."""

import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.conformance.targets import Target, start_gateway, start_simulator
from tests.support import engine

TIMEOUT_S = 60.0


@pytest.fixture(scope="session")
def simulator_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url, program = start_simulator(tmp_path_factory.mktemp("simulator") / "log")
    yield url
    program.stop()


def _worker_url(request: pytest.FixtureRequest, worker: str) -> str:
    if worker == "sim":
        url: str = request.getfixturevalue("simulator_url")
        return url
    engines: tuple[engine.Engine, engine.Engine] = request.getfixturevalue("engines")
    return engines[0].url


@pytest.fixture(
    scope="session",
    params=[
        "sim",
        pytest.param("vllm", marks=pytest.mark.vllm),
        "gateway+sim",
        pytest.param("gateway+vllm", marks=pytest.mark.vllm),
    ],
)
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    name: str = request.param
    worker_url = _worker_url(request, name.removeprefix("gateway+"))
    if name.startswith("gateway+"):
        gateway = start_gateway([worker_url], tmp_path_factory.mktemp(name) / "log")
        try:
            with httpx.Client(base_url=gateway.url, timeout=TIMEOUT_S) as client:
                yield Target(name, gateway.url, worker_url, client)
        finally:
            gateway.program.stop()
    else:
        with httpx.Client(base_url=worker_url, timeout=TIMEOUT_S) as client:
            yield Target(name, worker_url, worker_url, client)


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

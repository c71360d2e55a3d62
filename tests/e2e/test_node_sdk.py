"""OpenAI's SDK for Node against the gateway: `openai_sdk.mjs` asks, and prints what it heard."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.targets import Gateway
from tests.support.engine import REPOSITORY, missing

pytestmark = pytest.mark.vllm

PACKAGE = "openai@7.55.0"
SCRIPT = Path(__file__).with_name("openai_sdk.mjs")


@pytest.fixture(scope="session")
def node_packages(pytestconfig: pytest.Config) -> Path:
    """The folder that has the SDK; installed where it is not there yet."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        missing(pytestconfig, "no npm, or no node: on Debian or Ubuntu apt-get install nodejs npm")
    folder = REPOSITORY / ".cache" / "node" / PACKAGE
    installed = folder / "installed"
    if not installed.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE]
        subprocess.run(command, check=True, timeout=300)
        installed.touch()
    return folder


def ask(packages: Path, gateway: Gateway, case: str) -> Any:
    """What the SDK heard."""
    command = ["node", str(SCRIPT), str(packages), f"{gateway.url}/v1", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120)
    return json.loads(done.stdout)


def test_chat_streamed(node_packages: Path, gateway: Gateway) -> None:
    """A stream, the SDK's own accumulator and the whole answer say the same; no usage unasked."""
    heard = ask(node_packages, gateway, "chat")
    assert heard["whole"] == heard["streamed"] == heard["final"] != ""
    assert heard["usage"] == 0


def test_response_streamed_and_read_again(node_packages: Path, gateway: Gateway) -> None:
    """A streamed response is read again, and continued, at the engine that has it."""
    heard = ask(node_packages, gateway, "responses")
    assert heard["last"] == "response.completed"
    assert heard["streamed"] == heard["again"] != ""
    assert heard["tokens"][1] > heard["tokens"][0]


def test_embeddings(node_packages: Path, pooling_gateway: Gateway) -> None:
    """The SDK asks for base64 by itself, and has the same numbers as those who ask for numbers."""
    heard = ask(node_packages, pooling_gateway, "embeddings")
    assert len(heard["packed"]) == 2
    for packed, plain in zip(heard["packed"], heard["plain"], strict=True):
        assert packed == pytest.approx(plain, abs=1e-4)


def test_response_cancelled(node_packages: Path, gateway: Gateway) -> None:
    """A response in the background is cancelled at the engine that makes it."""
    assert ask(node_packages, gateway, "cancelled") == {"same": True, "status": "cancelled"}


def test_sound(node_packages: Path, sim_gateway: Gateway) -> None:
    """Speech, and what is heard in it, whole, streamed and translated; in front of simulators."""
    heard = ask(node_packages, sim_gateway, "sound")
    assert heard["magic"] == "RIFF"
    assert heard["whole"] == heard["streamed"] != ""
    assert heard["translated"]


def test_errors(node_packages: Path, gateway: Gateway) -> None:
    """Errors have their class, their status and a request id."""
    heard = ask(node_packages, gateway, "errors")
    assert all(error.pop("requestID") for error in heard.values())
    not_found = {"name": "NotFoundError", "status": 404}
    assert heard["unknown"] == {**not_found, "code": "model_not_found"}
    assert heard["missing"] == {**not_found, "code": "not_found"}
    assert heard["refused"] == {"name": "BadRequestError", "status": 400, "code": 400}

"""What the cases run against: a worker by itself, or the gateway in front of one."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support.engine import MAX_MODEL_LEN, MODEL, Program, answers_ok, free_port

START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Target:
    """One server that the cases talk to."""

    name: str
    url: str
    worker_url: str
    """The worker itself: the same as `url`, unless the gateway is in front of it."""
    client: httpx.Client = field(repr=False)
    """Its base URL is `url`."""

    @property
    def is_gateway(self) -> bool:
        """Whether requests go through the gateway."""
        return self.url != self.worker_url


@dataclass(frozen=True)
class Gateway:
    """One running gateway."""

    url: str
    admin_url: str
    program: Program


def start_simulator(log: Path) -> tuple[str, Program]:
    """Start a simulator with the engines' model name; return its URL when it serves."""
    command = [sys.executable, "-m", "gateway.sim", "--model", MODEL, "--port", "0"]
    command += ["--max-model-len", str(MAX_MODEL_LEN), "--block-size", "32"]
    command += ["--ttft", "20ms", "--itl", "2ms", "--responses-store"]
    program = Program("the simulator", command, log, {})
    serving = re.compile(rf"sim: serving {MODEL} on (http://\S+)")
    try:
        program.wait_until(lambda: bool(serving.search(log.read_text())), START_TIMEOUT_S)
    except BaseException:
        program.stop()
        raise
    found = serving.search(log.read_text())
    assert found is not None
    return found[1], program


def start_gateway(
    workers: list[str], log: Path, environ: Mapping[str, str] | None = None
) -> Gateway:
    """Start a gateway in front of `workers`; return it when it is ready."""
    port, admin_port = free_port(), free_port()
    command = [sys.executable, "-m", "gateway.cli", "serve", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--admin-port", str(admin_port)]
    for worker in workers:
        command += ["--worker", worker]
    # Tests do not wait for requests that might still come while it stops.
    settings = {"VLLM_GATEWAY_TIMEOUTS_LAME_DUCK": "0", "VLLM_GATEWAY_TIMEOUTS_DRAIN": "1"}
    program = Program("the gateway", command, log, {**settings, **(environ or {})})
    url = f"http://127.0.0.1:{port}"
    try:
        program.wait_until(lambda: answers_ok(f"{url}/ready"), START_TIMEOUT_S)
    except BaseException:
        program.stop()
        raise
    return Gateway(url, f"http://127.0.0.1:{admin_port}", program)

"""A gateway in the test's own event loop, on real sockets, with either sink."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from uvicorn.server import ServerState

from gateway.api.connection import ConnectionLimits, connection_class
from gateway.app import Gateway
from gateway.config import load
from gateway.telemetry.logs import RequestLog, TextFormatter
from tests.support.raw import CLIENT_KEY, PROMPT, WORKER_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from gateway.settings import Settings

SinkName = Literal["transport", "asgi"]


class RunningGateway:
    """A gateway that listens; `url` is its client port."""

    def __init__(
        self, gateway: Gateway, server: asyncio.Server, state: ServerState, log: io.StringIO
    ) -> None:
        self.gateway = gateway
        self.port = int(server.sockets[0].getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._state = state
        self._log = log
        self._requests = io.StringIO()
        gateway.request_log = RequestLog("json", self._requests)
        self._tasks_before = asyncio.all_tasks()

    @property
    def log(self) -> str:
        """What the gateway and its server have logged, without the line per request."""
        return self._log.getvalue()

    @property
    def request_lines(self) -> list[dict[str, Any]]:
        """The request log."""
        if self.gateway.request_log is not None:
            self.gateway.request_log.flush()
        return [json.loads(line) for line in self._requests.getvalue().splitlines()]

    @property
    def waiting_bytes(self) -> int:
        """Bytes for clients that the gateway holds because they do not read."""
        connections: Any = self._state.connections
        return sum(each.transport.get_write_buffer_size() for each in connections)

    async def metrics(self) -> dict[str, float]:
        """Samples of `/metrics` as `name{label="value",…}` → value, labels sorted."""
        text = (await self.gateway.metrics.render()).decode()
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return samples

    async def outcomes(self) -> dict[str, float]:
        """Requests by outcome, of the relayed endpoints."""
        found: dict[str, float] = {}
        for name, value in (await self.metrics()).items():
            if name.startswith("vllm_gateway_requests_total{") and 'endpoint="chat"' in name:
                outcome = name.partition('outcome="')[2].partition('"')[0]
                found[outcome] = found.get(outcome, 0) + value
        return found

    async def quiet(self) -> None:
        """Wait until nothing is under way, and check that nothing is left behind."""
        gateway = self.gateway
        await until(lambda: gateway.pipeline.running == 0)
        await until(lambda: all(worker.leases == 0 for worker in gateway.registry.workers))
        await until(lambda: not self._tasks_left())
        await until(lambda: gateway.connections.open == self.idle_connections)
        assert gateway.admission.running == 0
        assert gateway.admission.queued == 0
        assert gateway.admission.inflight_bytes == 0
        told = (await gateway.metrics.render()).decode() + self.log + self._requests.getvalue()
        for secret in (PROMPT, CLIENT_KEY, WORKER_KEY):
            assert secret not in told
        # The one exception that is raised on purpose: ASGI has no other way to cut an answer.
        failures = self.log.count("Traceback (most recent call last)")
        assert failures == len(re.findall(r"(?m)^\S+\.AnswerCut$", self.log)), self.log

    async def told(self, *outcomes: str, retries: int = 0, standing: bool = True) -> None:
        """Each request is told once, in metrics and in the log, under these outcomes.

        `standing`: no worker has been marked.
        """
        await until(lambda: len(self.request_lines) >= len(outcomes))
        await self.quiet()
        metrics = await self.metrics()
        counted: Counter[str] = Counter()
        for name, value in metrics.items():
            if name.startswith("vllm_gateway_requests_total{"):
                counted[name.partition('outcome="')[2].partition('"')[0]] += int(value)
        assert counted == Counter(outcomes)
        assert Counter(line["outcome"] for line in self.request_lines) == Counter(outcomes)
        assert sum(line.get("retries", 0) for line in self.request_lines) == retries
        assert _sum(metrics, "vllm_gateway_retries_total") == retries
        if standing:
            assert all(worker.reachable for worker in self.gateway.registry.workers)

    async def tokens(self) -> dict[str, float]:
        """Counted tokens, as `completion exact` → 3."""
        found = {}
        for name, value in (await self.metrics()).items():
            if name.startswith("vllm_gateway_tokens_total{"):
                kind = name.partition('kind="')[2].partition('"')[0]
                exactness = name.partition('exactness="')[2].partition('"')[0]
                found[f"{kind} {exactness}"] = value
        return found

    @property
    def idle_connections(self) -> int:
        """Worker connections that are kept for reuse."""
        kept = self.gateway.connections._idle.values()
        return sum(each.is_open for connections in kept for each in connections)

    @property
    def gateway_tasks(self) -> int:
        """Tasks that serve requests."""
        return len(self._state.tasks)

    def _tasks_left(self) -> list[str]:
        """Tasks of the gateway, or of its server, that began after it did."""
        left = []
        for task in asyncio.all_tasks() - self._tasks_before:
            code = getattr(task.get_coro(), "cr_code", None)
            file = Path(code.co_filename) if code is not None else Path()
            if "tests" not in file.parts and {"gateway", "uvicorn"} & set(file.parts):
                left.append(task.get_name())
        return left


def _sum(metrics: dict[str, float], name: str) -> float:
    return sum(value for key, value in metrics.items() if key.partition("{")[0] == name)


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition; AssertionError where it does not come true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)


def settings(*workers: str | dict[str, str], **changes: Any) -> Settings:
    """Settings for tests: short waits between probes, no lame duck."""
    flags: dict[str, object] = {
        "workers": list(workers),
        "discovery_interval": "100ms",
        "log.requests": False,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return load(flags, None, {})


@contextlib.asynccontextmanager
async def run_gateway(
    *workers: str | dict[str, str], sink: SinkName = "transport", wait: bool = True, **changes: Any
) -> AsyncIterator[RunningGateway]:
    """Run a gateway over `workers`; `changes` are settings, `timeouts__idle="1s"` say."""
    tree = settings(*workers, **changes)
    gateway = Gateway(tree)
    limits = ConnectionLimits(
        tree.limits.max_head_bytes, tree.timeouts.client_head, tree.timeouts.write_stall
    )
    http: Any = "httptools" if sink == "asgi" else connection_class(limits, gateway.refused)
    config = uvicorn.Config(
        gateway, http=http, ws="none", lifespan="off", log_config=None, access_log=False,
        timeout_keep_alive=int(tree.timeouts.client_keep_alive),
    )  # fmt: skip
    config.load()
    state = ServerState()
    with _captured_log() as log:
        async with gateway.running():
            # uvicorn's own server takes tenths of a second to stop.
            server = await asyncio.get_running_loop().create_server(
                lambda: http_class(config=config, server_state=state, app_state={}), "127.0.0.1", 0
            )
            http_class: Any = config.http_protocol_class
            running = RunningGateway(gateway, server, state, log)
            try:
                if wait and workers:
                    reachable = gateway.registry.workers
                    await until(lambda: all(worker.reachable for worker in reachable))
                yield running
                await running.quiet()
            finally:
                server.close()
                for connection in list(state.connections):
                    connection.transport.abort()
                for task in state.tasks:
                    task.cancel()
                await until(lambda: not state.connections and not state.tasks)


@contextlib.contextmanager
def _captured_log() -> Iterator[io.StringIO]:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(TextFormatter())
    logger = logging.getLogger("gateway")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    try:
        yield log
    finally:
        logging.getLogger().removeHandler(handler)
        logger.setLevel(level)


@contextlib.asynccontextmanager
async def client(gateway: RunningGateway) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as http:
        yield http

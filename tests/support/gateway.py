"""A gateway in the test's own event loop, on real sockets, with either sink."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Literal

import httpx
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from gateway.api.connection import ConnectionLimits, connection_class
from gateway.app import Gateway
from gateway.config import Settings, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SinkName = Literal["transport", "asgi"]


class RunningGateway:
    """A gateway that listens; `url` is its client port."""

    def __init__(self, gateway: Gateway, url: str) -> None:
        self.gateway = gateway
        self.url = url
        self.port = int(url.rpartition(":")[2])

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
        assert gateway.admission.running == 0
        assert gateway.admission.queued == 0
        assert gateway.admission.inflight_bytes == 0


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition; AssertionError where it does not come true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


def settings(*workers: str, **changes: Any) -> Settings:
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
    *workers: str, sink: SinkName = "transport", wait: bool = True, **changes: Any
) -> AsyncIterator[RunningGateway]:
    """Run a gateway over `workers`; `changes` are settings, `timeouts__idle="1s"` say."""
    tree = settings(*workers, **changes)
    gateway = Gateway(tree)
    limits = ConnectionLimits(
        tree.limits.max_head_bytes, tree.timeouts.client_head, tree.timeouts.write_stall
    )
    http: Any = "httptools" if sink == "asgi" else connection_class(limits, gateway.refused)
    config = uvicorn.Config(
        gateway, host="127.0.0.1", port=0, http=http, ws="none", lifespan="on",
        log_config=None, access_log=False, timeout_graceful_shutdown=2,
        server_header=False, date_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started or serving.done())
    port = server.servers[0].sockets[0].getsockname()[1]
    running = RunningGateway(gateway, f"http://127.0.0.1:{port}")
    try:
        if wait and workers:
            reachable = gateway.registry.workers
            await until(lambda: all(worker.reachable for worker in reachable))
        yield running
        await running.quiet()
    finally:
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def client(gateway: RunningGateway) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as http:
        yield http

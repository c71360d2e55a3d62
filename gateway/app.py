"""The composition root: builds everything, owns start-up, drain and shut-down."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn

from gateway import __version__
from gateway.access.admission import Admission
from gateway.access.keys import ClientKeys
from gateway.api.admin import admin_pages
from gateway.api.connection import EXTENSION, ConnectionLimits, connection_class
from gateway.api.pages import client_pages
from gateway.api.relayed import Receive, Relayed, Scope, Send, request_id
from gateway.api.surfaces import SURFACES
from gateway.pool.discovery import learn_models, resolve_names
from gateway.pool.registry import Registry
from gateway.relay.attempt import Waits
from gateway.relay.connections import Connections
from gateway.relay.fetch import fetch
from gateway.relay.headers import worker_head_lines
from gateway.relay.pipeline import Pipeline
from gateway.routing.least_leases import LeastLeases
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import Metrics, watch_loop_lag
from gateway.telemetry.record import Record
from gateway.terms import Outcome, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gateway.config import Settings, WorkerSettings
    from gateway.errors import GatewayError

_log = logging.getLogger("gateway")

_OPERATIONAL = ("/health", "/ready")
_OUTCOME_OF_PAGE = {
    200: Outcome.OK,
    401: Outcome.UNAUTHORIZED,
    500: Outcome.INTERNAL,
    503: Outcome.UNAVAILABLE,
}


class Gateway:
    """The ASGI application of the client port. Runs under any server, or inside another app;
    `serve` runs it on its own connection class, which is faster."""

    def __init__(self, settings: Settings) -> None:
        limits, timeouts = settings.limits, settings.timeouts
        self.settings = settings
        self.registry = Registry(_worker(worker) for worker in settings.workers)
        self.connections = Connections(
            connect_timeout_s=timeouts.connect,
            keep_alive_s=timeouts.worker_keep_alive,
            max_head_bytes=limits.max_worker_head_bytes,
        )
        self.admission = Admission(
            max_running=limits.max_running,
            max_queued=limits.max_queued,
            queue_timeout_s=timeouts.queue,
            max_inflight_bytes=limits.max_inflight_bytes,
        )
        self.pipeline = Pipeline(
            admission=self.admission,
            registry=self.registry,
            policy=LeastLeases(),
            connections=self.connections,
            waits=Waits(timeouts.first_byte, timeouts.idle, timeouts.head_hold),
            max_event_bytes=limits.max_event_bytes,
        )
        self.metrics = Metrics()
        self.request_log = RequestLog(settings.log.format) if settings.log.requests else None
        keys = ClientKeys(key.get_secret_value() for key in settings.api_keys)
        self._relayed = Relayed(
            keys=keys,
            admission=self.admission,
            registry=self.registry,
            pipeline=self.pipeline,
            finish=self._finish,
            max_body_bytes=limits.max_body_bytes,
            body_timeout_s=timeouts.client_body,
            write_stall_s=timeouts.write_stall,
            allow_scheduling=settings.allow_client_scheduling,
        )
        self._pages = client_pages(
            registry=self.registry,
            keys=keys,
            draining=lambda: self.pipeline.draining,
            served=[f"{row.method} {row.path.decode()}" for row in SURFACES.values()],
        )
        self._keys_required = keys.required
        self._add_gauges()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            path = scope.get("raw_path") or scope["path"].encode()
            root = scope.get("root_path", "").encode()
            surface = SURFACES.get(path.removeprefix(root) if root else path)
            if surface is not None:
                await self._relayed(surface, scope, receive, send)
            else:
                await self._page(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._pages(scope, receive, send)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The background work: learning models, resolving names, measuring the loop's lag."""
        ask = functools.partial(
            fetch, self.connections, timeout_s=max(self.settings.timeouts.connect, 5.0)
        )
        tasks = [asyncio.create_task(watch_loop_lag(self.metrics.loop_lag))]
        for worker in self.registry.workers:
            resolving = resolve_names(worker, self.settings.resolve_interval)
            learning = learn_models(self.registry, worker, ask, self.settings.discovery_interval)
            tasks += [asyncio.create_task(resolving), asyncio.create_task(learning)]
        if not self.registry.workers:
            _log.warning("no workers are configured: name some with --worker URL")
        if not self._keys_required:
            _log.warning("no API keys are configured: everyone who reaches the port may use it")
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.connections.close()
            if self.request_log is not None:
                self.request_log.flush()

    def refused(self, error: GatewayError) -> None:
        """Something on the client port was refused before it was a request."""
        record = Record("none", outcome=error.rule.outcome, error=error.kind.value)
        record.status = error.rule.status
        record.ended_at_s = record.started_at_s
        self._finish(record)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI's share: the same record as a relayed request has, and the same last answer."""
        scope.get("extensions", {}).pop(EXTENSION, None)
        draining = self.pipeline.draining
        path = scope["path"]
        record = Record("models" if path.startswith("/v1/models") else "other")

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._pages(scope, receive, watched)
        finally:
            if path not in _OPERATIONAL:
                record.request_id = request_id(scope["headers"])
                record.outcome = _OUTCOME_OF_PAGE.get(record.status, Outcome.INVALID)
                record.ended_at_s = asyncio.get_running_loop().time()
                self._finish(record)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self.running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def _finish(self, record: Record) -> None:
        """A request has ended: its one record goes to the metrics and to the log."""
        self.metrics.observe(record)
        if self.request_log is not None:
            self.request_log.add(record)

    def _add_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("requests_in_flight", "Requests under way.", lambda: self.pipeline.running)
        gauge("requests_queued", "Requests waiting for admission.", lambda: self.admission.queued)
        gauge(
            "request_body_bytes",
            "Bytes of request bodies in memory.",
            lambda: self.admission.inflight_bytes,
        )
        gauge(
            "worker_connections",
            "Connections to workers, idle ones included.",
            lambda: self.connections.open,
        )
        self.metrics.worker_gauge(
            "worker_leases",
            "Requests under way at each worker.",
            lambda: [(worker.url, worker.leases) for worker in self.registry.workers],
        )
        self.metrics.worker_gauge(
            "worker_reachable",
            "1 where the worker answered when it was last asked for its models.",
            lambda: [(worker.url, worker.reachable) for worker in self.registry.workers],
        )


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(settings: Settings) -> int:
    """Run both ports until SIGTERM or SIGINT, then drain. Returns the exit status.

    SIGTERM: `/ready` says no at once; new requests are served for `lame_duck` more; running ones
    may finish within `drain`; the rest are told. SIGINT (a person at a terminal) skips the lame
    duck; a second signal skips the drain.
    """
    gateway = Gateway(settings)
    limits = ConnectionLimits(
        settings.limits.max_head_bytes,
        settings.timeouts.client_head,
        settings.timeouts.write_stall,
    )
    client = _server(
        gateway,
        settings.host,
        settings.port,
        settings.timeouts.client_keep_alive,
        connection_class(limits, gateway.refused),
    )
    admin = _server(
        admin_pages(gateway.metrics), settings.admin_host, settings.admin_port, 75.0, "httptools"
    )
    gateway.metrics.gauge(
        "client_connections",
        "Connections of clients, idle ones included.",
        lambda: len(client.server_state.connections),
    )
    stop = _Stop()
    async with gateway.running():
        serving = [asyncio.create_task(server.serve()) for server in (client, admin)]
        try:
            if not await _started(client, admin, serving):
                return 1
            _announce(client, admin)
            gc.collect()
            gc.freeze()  # what start-up made stays: the collector need not look at it again
            # The relay makes few cycles and frees them by hand; the default of 700 objects would
            # have the collector run many times per thousand requests.
            gc.set_threshold(10_000, 20, 20)
            await stop.first.wait()
            await _drain(gateway, client, stop)
        finally:
            for server in (client, admin):
                server.should_exit = True
            await asyncio.gather(*serving, return_exceptions=True)
    _log.info("stopped")
    return 0


class _Stop:
    """Waits for signals."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.at_terminal = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int) -> None:
        self.at_terminal = number == signal.SIGINT
        (self.second if self.first.is_set() else self.first).set()


async def _drain(gateway: Gateway, client: _Server, stop: _Stop) -> None:
    timeouts = gateway.settings.timeouts
    gateway.pipeline.draining = True
    lame_duck_s = 0.0 if stop.at_terminal else timeouts.lame_duck
    _log.info(
        "draining: %d requests under way, new ones served for %g s",
        gateway.pipeline.running,
        lame_duck_s,
    )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(lame_duck_s):
            await stop.second.wait()
    client.should_exit = True
    waits = [
        asyncio.create_task(gateway.pipeline.finished()),
        asyncio.create_task(stop.second.wait()),
    ]
    await asyncio.wait(waits, timeout=timeouts.drain, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if gateway.pipeline.running:
        _log.warning("drain ended: %d requests are cut", gateway.pipeline.running)
        gateway.pipeline.cut_all()


async def _started(client: _Server, admin: _Server, serving: list[asyncio.Task[None]]) -> bool:
    while not (client.started and admin.started):
        if any(task.done() for task in serving):
            return False
        await asyncio.sleep(0.01)
    return True


def _server(
    app: Any, host: str, port: int, keep_alive_s: float, http: type[asyncio.Protocol] | str
) -> _Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=http,
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=int(keep_alive_s),
        timeout_graceful_shutdown=5,
        backlog=4096,
    )
    return _Server(config)


def _announce(client: _Server, admin: _Server) -> None:
    for what, server in (("clients", client), ("admin", admin)):
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        _log.info("vllm-gateway %s: %s on http://%s:%s", __version__, what, host, port)


def _worker(settings: WorkerSettings) -> Worker:
    parts = urlsplit(settings.url)
    secure = parts.scheme == "https"
    key = settings.api_key
    cafile = str(settings.ca_file) if settings.ca_file else None
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    return Worker(
        url=settings.url,
        host=host,
        port=port,
        path_prefix=parts.path.encode(),
        head_lines=worker_head_lines(host, port, key.get_secret_value() if key else None),
        tls=ssl.create_default_context(cafile=cafile) if secure else None,
    )

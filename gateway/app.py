"""The composition root: builds everything, and runs what goes on in the background."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gateway.access.admission import Admission
from gateway.access.keys import ClientKeys
from gateway.api.connection import EXTENSION
from gateway.api.pages import RECORD, client_pages
from gateway.api.reading import RequestReader
from gateway.api.relayed import Receive, Relayed, Scope, Send, request_id
from gateway.api.surfaces import SURFACES, find_surface
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
    from collections.abc import AsyncIterator, Collection

    from gateway.errors import GatewayError
    from gateway.settings import Settings, WorkerSettings

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
        reader = RequestReader(
            keys=keys,
            admission=self.admission,
            registry=self.registry,
            max_body_bytes=limits.max_body_bytes,
            upload_memory_bytes=limits.max_upload_memory_bytes,
            body_timeout_s=timeouts.client_body,
            allow_scheduling=settings.allow_client_scheduling,
        )
        self._relayed = Relayed(
            reader=reader,
            pipeline=self.pipeline,
            finish=self._finish,
            write_stall_s=timeouts.write_stall,
        )
        self._pages = client_pages(
            registry=self.registry,
            keys=keys,
            draining=lambda: self.pipeline.draining,
            served=[f"{row.method} {row.path.decode()}" for row in SURFACES],
        )
        self._keys_required = keys.required
        self.client_connections: Collection[object] = ()
        """Set by `serve`; another server's connections are not ours to count."""
        self._add_gauges()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            path = scope.get("raw_path") or scope["path"].encode()
            root = scope.get("root_path", "").encode()
            found = find_surface(path.removeprefix(root) if root else path)
            if found is not None:
                await self._relayed(*found, scope, receive, send)
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
        record.request_id = request_id(scope["headers"])
        scope[RECORD] = record

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
                record.outcome = _OUTCOME_OF_PAGE.get(record.status, Outcome.INVALID)
                record.ended_at_s = monotonic()
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
            "client_connections",
            "Connections of clients, idle ones included.",
            lambda: len(self.client_connections),
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

"""Running the gateway as a process: its two ports, its signals, its drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

from gateway import __version__
from gateway.api.admin import admin_pages
from gateway.api.connection import ConnectionLimits, connection_class
from gateway.app import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.settings import Settings

_log = logging.getLogger("gateway")

_BACKLOG = 4096
# After the last answer: how long clients may take to read it before their connections are cut.
_LAST_BYTES_S = 2.0


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
    keep_alive_s = settings.timeouts.client_keep_alive
    client = _server(gateway, keep_alive_s, connection_class(limits, gateway.refused))
    admin = _server(admin_pages(gateway.metrics), keep_alive_s, "httptools")
    gateway.client_connections = client.server_state.connections
    try:
        client_socket = _listen(settings.host, settings.port, "port")
        admin_socket = _listen(settings.admin_host, settings.admin_port, "admin_port")
    except OSError as error:
        _log.error("%s", error)
        return 1
    stop = _Stop()
    async with gateway.running():
        serving = [
            asyncio.create_task(client.serve([client_socket])),
            asyncio.create_task(admin.serve([admin_socket])),
        ]
        _announce("clients", client_socket)
        _announce("admin", admin_socket)
        _tune_collector()
        await stop.first.wait()
        await _drain(gateway, client, stop)
        admin.should_exit = admin.force_exit = True
        await asyncio.gather(*serving)
    _log.info("stopped")
    return 0


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


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
        if self.first.is_set():
            self.second.set()
        else:
            self.at_terminal = number == signal.SIGINT
            self.first.set()


async def _drain(gateway: Gateway, client: _Server, stop: _Stop) -> None:
    """Finish what runs, refuse what is new; then cut what is left."""
    timeouts, pipeline = gateway.settings.timeouts, gateway.pipeline
    pipeline.draining = True
    lame_duck_s = 0.0 if stop.at_terminal else timeouts.lame_duck
    _log.info(
        "draining: %d requests under way, new ones served for %g s", pipeline.running, lame_duck_s
    )
    await _first(stop.second.wait(), timeout_s=lame_duck_s)
    client.should_exit = True  # from now on: no new connections, idle ones are closed
    await _first(pipeline.finished(), stop.second.wait(), timeout_s=timeouts.drain)
    if pipeline.running:
        _log.warning("drain ended: %d requests are cut", pipeline.running)
        pipeline.cut_all()
    connections = client.server_state.connections
    deadline_s = asyncio.get_running_loop().time() + _LAST_BYTES_S
    while connections and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110
        # uvicorn tells nobody when its last connection closes.
        await asyncio.sleep(0.02)
    client.force_exit = True


async def _first(*waits: Any, timeout_s: float) -> None:
    """Wait for the first of `waits`, at most `timeout_s`."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket. OSError says which setting cannot be had, and why."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(f"cannot listen on {host}:{port} (setting {setting}): {why}") from None


def _server(app: Any, keep_alive_s: float, http: type[asyncio.Protocol] | str) -> _Server:
    config = uvicorn.Config(
        app,
        http=http,
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=max(1, round(keep_alive_s)),
        backlog=_BACKLOG,
    )
    return _Server(config)


def _announce(what: str, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    _log.info("vllm-gateway %s: %s on http://%s:%s", __version__, what, shown, port)


def _tune_collector() -> None:
    gc.collect()
    gc.freeze()  # what start-up made stays: the collector need not look at it again
    # The relay's objects hold no cycles and go when they are done with; the default of 700 objects
    # would have the collector run many times per thousand requests, to find nothing.
    gc.set_threshold(10_000, 20, 20)

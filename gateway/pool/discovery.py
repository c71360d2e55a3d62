"""Learns in the background what each worker serves, and where its host name leads."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from gateway.terms import Model, Worker

if TYPE_CHECKING:
    from gateway.pool.registry import Registry

_log = logging.getLogger("gateway.pool")

Fetch = Callable[[Worker, str], Awaitable[tuple[int, bytes]]]
"""GET a path from a worker: status and body. Any OSError: it cannot be had."""

_RETRY_S = 1.0


class _Entry(msgspec.Struct):
    id: str
    parent: str | None = None


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


def parse_models(body: bytes) -> tuple[Model, ...]:
    """Models of a `/v1/models` answer. ValueError where it is none."""
    try:
        listed = msgspec.json.decode(body, type=_List).data
        entries = [(msgspec.json.decode(raw, type=_Entry), bytes(raw)) for raw in listed]
    except msgspec.DecodeError as error:
        raise ValueError(f"/v1/models: {error}") from None
    return tuple(Model(entry.id, entry.parent, raw) for entry, raw in entries)


async def learn_models(registry: Registry, worker: Worker, fetch: Fetch, interval_s: float) -> None:
    """Ask one worker for its models for ever: each `interval_s`, each second while it is away."""
    with contextlib.suppress(OSError):
        await _resolve(worker)  # `resolve_names` has only just begun
    why = ""
    while True:
        try:
            status, body = await fetch(worker, "/v1/models")
            if status != 200:
                hint = " (it wants a key: worker_api_key)" if status == 401 else ""
                raise ValueError(f"/v1/models answered {status}{hint}")
            models = parse_models(body)
        except (OSError, ValueError, RecursionError) as error:
            if registry.lost(worker) or why != str(error):
                why = str(error)
                _log.warning("worker %s is not available: %s", worker.url, why)
        else:
            why = ""
            if registry.learnt(worker, models):
                names = ", ".join(model.name for model in models)
                _log.info("worker %s serves %s", worker.url, names or "no model")
        await asyncio.sleep(interval_s if worker.reachable else min(_RETRY_S, interval_s))


async def resolve_names(worker: Worker, interval_s: float) -> None:
    """Keep one worker's addresses fresh for ever; an IP address needs no more than one look.

    A failed look-up keeps the addresses that were last known.
    """
    with contextlib.suppress(ValueError):
        worker.addresses = (str(ipaddress.ip_address(worker.host)),)
        return
    why = ""
    while True:
        try:
            await _resolve(worker)
        except OSError as error:
            if why != str(error):
                why = str(error)
                _log.warning("worker %s: its name does not resolve: %s", worker.url, why)
        else:
            why = ""
        await asyncio.sleep(interval_s if worker.addresses else min(_RETRY_S, interval_s))


async def _resolve(worker: Worker) -> None:
    """Look the worker's name up once. OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(worker.host, worker.port, type=socket.SOCK_STREAM)
    worker.addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))

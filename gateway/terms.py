"""The small types that all layers share, under the field's own names."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


class Outcome(StrEnum):
    """How a request ended: the one closed set for metrics, logs and spans."""

    OK = "ok"
    REFUSED = "refused"
    """The worker's own 4xx, 429 or 503, passed on."""
    INVALID = "invalid"
    """The gateway's own 4xx: the client's request was at fault."""
    UNAUTHORIZED = "unauthorized"
    LIMITED = "limited"
    UNAVAILABLE = "unavailable"
    CLIENT_CLOSED = "client_closed"
    WORKER_FAILED = "worker_failed"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. `exact` is false where the gateway counted what it relayed."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    exact: bool = True

    def after(self, earlier: Usage | None) -> Usage:
        """Together with what the same answer told earlier (Messages: input first, output last)."""
        if earlier is None:
            return self
        return Usage(
            self.prompt_tokens or earlier.prompt_tokens,
            self.completion_tokens or earlier.completion_tokens,
            self.cached_tokens or earlier.cached_tokens,
            self.exact,
        )


@dataclass(eq=False, slots=True)
class Worker:
    """One vLLM server, known by its base URL. One object per worker for as long as it is known."""

    url: str
    host: str
    port: int
    path_prefix: bytes = b""
    head_lines: bytes = b""
    """The header lines that every request to this worker carries: its `Host`, and its key."""
    tls: ssl.SSLContext | None = None
    leases: int = 0
    """Open leases, counted by `Lease` alone."""
    reachable: bool = False
    """It answered when it was last asked for its models."""
    addresses: tuple[str, ...] = ()
    """IP addresses of `host`, kept fresh in the background; empty while it does not resolve."""
    models: tuple[Model, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of a worker's `/v1/models`."""

    name: str
    parent: str | None = None
    """The base model of a LoRA adapter."""
    entry: bytes = field(default=b"", compare=False)
    """As the worker wrote it (JSON); vLLM writes another `created` and `permission` each time."""


class Lease:
    """One request's hold on one worker: opened by routing, closed exactly once."""

    __slots__ = ("_open", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._open = True
        worker.leases += 1

    def close(self) -> None:
        """Give the worker back. A second call does nothing."""
        if self._open:
            self._open = False
            self.worker.leases -= 1

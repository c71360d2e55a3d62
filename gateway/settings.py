"""The settings: one frozen tree of values. Every leaf has a sentence that says what it is.

In the tree durations are plain floats (seconds) and sizes plain ints (bytes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - pydantic looks it up when the classes are made
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from gateway.units import duration_s, duration_text, size_bytes, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

ENV_PREFIX = "VLLM_GATEWAY_"


def _worker_url(value: str) -> str:
    found = re.fullmatch(
        r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^\s/:@?#\[\]]+)(:\d{1,5})?(/[^\s?#]*)?", value
    )
    if found is None or int((found[3] or ":1")[1:]) not in range(1, 65536):
        raise ValueError("a base URL such as http://10.0.0.7:8000 (no user, query or fragment)")
    if value.rstrip("/").endswith("/v1"):
        raise ValueError("a base URL without /v1, such as http://10.0.0.7:8000")
    return value.rstrip("/")


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("more than 0")
    return value


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _list_of_workers(value: object) -> object:
    value = _split_commas(value)
    if isinstance(value, list):
        return [{"url": item} if isinstance(item, str) else item for item in value]
    return value


Duration = Annotated[float, BeforeValidator(duration_s)]
"""Seconds; 0 is allowed."""
Timeout = Annotated[float, BeforeValidator(duration_s), AfterValidator(_positive)]
"""Seconds, more than 0."""
Size = Annotated[int, BeforeValidator(size_bytes), AfterValidator(_positive)]
"""Bytes, more than 0."""
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class WorkerSettings(_Section):
    """One vLLM server."""

    url: Annotated[str, AfterValidator(_worker_url)]
    """Base URL, without `/v1`."""
    api_key: SecretStr | None = None
    """Key that the gateway shows this worker, instead of `worker_api_key`."""
    api_key_file: Path | None = None
    """File that holds that key."""
    ca_file: Path | None = None
    """PEM file of the authorities that may sign this worker's certificate (https only)."""

    @model_validator(mode="after")
    def _ca_needs_https(self) -> WorkerSettings:
        if self.ca_file is not None and not self.url.startswith("https://"):
            raise ValueError("ca_file is for workers with an https:// URL")
        return self


class Timeouts(_Section):
    """How long each wait may take."""

    connect: Timeout = 5.0
    """To open a connection to a worker."""
    first_byte: Timeout = 600.0
    """Silence of a worker before the first event or body byte: minutes of prefill are normal."""
    idle: Timeout = 300.0
    """Silence of a worker between two events or body bytes."""
    head_hold: Timeout = 10.0
    """How long a stream's head waits for the first event; then `: keep-alive` comments go down,
    one per this time."""
    write_stall: Timeout = 60.0
    """How long a client may read nothing before its connection is reset."""
    client_head: Timeout = 30.0
    """Silence of a client within a request's head."""
    client_body: Timeout = 60.0
    """Silence of a client within a request's body."""
    client_keep_alive: Timeout = 75.0
    """How long an idle client connection stays open."""
    worker_keep_alive: Duration = 4.0
    """How long an idle worker connection is kept; less than vLLM's own 5 s. 0 keeps none."""
    queue: Timeout = 30.0
    """How long a request may wait for admission."""
    lame_duck: Duration = 5.0
    """After SIGTERM: how long new requests are still served while `/ready` already says no."""
    drain: Duration = 600.0
    """After the lame duck: how long running requests may take to finish."""


class Limits(_Section):
    """The bounds of what is held in memory at once."""

    max_head_bytes: Size = 64 * 2**10
    """A client's request line and headers; more is answered 431."""
    max_worker_head_bytes: Size = 2**20
    """A worker's status line and headers; more is a worker failure (502). vLLM describes embeddings
    that are sent as bytes in one header, 112 KB for a thousand."""
    max_body_bytes: Size = 64 * 2**20
    """A request's body; more is answered 413."""
    max_upload_memory_bytes: Size = 2**20
    """What is kept in memory of a form (audio, images) whose model is not known yet; more goes to
    disk (TMPDIR)."""
    max_inflight_bytes: Size = 2**30
    """All request bodies in memory together; more is answered 503."""
    max_event_bytes: Size = 8 * 2**20
    """An unfinished event that is held back because a usage event must be hidden."""
    max_running: Count = 8192
    """Requests that run at once; more wait for admission."""
    max_queued: Annotated[int, Field(ge=0)] = 1024
    """Requests that wait for admission; more are answered 503."""


class Log(_Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written."""
    format: Literal["text", "json"] = "text"
    """One line per record: text for people, JSON for collectors."""
    requests: bool = True
    """One line per request, without prompts or keys."""


class Settings(_Section):
    """All settings of `vllm-gateway serve`."""

    workers: Annotated[tuple[WorkerSettings, ...], BeforeValidator(_list_of_workers)] = ()
    """The vLLM servers."""
    host: str = "127.0.0.1"
    """Address of the client port; 0.0.0.0 for all interfaces."""
    port: Port = 8000
    """Client port; 0 takes a free one."""
    admin_host: str = "127.0.0.1"
    """Address of the admin port."""
    admin_port: Port = 8001
    """Admin port: `/metrics`; 0 takes a free one."""
    api_keys: Annotated[tuple[SecretStr, ...], BeforeValidator(_split_commas)] = ()
    """Keys that clients may use; without any, everyone may."""
    api_keys_file: Path | None = None
    """File with one client key per line; `#` starts a comment line."""
    worker_api_key: SecretStr | None = None
    """Key that the gateway shows to all workers."""
    worker_api_key_file: Path | None = None
    """File that holds the key for all workers."""
    allow_client_scheduling: bool = False
    """Let clients send `priority`, `X-Vllm-Priority` and `X-data-parallel-rank`."""
    discovery_interval: Timeout = 5.0
    """How often each worker is asked for its models (each second while it does not answer)."""
    resolve_interval: Timeout = 10.0
    """How often workers' host names are resolved again, in the background."""
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    log: Log = Log()

    @model_validator(mode="after")
    def _workers_differ(self) -> Settings:
        urls = [worker.url for worker in self.workers]
        twice = next((url for url in urls if urls.count(url) > 1), None)
        if twice is not None:
            raise ValueError(f"workers: {twice} is named twice")
        return self


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of the tree, as documentation and command line see it."""

    path: tuple[str, ...]
    info: FieldInfo

    @property
    def name(self) -> str:
        """`timeouts.connect`"""
        return ".".join(self.path)

    @property
    def description(self) -> str:
        """What it is, in a sentence."""
        return " ".join((self.info.description or "").split())

    @property
    def env(self) -> str:
        """`VLLM_GATEWAY_TIMEOUTS_CONNECT`"""
        return ENV_PREFIX + "_".join(self.path).upper()

    @property
    def flag(self) -> str | None:
        """`--timeouts-connect`; none for a secret."""
        if self.path == ("workers",):
            return "--worker"
        if "SecretStr" in str(self.info.annotation):
            return None
        return "--" + "-".join(self.path).replace("_", "-")

    @property
    def default_text(self) -> str:
        """The default as a person would write it; empty where there is none."""
        return self.text(self.info.default)

    def value(self, number: float) -> float | str:
        """A number of this setting as YAML would hold it for a person."""
        kind = str(self.info.metadata)
        return self.text(number) if "duration_s" in kind or "size_bytes" in kind else number

    def text(self, value: Any) -> str:
        """A value of this setting as a person would write it."""
        kind = str(self.info.metadata)
        if value is None or value == ():
            return ""
        if "duration_s" in kind:
            return duration_text(value)
        if "size_bytes" in kind:
            return size_text(value)
        return str(value).lower() if isinstance(value, bool) else str(value)


def all_settings(
    model: type[BaseModel] = Settings, path: tuple[str, ...] = ()
) -> Iterator[Setting]:
    """Every leaf, in the order of the tree."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from all_settings(kind, (*path, name))
        else:
            yield Setting((*path, name), info)

"""The settings: one frozen tree, and the only reader of files, environment and flags.

Every setting has one path, such as `timeouts.connect`, and three ways to be set, the first wins:

    flag          --timeouts-connect 5s
    environment   VLLM_GATEWAY_TIMEOUTS_CONNECT=5s
    YAML file     timeouts: {connect: 5s}

Secrets have no flag: a command line is seen by everyone on the machine.
Durations are written `300ms`, `5s`, `10m`, `1h` (a bare number is seconds); sizes `64KiB`,
`1GiB` (a bare number is bytes). In the tree they are plain floats (seconds) and ints (bytes).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from gateway.units import duration_s, size_bytes, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

ENV_PREFIX = "VLLM_GATEWAY_"

# What Kubernetes sets for a Service called `vllm-gateway`: not meant for us.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_.*)?$|_PORT_\d+_(TCP|UDP|SCTP)(_.*)?$")


def _worker_url(value: str) -> str:
    found = re.fullmatch(
        r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^\s/:@?#\[\]]+)(:\d{1,5})?(/[^\s?#]*)?", value
    )
    if found is None or int((found[3] or ":1")[1:]) not in range(1, 65536):
        raise ValueError("a base URL such as http://10.0.0.7:8000 (no user, query or fragment)")
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


class ConfigError(Exception):
    """A wrong setting. The message has a line for each: its path, value, source, and what was
    expected."""


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
        value, kind = self.info.default, str(self.info.metadata)
        if value is None or value == ():
            return ""
        if "duration_s" in kind:
            return f"{value:g}s"
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


def load(
    flags: Mapping[str, object], file: Path | None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read file, environment (`os.environ` unless given) and flags (by setting name) into one tree.

    ConfigError names every wrong setting.
    """
    environ = os.environ if environ is None else environ
    sources: dict[str, str] = {}
    tree: dict[str, Any] = {}
    if file is None and environ.get(ENV_PREFIX + "CONFIG"):
        file = Path(environ[ENV_PREFIX + "CONFIG"])
    if file is not None:
        tree = _read_file(file)
    known = {setting.env: setting for setting in all_settings()}
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX) or name == ENV_PREFIX + "CONFIG":
            continue
        if _SERVICE_LINK.search(name) or text.startswith(("tcp://", "udp://")):
            continue
        if name not in known:
            raise ConfigError(
                f"{name}: there is no such setting; `vllm-gateway config` lists those there are"
            )
        _put(tree, known[name].path, text)
        sources[known[name].name] = f"environment {name}"
    by_name = {setting.name: setting for setting in known.values()}
    for name, value in flags.items():
        _put(tree, by_name[name].path, value)
        sources[name] = f"flag {by_name[name].flag}"
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(dict(item), sources, file) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from None
    return _with_secret_files(settings)


def dump(settings: Settings) -> str:
    """The effective settings as YAML, secrets masked."""
    tree = settings.model_dump(mode="json", exclude_none=True)
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return text


def _read_file(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: expected settings as `name: value` lines")
    return tree


def _put(tree: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for name in path[:-1]:
        branch = tree.get(name)
        if not isinstance(branch, dict):
            branch = tree[name] = {}
        tree = branch
    tree[path[-1]] = value


def _explain(item: dict[str, Any], sources: Mapping[str, str], file: Path | None) -> str:
    path = ".".join(str(part) for part in item["loc"])
    top = next((name for name in sources if path == name or path.startswith(name + ".")), None)
    where = sources[top] if top else str(file) if file else "settings"
    if item["type"] == "extra_forbidden":
        return f"{path}: there is no such setting (in {where})"
    value = item["input"]
    if any("key" in str(part) for part in item["loc"]):
        shown = "********"
    else:  # a whole branch may hold a secret
        short = not isinstance(value, dict | list | tuple) and len(repr(value)) <= 80
        shown = repr(value) if short else "this value"
    expected = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not path:
        return f"{expected} (in {where})"
    return f"{path} = {shown} (in {where}): expected {expected}"


def _with_secret_files(settings: Settings) -> Settings:
    """The same settings, with the keys that files hold in their places."""
    keys = list(settings.api_keys)
    if settings.api_keys_file is not None:
        lines = _read_secret(settings.api_keys_file, "api_keys_file").splitlines()
        found = [line.strip() for line in lines]
        keys += [SecretStr(key) for key in found if key and not key.startswith("#")]
        if not keys:
            # An empty file must not open the door to everyone.
            raise ConfigError(f"api_keys_file = '{settings.api_keys_file}': holds no key")
    shared = settings.worker_api_key
    if settings.worker_api_key_file is not None:
        text = _read_secret(settings.worker_api_key_file, "worker_api_key_file")
        shared = SecretStr(text.strip())
    workers = []
    for number, worker in enumerate(settings.workers):
        key = worker.api_key if worker.api_key is not None else shared
        if worker.api_key_file is not None:
            text = _read_secret(worker.api_key_file, f"workers.{number}.api_key_file")
            key = SecretStr(text.strip())
        if worker.ca_file is not None and not worker.ca_file.is_file():
            raise ConfigError(f"workers.{number}.ca_file = '{worker.ca_file}': is not a file")
        workers.append(worker.model_copy(update={"api_key": key}))
    for secret in (*keys, shared, *(worker.api_key for worker in workers)):
        if secret is not None and not re.fullmatch(r"[\x21-\x7e]+", secret.get_secret_value()):
            raise ConfigError("a key holds characters that no HTTP header can carry, or is empty")
    return settings.model_copy(update={"api_keys": tuple(keys), "workers": tuple(workers)})


def _read_secret(file: Path, name: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} = '{file}': cannot be read: {error}") from None

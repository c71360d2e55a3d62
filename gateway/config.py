"""The only reader of files, environment and flags.

Every setting has one path, such as `timeouts.connect`, and three ways to be set, the first wins:

    flag          --timeouts-connect 5s
    environment   VLLM_GATEWAY_TIMEOUTS_CONNECT=5s
    YAML file     timeouts: {connect: 5s}

Secrets have no flag: a command line is seen by everyone on the machine.
Durations are written `300ms`, `5s`, `10m`, `1h` (a bare number is seconds); sizes `64KiB`,
`1GiB` (a bare number is bytes). In the tree they are plain floats (seconds) and ints (bytes).
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import SecretStr, ValidationError

from gateway.settings import ENV_PREFIX, Settings, all_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# What Kubernetes sets for a Service called `vllm-gateway`: not meant for us.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_.*)?$|_PORT_\d+_(TCP|UDP|SCTP)(_.*)?$")


_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "model_type": "settings of its own, as `name: value` lines",
    "model_attributes_type": "settings of its own, as `name: value` lines",
}


class ConfigError(Exception):
    """A wrong setting. The message has a line for each: its path, value, source, and what was
    expected."""


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
            raise ConfigError(f"{name}: there is no such setting{_meant(name, known)}")
        if known[name].flag is None and not text.strip():
            # An unset secret in a deployment must not open the door to everyone.
            raise ConfigError(f"{name}: is set, but empty; give it a value, or unset it")
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
    for setting in all_settings():
        branch = tree
        for name in setting.path[:-1]:
            branch = branch[name]
        value = branch.get(setting.path[-1])
        if isinstance(value, int | float) and not isinstance(value, bool):
            branch[setting.path[-1]] = setting.value(value)
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
        names = [setting.name for setting in all_settings()]
        return f"{path}: there is no such setting (in {where}){_meant(path, names)}"
    value = item["input"]
    if any("key" in str(part) for part in item["loc"]):
        shown = "********"
    else:  # a whole branch may hold a secret
        short = not isinstance(value, dict | list | tuple) and len(repr(value)) <= 80
        shown = repr(value) if short else "this value"
    expected = _EXPECTED.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    expected = expected.removeprefix("Input should be ")
    if not path:
        return f"{expected} (in {where})"
    return f"{path} = {shown} (in {where}): expected {expected}"


def _meant(name: str, names: Iterable[str]) -> str:
    """A hint at the name that was probably meant."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else "; `vllm-gateway config` lists them all"


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
        if secret is None:
            continue
        if not re.fullmatch(r"[\x21-\x7e]+", secret.get_secret_value()):
            raise ConfigError("a key holds characters that no HTTP header can carry, or is empty")
        if not secret.get_secret_value().strip("*"):
            raise ConfigError("a key is masked: what `vllm-gateway config` prints is not for use")
    return settings.model_copy(update={"api_keys": tuple(keys), "workers": tuple(workers)})


def _read_secret(file: Path, name: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} = '{file}': cannot be read: {error}") from None

"""Settings: three ways to set each, and errors that name what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pydantic import SecretStr

from gateway.cli import main
from gateway.config import ConfigError, dump, load
from gateway.settings import Setting, Settings, all_settings
from gateway.units import duration_s, size_bytes

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = list(all_settings())
NO_FLAG = {"api_keys", "worker_api_key"}


def load_yaml(directory: Path, text: str, **environ: str) -> Settings:
    file = directory / "gateway.yaml"
    file.write_text(text)
    return load({}, file, environ)


def error_of(*args: Any) -> str:
    with pytest.raises(ConfigError) as error:
        load(*args)
    return str(error.value)


def value_of(settings: Settings, setting: Setting) -> Any:
    value: Any = settings
    for name in setting.path:
        value = getattr(value, name)
    return value


def example(setting: Setting, directory: Path) -> str:
    """A value that is right for a setting, and not its default."""
    kind = f"{setting.info.annotation} {setting.info.metadata}"
    if setting.name == "workers":
        return "http://10.0.0.7:8000,http://10.0.0.8:8000"
    if "SecretStr" in kind:
        return "sk-one"
    if "Path" in kind:
        file = directory / "key"
        file.write_text("sk-two\n")
        return str(file)
    for known, text in (
        ("duration_s", "1500ms"),
        ("size_bytes", "3MiB"),
        ("bool", "false" if setting.info.default else "true"),
        ("int", "17"),
        ("'debug'", "debug"),
        ("'json'", "json"),
        ("str", "10.1.2.3"),
    ):
        if known in kind:
            return text
    raise AssertionError(f"no example for {setting.name}: {kind}")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_each_setting_can_be_set_in_three_ways(setting: Setting, tmp_path: Path) -> None:
    """Flag, environment and YAML file give the same value, which is not the default's."""
    text = example(setting, tmp_path)
    tree: Any = yaml.safe_load(text)
    for name in reversed(setting.path):
        tree = {name: tree}
    by_file = load_yaml(tmp_path, yaml.safe_dump(tree))
    by_env = load({}, None, {setting.env: text})
    assert value_of(by_env, setting) == value_of(by_file, setting)
    assert by_env == by_file
    assert by_env != Settings()
    if setting.name not in NO_FLAG:
        assert load({setting.name: text}, None, {}) == by_file


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS if s.name not in NO_FLAG], ids=lambda setting: setting.name
)
def test_the_command_line_takes_each_flag(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`vllm-gateway config` shows the value that the flag has set."""
    text = example(setting, tmp_path)
    assert main(["config", str(setting.flag), *text.split(",")[:1]]) == 0
    told = capsys.readouterr().out
    assert told == dump(load({setting.name: text.split(",")[0]}, None, {}))


def test_secrets_have_no_flag() -> None:
    """A command line is seen by everyone on the machine."""
    assert {setting.name for setting in SETTINGS if setting.flag is None} == NO_FLAG


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_each_setting_says_what_it_is(setting: Setting) -> None:
    """The text of `--help` and of the reference."""
    assert setting.info.description


def test_names_of_settings_do_not_collide() -> None:
    """`timeouts.connect` and a made-up `timeouts_connect` would share a variable."""
    assert len({setting.env for setting in SETTINGS}) == len(SETTINGS)
    assert len({setting.flag or setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """And the file over the default."""
    file = tmp_path / "gateway.yaml"
    file.write_text("timeouts: {connect: 1s, idle: 1s, queue: 1s}")
    environ = {"VLLM_GATEWAY_TIMEOUTS_CONNECT": "2s", "VLLM_GATEWAY_TIMEOUTS_IDLE": "2s"}
    timeouts = load({"timeouts.connect": "3s"}, file, environ).timeouts
    assert (timeouts.connect, timeouts.idle, timeouts.queue) == (3.0, 2.0, 1.0)
    assert timeouts.drain == Settings().timeouts.drain


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    """For containers, whose command line is fixed; `--config` wins."""
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("port: 1111")
    two.write_text("port: 2222")
    environ = {"VLLM_GATEWAY_CONFIG": str(one)}
    assert load({}, None, environ).port == 1111
    assert load({}, two, environ).port == 2222


def test_workers_of_a_higher_source_replace_those_of_a_lower(tmp_path: Path) -> None:
    """They are one setting, not a sum."""
    file = tmp_path / "gateway.yaml"
    file.write_text("workers: [http://a:1, {url: http://b:2, api_key: k}]")
    assert [w.url for w in load({}, file, {}).workers] == ["http://a:1", "http://b:2"]
    environ = {"VLLM_GATEWAY_WORKERS": "http://c:3, http://d:4"}
    assert [w.url for w in load({}, file, environ).workers] == ["http://c:3", "http://d:4"]
    flags = {"workers": ["http://e:5"]}
    assert [w.url for w in load(flags, file, environ).workers] == ["http://e:5"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("timeouts.connect", "soon", "a duration such as 300ms, 5s, 10m or 1h"),
        ("timeouts.connect", "0", "more than 0"),
        ("limits.max_body_bytes", "lots", "a size such as 65536, 64KiB, 64MiB or 1GiB"),
        ("limits.max_running", "0", "greater than or equal to 1"),
        ("limits.max_queued", "-1", "greater than or equal to 0"),
        ("port", "65536", "less than or equal to 65535"),
        ("log.level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("log.requests", "perhaps", "true or false"),
    ],
)
def test_a_wrong_setting_is_named_with_value_source_and_expectation(
    name: str, value: str, expected: str, tmp_path: Path
) -> None:
    """Whoever made the mistake must find it without reading code."""
    setting = next(setting for setting in SETTINGS if setting.name == name)
    by_flag = error_of({name: value}, None, {})
    assert by_flag.startswith(f"{name} = {value!r} (in flag {setting.flag}): expected ")
    assert expected in by_flag
    by_env = error_of({}, None, {setting.env: value})
    assert by_env.startswith(f"{name} = {value!r} (in environment {setting.env}): expected ")
    file = tmp_path / "gateway.yaml"
    tree: Any = value
    for part in reversed(setting.path):
        tree = {part: tree}
    file.write_text(yaml.safe_dump(tree))
    by_file = error_of({}, file, {})
    assert by_file.startswith(f"{name} = {value!r} (in {file}): expected ")


def test_all_wrong_settings_are_named_at_once() -> None:
    """One start, one list."""
    flags = {"timeouts.connect": "soon", "port": "x"}
    lines = error_of(flags, None, {"VLLM_GATEWAY_LOG_LEVEL": "loud"}).splitlines()
    assert sorted(line.split(" ")[0] for line in lines) == ["log.level", "port", "timeouts.connect"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("prot: 8000", "prot"),
        ("timeouts: {conect: 5s}", "timeouts.conect"),
        ("workers: [{url: http://a:1, key: x}]", "workers.0.key"),
    ],
)
def test_an_unknown_name_in_the_file_is_refused(text: str, path: str, tmp_path: Path) -> None:
    """A misspelt setting must not be silently ignored."""
    with pytest.raises(ConfigError, match=f"^{path}: there is no such setting"):
        load_yaml(tmp_path, text)


def test_an_unknown_name_in_the_environment_is_refused() -> None:
    """It begins with our prefix, so it was meant for us."""
    name = "VLLM_GATEWAY_TIMEOUTS_CONECT"
    assert error_of({}, None, {name: "5s"}).startswith(f"{name}: there is no such setting")


def test_what_is_not_ours_in_the_environment_is_left_alone() -> None:
    """vLLM's own variables, say."""
    assert load({}, None, {"VLLM_PORT": "x", "PATH": "/bin"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_GATEWAY_SERVICE_HOST", "10.96.0.7"),
        ("VLLM_GATEWAY_SERVICE_PORT", "80"),
        ("VLLM_GATEWAY_SERVICE_PORT_HTTP", "80"),
        ("VLLM_GATEWAY_PORT", "tcp://10.96.0.7:80"),
        ("VLLM_GATEWAY_PORT_80_TCP", "tcp://10.96.0.7:80"),
        ("VLLM_GATEWAY_PORT_80_TCP_PROTO", "tcp"),
        ("VLLM_GATEWAY_PORT_80_TCP_PORT", "80"),
        ("VLLM_GATEWAY_PORT_80_TCP_ADDR", "10.96.0.7"),
        ("VLLM_GATEWAY_PORT_53_UDP_ADDR", "10.96.0.7"),
        ("VLLM_GATEWAY_ADMIN_SERVICE_HOST", "10.96.0.8"),
        ("VLLM_GATEWAY_ADMIN_PORT", "tcp://10.96.0.8:8001"),
        ("VLLM_GATEWAY_ADMIN_PORT_8001_TCP_ADDR", "10.96.0.8"),
    ],
)
def test_kubernetes_service_links_are_ignored(name: str, value: str) -> None:
    """Kubernetes sets them for a Service that is called `vllm-gateway`, or begins so."""
    assert load({}, None, {name: value}) == Settings()


@pytest.mark.parametrize(
    ("text", "why"),
    [("port: [", "is not YAML"), ("- a\n- b", "expected settings"), ("x", "expected settings")],
)
def test_a_file_that_is_no_settings_is_refused(text: str, why: str, tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(ConfigError, match=f"gateway.yaml: {why}"):
        load_yaml(tmp_path, text)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    """Nor does one of comments only."""
    assert load_yaml(tmp_path, "# nothing yet\n") == Settings()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """It was named, so it was meant."""
    assert "cannot be read" in error_of({}, tmp_path / "none.yaml", {})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300ms", 0.3), ("5s", 5.0), ("5", 5.0), (5, 5.0), (0.5, 0.5), ("1.5m", 90.0),
        ("10m", 600.0), ("1h", 3600.0), (" 2 s ", 2.0), ("0", 0.0),
    ],
)  # fmt: skip
def test_durations(text: object, seconds: float) -> None:
    """A bare number is seconds."""
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1s", "1d", "5 seconds", "1e3", "nan", "\u0665s", True, None, -1, float("nan")],
)
def test_what_is_no_duration(text: object) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="a duration"):
        duration_s(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536), (65536, 65536), ("7B", 7), ("64KiB", 65536), ("64 KiB", 65536),
        ("64MiB", 2**26), ("1GiB", 2**30), ("64KB", 64000), ("1MB", 10**6), ("2GB", 2 * 10**9),
    ],
)  # fmt: skip
def test_sizes(text: object, size: int) -> None:
    """Both families of units; a bare number is bytes."""
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "-1", "64kib", "1.5MiB", "64K", True, None, -1, 1.5])
def test_what_is_no_size(text: object) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="a size"):
        size_bytes(text)


@pytest.mark.parametrize(
    "url",
    [
        "10.0.0.7:8000", "ftp://a", "http://", "http://a:0", "http://a:65536", "http://u@a",
        "http://u:p@a:1", "http://a?x=1", "http://a#x", "http://a b", "http://[::1", "",
    ],
)  # fmt: skip
def test_what_is_no_worker(url: str) -> None:
    """A worker is known by its base URL."""
    with pytest.raises(ConfigError, match=r"workers\.0\.url"):
        load({"workers": [url]}, None, {})


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://a", "http://a"),
        ("http://a:8000/", "http://a:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://a.b-c.svc:443/llm/", "https://a.b-c.svc:443/llm"),
    ],
)
def test_a_worker(url: str, kept: str) -> None:
    """Its last slash goes: it would make a second worker of the same server."""
    assert [worker.url for worker in load({"workers": [url]}, None, {}).workers] == [kept]


def test_a_worker_that_is_named_twice_is_refused() -> None:
    """It would get twice its share."""
    assert "http://a:1 is named twice" in error_of({"workers": "http://a:1,http://a:1/"}, None, {})


def test_a_certificate_authority_is_for_https_only(tmp_path: Path) -> None:
    """For a plain worker it would promise what it does not keep."""
    with pytest.raises(ConfigError, match=r"^workers\.0 .*ca_file is for workers"):
        load_yaml(tmp_path, "workers: [{url: http://a:1, ca_file: /ca.pem}]")


def test_a_certificate_authority_that_is_missing_is_refused(tmp_path: Path) -> None:
    """At the start, not at the first request."""
    with pytest.raises(ConfigError, match=r"^workers\.0\.ca_file = '/none\.pem': is not a file"):
        load_yaml(tmp_path, "workers: [{url: https://a:1, ca_file: /none.pem}]")


def test_secrets_are_masked_where_settings_are_shown(tmp_path: Path) -> None:
    """The dump is for tickets."""
    tree = (
        "api_keys: [sk-one]\nworker_api_key: sk-two\n"
        "workers: [{url: http://a:1, api_key: sk-three}, http://b:2]"
    )
    settings = load_yaml(tmp_path, tree)
    for shown in (dump(settings), repr(settings), str(settings)):
        assert "sk-" not in shown
    assert yaml.safe_load(dump(settings))["api_keys"] == ["**********"]


@pytest.mark.parametrize(
    "text",
    [
        "workers: [{url: http://a:1, api_key: sk-secret, ca_file: /x}]",
        "workers: {url: http://a:1, api_key: sk-secret}",
        "workers: [{url: http://a:1, api_key: [sk-secret]}]",
        "workers: [{api_key: sk-secret}]",
        "workers: [[sk-secret]]",
        "api_keys: {sk-secret: 1}",
        "api_keys: [[sk-secret]]",
        "worker_api_key: [sk-secret]",
        "worker_api_key: sk-secret é",
    ],
)
def test_no_error_shows_a_secret(text: str, tmp_path: Path) -> None:
    """Errors go to logs."""
    with pytest.raises(ConfigError) as error:
        load_yaml(tmp_path, text)
    assert "sk-secret" not in str(error.value)


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    """The dump of settings without secrets is a file with the same settings."""
    settings = load({"timeouts.connect": "300ms", "workers": ["http://a:1"]}, None, {})
    assert load_yaml(tmp_path, dump(settings)) == settings


def test_client_keys_from_a_file_join_those_of_the_environment(tmp_path: Path) -> None:
    """One a line; blank lines and comments are none."""
    file = tmp_path / "keys"
    file.write_text("# people\nsk-two\n\n  sk-three  \n")
    environ = {"VLLM_GATEWAY_API_KEYS": "sk-one", "VLLM_GATEWAY_API_KEYS_FILE": str(file)}
    keys = [key.get_secret_value() for key in load({}, None, environ).api_keys]
    assert keys == ["sk-one", "sk-two", "sk-three"]


def test_an_empty_file_of_client_keys_does_not_open_the_door(tmp_path: Path) -> None:
    """Without keys everyone may come in: that must be said, not happen."""
    file = tmp_path / "keys"
    file.write_text("# none yet\n")
    assert "holds no key" in error_of({"api_keys_file": str(file)}, None, {})


def test_a_workers_own_key_wins_over_the_shared_one(tmp_path: Path) -> None:
    """From a file or not."""
    (tmp_path / "shared").write_text("sk-shared\n")
    (tmp_path / "own").write_text("sk-file\n")
    settings = load_yaml(
        tmp_path,
        f"worker_api_key_file: {tmp_path}/shared\nworkers: [http://a:1, "
        f"{{url: http://b:2, api_key: sk-own}}, {{url: http://c:3, api_key_file: {tmp_path}/own}}]",
    )
    assert [worker.api_key for worker in settings.workers] == [
        SecretStr("sk-shared"), SecretStr("sk-own"), SecretStr("sk-file"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["api_keys_file", "worker_api_key_file"])
def test_a_key_file_that_is_missing_is_refused(name: str, tmp_path: Path) -> None:
    """By setting and path."""
    file = tmp_path / "none"
    assert error_of({name: str(file)}, None, {}).startswith(f"{name} = '{file}': cannot be read")


@pytest.mark.parametrize("key", ["sk one", "sk\none", "é"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    """It could never match, or would break the request's head."""
    assert "a key holds characters" in error_of({}, None, {"VLLM_GATEWAY_WORKER_API_KEY": key})


def test_settings_cannot_be_changed() -> None:
    """What is in effect is what was checked."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("timeouts.connect", "5s"),
        ("limits.max_body_bytes", "64MiB"),
        ("limits.max_inflight_bytes", "1GiB"),
        ("port", "8000"),
        ("log.requests", "true"),
        ("workers", ""),
        ("worker_api_key", ""),
    ],
)
def test_defaults_are_told_as_a_person_would_write_them(name: str, text: str) -> None:
    """In `--help` and in the reference."""
    setting = next(setting for setting in SETTINGS if setting.name == name)
    assert setting.default_text == text


@pytest.mark.parametrize("name", ["API_KEYS", "WORKER_API_KEY"])
@pytest.mark.parametrize("text", ["", " "])
def test_a_secret_that_is_set_but_empty_is_refused(name: str, text: str) -> None:
    """An unset secret in a deployment must not open the door to everyone."""
    assert "is set, but empty" in error_of({}, None, {f"VLLM_GATEWAY_{name}": text})


def test_masked_keys_are_not_keys() -> None:
    """What `config` prints cannot be served with: everyone knows ten asterisks."""
    assert "is masked" in error_of({}, None, {"VLLM_GATEWAY_API_KEYS": "**********"})


def test_a_worker_url_ends_before_v1() -> None:
    """The usual slip, since `base_url` of OpenAI's SDK has it."""
    assert "without /v1" in error_of({"workers": ["http://a:8000/v1"]}, None, {})


def test_a_near_miss_is_told() -> None:
    """In the environment and in the file."""
    wrong = error_of({}, None, {"VLLM_GATEWAY_WORKER": "http://a"})
    assert "did you mean VLLM_GATEWAY_WORKERS?" in wrong

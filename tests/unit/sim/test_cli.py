"""The command line: help, bad values, and a worker that stops when it is told to."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gateway.sim.options import SimOptions, parse_duration
from tests.support.simproc import sim_process

_ROOT = Path(__file__).parents[3]


def _run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.sim", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=_ROOT,
    )


def test_help_teaches() -> None:
    done = _run("--help")
    assert done.returncode == 0
    for expected in ("--ttft", "--prefill-tokens-per-second", "X-Sim-Fault", "reset@N", "examples"):
        assert expected in done.stdout


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--ttft", "soon"), "'soon' is not a duration; write 80ms, 1.5s or 0"),
        (("--jitter", "3"), "jitter must be between 0 and 1"),
        (("--port", "99999"), "port must be between 0 and 65535"),
        (("--fault", "explode"), "unknown fault 'explode'"),
        (("--kv-blocks", "2"), "cannot hold one request"),
        (("--tls-cert", "x.pem"), "both a certificate and a key"),
        (("--api-key-file", "/nowhere/keys"), "/nowhere/keys"),
        (("--lora", "demo"), "a LoRA adapter needs a name of its own"),
        (("--task", "dream"), "invalid choice: 'dream'"),
        (("--responses-store", "-1"), "responses_store must be 0 or more"),
    ],
)
def test_bad_values_are_told(flags: tuple[str, ...], problem: str) -> None:
    done = _run("--port", "0", *flags)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_adapters_store_and_task_are_flags() -> None:
    flags = ("--lora", "sql", "--responses-store", "--task", "generate", "--ttft", "0")
    with sim_process("--model", "tiny", *flags) as sim:
        models = httpx.get(f"{sim.url}/v1/models", timeout=10).json()["data"]
        assert [model["id"] for model in models] == ["tiny", "sql"]
        body = {"input": "x", "max_output_tokens": 1, "request_id": "one"}
        made = httpx.post(f"{sim.url}/v1/responses", json=body, timeout=10).json()
        assert httpx.get(f"{sim.url}/v1/responses/one", timeout=10).json() == made
        assert httpx.post(f"{sim.url}/v1/embeddings", json={}, timeout=10).status_code == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_stops_cleanly(number: signal.Signals) -> None:
    with sim_process("--model", "tiny", "--ttft", "1m") as sim:
        models = httpx.get(f"{sim.url}/v1/models", timeout=10).json()["data"]
        assert [model["id"] for model in models] == ["tiny"]
        sim.process.send_signal(number)
        assert sim.process.wait(10) == 0


def test_an_address_in_use_is_told() -> None:
    with sim_process() as sim:
        done = _run("--port", str(sim.port))
    assert done.returncode == 2
    assert "address already in use" in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("80ms", 0.08), ("1.5s", 1.5), ("0", 0.0), ("2m", 120.0), ("3", 3.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1s", "fast", "1h", "1 s"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="model name"):
        SimOptions(models=())
    with pytest.raises(ValueError, match="max_waiting"):
        SimOptions(max_waiting=-1)


def test_it_is_a_leaf() -> None:
    """It imports nothing else of the gateway, and no web framework."""
    code = "import sys, gateway.sim.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT
    )
    modules = set(done.stdout.split())
    own = {m for m in modules if m.startswith("gateway.")}
    assert own == {m for m in own if m.startswith("gateway.sim")}
    assert not modules & {"prometheus_client", "fastapi", "uvicorn", "pydantic"}

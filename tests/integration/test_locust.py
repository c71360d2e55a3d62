"""locust, as a person runs it, against a gateway and two simulated workers.

All in processes of their own: locust patches the standard library of the one it runs in.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.simproc import sim_process

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LOCUSTFILE = ROOT / "loadtests" / "locustfile.py"
WIDE = ("--ttft-p95", "20s", "--tpot-p95", "10s", "--itl-p99", "20s")


@contextmanager
def gateway_process(*workers: str) -> Iterator[str]:
    """A gateway on free ports; gives its URL."""
    ports = [_free_port(), _free_port()]
    command = [
        *(sys.executable, "-m", "gateway.cli", "serve", "--log-requests", "false"),
        *(part for worker in workers for part in ("--worker", worker)),
        *("--port", str(ports[0]), "--admin-port", str(ports[1])),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        deadline_s = time.monotonic() + 20
        while not _ready(url):
            assert process.poll() is None, "the gateway ended by itself"
            assert time.monotonic() < deadline_s, "the gateway was not ready in time"
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=2):  # noqa: S310 - loopback
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """Two quick workers and a gateway."""
    with ExitStack() as stack:
        flags = ("--ttft", "20ms", "--itl", "2ms", "--prefill-tokens-per-second", "0")
        workers = [stack.enter_context(sim_process(*flags)).url for _ in range(2)]
        yield stack.enter_context(gateway_process(*workers))


def locust(*arguments: str, seconds: int = 1) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command = [
        *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless"),
        *("--users", "4", "--spawn-rate", "100", "--run-time", f"{seconds}s"),
        *("--only-summary", "--max-tokens", "16", *arguments),
    ]
    environment = {**os.environ, "PYTHONWARNINGS": "", "OPENAI_API_KEY": ""}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("client", ["openai", "raw"])
def test_wide_thresholds_are_met_and_the_figures_have_rows(
    gateway: str, client: str, tmp_path: Path
) -> None:
    """Exit code 0; TTFT, TPOT and ITL in locust's own rows, and in its HTML report."""
    files = {kind: tmp_path / f"run.{kind}" for kind in ("html", "json")}
    done = locust(
        *("--host", gateway, "--client", client, *WIDE, "--csv", str(tmp_path / "run")),
        *("--html", str(files["html"]), "--json-file", str(tmp_path / "run")),
        seconds=2,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = [line for line in done.stdout.splitlines() if line.endswith(": met")]
    assert [line.split(" <= ")[1] for line in verdicts] == [
        "2e+04 ms: met", "1e+04 ms: met", "2e+04 ms: met", "0 %: met",
    ]  # fmt: skip
    rows = {row["method"]: row for row in json.loads(files["json"].read_text())}
    assert set(rows) == {"POST", "TTFT", "TPOT", "ITL", "tok/s"}
    requests = rows["POST"]["num_requests"]
    assert requests > 0
    # Each answer has one first token, and 15 gaps after it.
    assert rows["TTFT"]["num_requests"] == rows["TPOT"]["num_requests"] == requests
    assert rows["ITL"]["num_requests"] == requests * 15
    assert rows["TTFT"]["min_response_time"] > 15
    assert f"{requests:,} requests, {requests * 16:,} tokens" in done.stdout
    report = files["html"].read_text()
    assert all(name in report for name in ("time to first token", "inter-token latency"))
    assert (tmp_path / "run_stats.csv").exists()


def test_a_threshold_that_cannot_be_met_fails_the_run(gateway: str) -> None:
    """Exit code 1, and a line that says which and by how much."""
    done = locust("--host", gateway, "--client", "raw", "--ttft-p95", "1ms")
    assert done.returncode == 1
    assert "ms > 1 ms: not met" in done.stdout
    assert "errors 0 % <= 0 %: met" in done.stdout


def test_failures_within_the_allowed_share_are_allowed() -> None:
    """Exit code 0, which locust alone would not give."""
    with sim_process("--ttft", "1ms", "--itl", "1ms", "--fault", "no-done,first=1") as worker:
        done = locust("--host", worker.url, "--client", "raw", "--error-share", "50%")
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_server_it_says_why_and_does_not_begin() -> None:
    """Exit code 2: nothing was measured."""
    done = locust("--host", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "chat: http://127.0.0.1:9/v1/models tells no models" in done.stderr


def test_help_explains_the_flags() -> None:
    """`./dev load --help`."""
    done = subprocess.run(
        [sys.executable, str(LOCUSTFILE), "--help"], capture_output=True, text=True, check=True
    )
    for word in ("--ttft-p95", "--shared-prefix", "OPENAI_API_KEY", "--users", "exit code"):
        assert word in done.stdout

"""Building and running the C program that plays both the worker and the clients."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from loadtests.overhead.processes import BenchError, pinned, stop

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(__file__).with_name("driver.c")
CACHE = Path(__file__).parents[2] / ".cache"
GRACE_S = 10.0
"""How long streams that are open when a window ends may take to finish."""

Meter = TypeVar("Meter")


@dataclass(frozen=True)
class Load:
    """What the clients do: ``connections`` requests in flight, each followed by the next at once.

    A stream has ``events`` token events, ``gap_us`` apart. With ``rest_us`` clients read only so
    often: far cheaper for them, but then the times they report mean nothing.
    """

    mode: Literal["stream", "json"]
    connections: int
    warm_s: float
    window_s: float
    events: int = 64
    gap_us: int = 10_000
    rest_us: int = 0

    @property
    def stream_s(self) -> float:
        """Length of one stream; starts are spread over it."""
        return self.events * self.gap_us / 1e6 if self.mode == "stream" else 0.0

    @property
    def offered_per_s(self) -> float:
        """Token events per second, when nothing is late."""
        return self.connections * 1e6 / self.gap_us


@dataclass(frozen=True)
class Times:
    """Percentiles in microseconds; zeros when there was no sample."""

    count: int = 0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    mean: float = 0.0


@dataclass(frozen=True)
class Window:
    """What the clients saw in the measured window. TTFT: request sent to first token event read."""

    seconds: float
    requests: int
    events: int
    reads: int
    open_at_end: int
    client_cpu_s: float
    worker_cpu_s: float
    ttft: Times
    itl: Times
    latency: Times
    errors: int
    failures: dict[str, int]

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds


@dataclass(frozen=True)
class Measured(Generic[Meter]):
    """A window, and what the meter read when it began and when it ended."""

    window: Window
    before: Meter
    after: Meter


def parse_window(line: str) -> Window:
    """Reads the client's last line."""
    data: dict[str, Any] = json.loads(line)
    return Window(
        # Not zero, should the client have given up before the window: too many errors.
        seconds=max(data["seconds"], 0.001),
        requests=data["requests"],
        events=data["events"],
        reads=data["reads"],
        open_at_end=data["open_at_end"],
        client_cpu_s=data["client_cpu_s"],
        worker_cpu_s=data["worker_cpu_s"],
        ttft=Times(**data["ttft_us"]),
        itl=Times(**data["itl_us"]),
        latency=Times(**data["latency_us"]),
        errors=data["errors"],
        failures={name: count for name, count in data["failures"].items() if count},
    )


def build() -> Path:
    """Compiles the driver unless this very source has been compiled before; gives the program."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    program = CACHE / f"overhead-driver-{digest}"
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BenchError(
            "no C compiler: the benchmark's load driver is one C file, compiled with gcc.\n"
            "On Debian or Ubuntu: apt-get install gcc libc6-dev"
        )
    CACHE.mkdir(exist_ok=True)
    # Built under another name: a run that starts meanwhile must not execute half a file.
    draft = program.with_suffix(".new")
    made = subprocess.run(
        [compiler, "-O2", "-o", str(draft), str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise BenchError(
            f"{SOURCE.name} does not compile with {compiler}:\n{made.stderr.strip()}\n"
            "If headers are missing, on Debian or Ubuntu: apt-get install gcc libc6-dev"
        )
    draft.replace(program)
    return program


class Driver:
    """The worker, for as long as the ``with`` block, and clients on demand; all on one core."""

    def __init__(self, core: int) -> None:
        self._program = str(build())
        self._core = core

    def __enter__(self) -> Self:
        self._worker = self._start(["worker"])
        first = _lines(self._worker).readline().split()
        if len(first) != 2:
            stop(self._worker)
            raise BenchError("the driver's worker did not start")
        self.port = int(first[1])
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._worker)
        _lines(self._worker).close()

    @property
    def worker_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, port: int, load: Load, meter: Callable[[], Meter]) -> Measured[Meter]:
        """Puts ``load`` on a port; ``meter`` is read as the window begins and ends."""
        self._set_pace(load.gap_us)
        client = self._start(["client", *_arguments(port, load, self._worker.pid)])
        # Reading its lines would wait for ever if it hung.
        watchdog = threading.Timer(load.warm_s + load.window_s + GRACE_S + 20, client.kill)
        watchdog.start()
        try:
            lines = _lines(client)
            before = _at(lines, b"begin", meter)
            after = _at(lines, b"end", meter)
            result = lines.readline().decode()
            if client.wait() != 0 or not result:
                raise BenchError(f"the load client ended with code {client.returncode}")
            return Measured(window=parse_window(result), before=before, after=after)
        finally:
            watchdog.cancel()
            stop(client)
            _lines(client).close()

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        with pinned(self._core):
            return subprocess.Popen(
                [self._program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )

    def _set_pace(self, gap_us: int) -> None:
        """Tells the worker directly, so that nothing has to pass through the proxy."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("POST", f"/bench/pace?gap_us={gap_us}")
            connection.getresponse().read()
        finally:
            connection.close()


def _arguments(port: int, load: Load, worker_pid: int) -> list[str]:
    options = {
        "port": port,
        "mode": load.mode,
        "connections": load.connections,
        "events": load.events,
        "warm-ms": round(load.warm_s * 1e3),
        "window-ms": round(load.window_s * 1e3),
        "stagger-us": round(load.stream_s * 1e6),
        "grace-ms": round(GRACE_S * 1e3),
        "rest-us": load.rest_us,
        "worker-pid": worker_pid,
    }
    return [f"--{name}={value}" for name, value in options.items()]


def _lines(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdout is None:
        raise BenchError("the driver was started without a pipe")
    return process.stdout


def _at(lines: IO[bytes], word: bytes, meter: Callable[[], Meter]) -> Meter:
    said = lines.readline().strip()
    if said != word:
        raise BenchError(f"the load client stopped before it said {word.decode()!r}")
    return meter()

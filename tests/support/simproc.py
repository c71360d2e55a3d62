"""A simulated worker as a process of its own: ``python -m gateway.sim``."""

import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_LINE = re.compile(r"sim: serving .* on (https?://\S+)")


@dataclass(frozen=True, slots=True)
class SimProcess:
    """A worker that runs."""

    url: str
    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        """For signals: SIGSTOP freezes the worker, SIGKILL is a crash."""
        return self.process.pid

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def sim_process(*flags: str, port: int = 0, start_timeout_s: float = 30.0) -> Iterator[SimProcess]:
    """Start a worker, wait for its line, and end it by its pid when the block ends.

    Raises ``RuntimeError`` with what it wrote when it does not come up.
    """
    command = [sys.executable, "-m", "gateway.sim", "--port", str(port), *flags]
    process = subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield SimProcess(_wait_for_url(process, start_timeout_s), process)
    finally:
        if process.poll() is None:
            # Not SIGTERM: a frozen process would not hear it.
            process.kill()
        process.communicate()


def _wait_for_url(process: subprocess.Popen[str], timeout_s: float) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_s
    said = ""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            break
        line = process.stdout.readline()
        said += line
        if match := _LINE.match(line):
            return match[1]
        if not line:
            break
    raise RuntimeError(f"the simulated worker did not start: {said or 'it said nothing'}")

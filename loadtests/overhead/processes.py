"""Starting children on one core, and ending them whatever happens."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from loadtests.overhead.procfs import process_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

STOP_S = 3.0
"""How long a child may take to end when asked, before it is killed."""


class BenchError(Exception):
    """Something the person who runs the benchmark has to know or mend; the message says it all."""


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Children started inside run on ``core`` alone; they inherit it, with all they start."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def two_cores() -> tuple[int, int]:
    """The cores for the proxy and for the driver."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("the benchmark needs two cores: one for the proxy, one for the driver")
    return cores[0], cores[1]


def raise_file_limit(needed: int) -> None:
    """Raises the soft limit of open files to the hard one, for the children to inherit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchError(f"{needed} open files are needed, the hard limit is {hard}: `ulimit -Hn`")


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(
    command: Sequence[str], core: int, log: Path, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts a command on one core, with all it prints in ``log``."""
    with log.open("wb") as out, pinned(core):
        return _popen(command, out, cwd)


def _popen(command: Sequence[str], out: IO[bytes], cwd: Path | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise BenchError(f"cannot start {command[0]}: {error}") from error


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its descendants, politely at first. Safe to call twice."""
    if process.poll() is not None:
        return
    tree = [stat.pid for stat in process_tree(process.pid)]
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # A server that was killed leaves its workers to init; `tree` is from before.
    left = {stat.pid for pid in tree[1:] for stat in process_tree(pid)}
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

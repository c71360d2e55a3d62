"""The demo: two simulated workers and the gateway, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE_S = 30.0

READY = """
The gateway is ready on http://127.0.0.1:{port} (metrics: http://127.0.0.1:{admin}/metrics).
Try it from another terminal:

  curl -N http://127.0.0.1:{port}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "demo", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'

or with OpenAI's SDK (paste all lines):

{python} - <<'PYTHON'
from openai import OpenAI
client = OpenAI(base_url="http://127.0.0.1:{port}/v1", api_key="none")
for event in client.chat.completions.create(
    model="demo", stream=True, messages=[{{"role": "user", "content": "Hello!"}}]
):
    print(event.choices[0].delta.content or "", end="", flush=True)
print()
PYTHON

Ctrl-C stops everything. The gateway's log follows; one line per request.
"""


class Stopped(Exception):
    """A signal, or a part that ended by itself."""


def main() -> int:
    """Run the demo. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="client port (8000)")
    parser.add_argument("--admin-port", type=int, default=8001, help="admin port (8001)")
    parser.add_argument("--sim-ports", type=int, nargs=2, default=(8100, 8101), metavar="PORT")
    parser.add_argument("--ttft", default="80ms", help="the workers' time to first token (80ms)")
    parser.add_argument("--itl", default="15ms", help="the workers' time between tokens (15ms)")
    args = parser.parse_args()
    for port in (args.port, args.admin_port, *args.sim_ports):
        if not _free(port):
            print(
                f"demo: port {port} is in use. Stop what listens there, or choose other ports "
                "(./dev demo --help).",
                file=sys.stderr,
            )
            return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as sim_log:
        try:
            workers: list[str] = []
            for port in args.sim_ports:
                command = ["sim", "--model", "demo", "--port", str(port)]
                command += ["--ttft", args.ttft, "--itl", args.itl]
                started.append(_start(command, stdout=sim_log, stderr=sim_log))
                workers += ["--worker", f"http://127.0.0.1:{port}"]
            ports = ["--port", str(args.port), "--admin-port", str(args.admin_port)]
            started.append(_start(["serve", *workers, *ports]))
            _wait_until_ready(args.port, started)
            python = Path(sys.executable)
            if python.is_relative_to(Path.cwd()):
                python = python.relative_to(Path.cwd())
            print(READY.format(port=args.port, admin=args.admin_port, python=python), flush=True)
            while True:
                time.sleep(0.2)
                _check(started)
        except Stopped as stopped:
            return _say_why(str(stopped), sim_log.fileno())
        finally:
            _end(started)


def _start(arguments: list[str], **files: object) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches this program alone, which then stops the others in order.
    command = [sys.executable, "-m", "gateway.cli", *arguments]
    return subprocess.Popen(command, start_new_session=True, **files)  # type: ignore[call-overload,no-any-return]


def _wait_until_ready(port: int, started: list[subprocess.Popen[bytes]]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        _check(started)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise Stopped(f"the gateway was not ready within {PATIENCE_S:g} s")


def _check(started: list[subprocess.Popen[bytes]]) -> None:
    for process in started:
        if process.poll() is not None:
            raise Stopped(f"{process.args!r} ended with status {process.returncode}")


def _stop(*_: object) -> None:
    """A signal handler."""
    raise Stopped("")


def _say_why(why: str, sim_log: int) -> int:
    if not why:
        print("\ndemo: stopping", file=sys.stderr)
        return 0
    print(f"demo: {why}", file=sys.stderr)
    with open(sim_log, "rb", closefd=False) as log:
        log.seek(0)
        sys.stderr.buffer.write(log.read()[-2000:])
    return 1


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    """Stop what runs, the gateway first; SIGINT skips its lame duck."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for process in reversed(started):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())

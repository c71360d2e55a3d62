"""The proxies under test: how each is started, on one core, and known to be ready."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.overhead.processes import BenchError, free_port, start

if TYPE_CHECKING:
    from collections.abc import Callable

READY_S = 30.0
"""How long a proxy may take from its start to its first 200."""

REPOSITORY = Path(__file__).parents[2]
NGINX_PACKAGE = "nginx-light"
NGINX_PLACES = ("/usr/sbin/nginx", "/usr/local/sbin/nginx", "/opt/homebrew/bin/nginx")

# One process, nothing buffered, nothing logged, kept-alive connections on both sides.
NGINX_CONF = """\
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  upstream worker {{
    server {worker};
    keepalive 2048;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://worker;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path


def start_gateway(worker_url: str, core: int, directory: Path) -> Proxy:
    """The gateway as a user starts it, with its defaults."""
    port, admin_port = free_port(), free_port()
    log = directory / "gateway.log"
    command = [
        *(sys.executable, "-m", "gateway.cli", "serve", "--worker", worker_url),
        *("--host", "127.0.0.1", "--port", str(port), "--admin-port", str(admin_port)),
    ]
    process = start(command, core, log, cwd=REPOSITORY)
    return Proxy("gateway", port, process, log)


def start_nginx(worker_url: str, core: int, directory: Path) -> Proxy:
    """nginx, unbuffered: the yardstick. All its files are in ``directory``."""
    program = find_nginx()
    port = free_port()
    conf = directory / "nginx.conf"
    worker = worker_url.removeprefix("http://")
    conf.write_text(NGINX_CONF.format(directory=directory, worker=worker, port=port))
    log = directory / "nginx.log"
    # Until it has read its configuration, nginx would log to the system's own file.
    command = [program, "-p", str(directory), "-c", str(conf), "-e", str(log)]
    process = start(command, core, directory / "nginx.out")
    return Proxy("nginx", port, process, log)


STARTERS: dict[str, Callable[[str, int, Path], Proxy]] = {
    "gateway": start_gateway,
    "nginx": start_nginx,
}

READY_PATHS = {"gateway": "/ready", "nginx": "/v1/models"}


def wait_ready(proxy: Proxy) -> None:
    """Waits until the proxy says it can serve; raises BenchError, with its last words, if not."""
    deadline = time.monotonic() + READY_S
    path = READY_PATHS[proxy.name]
    status: int | None = None
    while time.monotonic() < deadline:
        if proxy.process.poll() is not None:
            raise BenchError(f"{proxy.name} ended by itself.{last_words(proxy.log)}")
        status = _status(proxy.port, path)
        if status == 200:
            return
        time.sleep(0.05)
    answer = f"answered {status}" if status else "did not answer"
    raise BenchError(
        f"{proxy.name} {answer} at {path} after {READY_S:.0f} s.{last_words(proxy.log)}"
    )


def find_nginx() -> str:
    """Where nginx is; installs it when it is missing and we are root on a Debian."""
    found = _nginx_path()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"nginx, the yardstick, is missing: apt-get install {NGINX_PACKAGE}", file=sys.stderr)
        subprocess.run(
            ["apt-get", "install", "--yes", "--no-install-recommends", NGINX_PACKAGE],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdout=sys.stderr,
            check=False,
        )
        found = _nginx_path()
    if found is None:
        raise BenchError(
            "nginx is missing. It is the yardstick: absolute figures depend on the machine, the\n"
            f"ratio to nginx hardly does. On Debian or Ubuntu: apt-get install {NGINX_PACKAGE}\n"
            "Without a yardstick, and without ratios: --proxy gateway"
        )
    return found


def _nginx_path() -> str | None:
    # /usr/sbin is often not in the PATH of ordinary users.
    places = (path for path in NGINX_PLACES if Path(path).exists())
    return shutil.which("nginx") or next(places, None)


def _status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def last_words(log: Path) -> str:
    """The end of a proxy's log, indented, for an error message."""
    lines = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
    return "".join(f"\n  | {line}" for line in lines)

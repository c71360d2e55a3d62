"""``python -m loadtests.soak``: arguments in, a curve and a table out."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from loadtests.overhead.processes import BenchError, free_port, raise_file_limit, stop
from loadtests.overhead.procfs import tree_memory
from loadtests.overhead.proxies import REPOSITORY, Proxy, last_words, wait_ready
from loadtests.soak import report
from loadtests.soak.mix import MODEL, kinds
from loadtests.soak.readings import Figures, open_sockets, scrape
from loadtests.soak.report import Sample

EXIT_OK, EXIT_NOT_MET, EXIT_CANNOT_RUN, EXIT_INTERRUPTED = 0, 1, 2, 130

REQUESTS = 100_000
SAMPLE_S = 1.0
STUCK_S = 120.0
"""No request has ended for so long: the run is given up."""
QUIET_S = 20.0
"""How long the gateway may take to be quiet; idle worker connections are kept for 4 s."""
TELL_S = 5.0

ABOUT = f"""\
Does the gateway's memory stay flat, and does it count every request once, whatever happens?

Two simulated workers, the gateway as a user starts it, and one process that plays its clients:
whole answers and streams, clients that leave in the middle of the body, in prefill, in decode,
slow and deaf readers, wrong requests, unknown models, and workers that refuse, break, stall, or
write oddly.

checks:
  RSS           of the gateway, each second; after warm-up, the first {report.WARM_UP_SHARE:.0%},
                it may grow by {report.GROWTH_TEXT}
  requests      each is in the gateway's metrics once, under the one outcome that its kind has
  gauges        in flight, queued, body bytes, leases, client connections: 0 at the end
  open sockets  no more than before
  answers       as their kind has them: status, whole or cut, error event
  log           no error, no traceback

exit code: 0 all checks met; 1 one was not; 2 it could not run.
"""

EXAMPLES = """\
examples:
  python -m loadtests.soak                        100,000 requests, a few minutes
  python -m loadtests.soak --minutes 60           an hour, however many requests that makes
  python -m loadtests.soak --requests 1000000 --minutes 60
                                                  both: whichever takes longer
  python -m loadtests.soak --json soak.json --log gateway.log
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m loadtests.soak",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--requests", type=_count, metavar="N", help=f"at least so many ({REQUESTS:,})")
    add(
        "--minutes",
        type=_positive,
        metavar="N",
        help="at least so long; without --requests, the length alone decides",
    )
    add(
        "--stall",
        type=_positive,
        default=15.0,
        metavar="SECONDS",
        help="the gateway's idle timeout, and twice its write stall: a silent worker and a deaf"
        " client take as long, and a machine that stalls longer spoils the run (%(default)g)",
    )
    add("--clients", type=_count, default=48, metavar="N", help="at once (%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the order of requests (%(default)s)")
    add("--no-rss-bound", action="store_true", help="show memory, but do not judge it")
    add("--json", type=Path, metavar="FILE", help="write every sample and check to a file")
    add("--log", type=Path, metavar="FILE", help="keep the gateway's log")
    return result


def _count(text: str) -> int:
    return int(_positive(text))


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


@dataclass
class Run:
    """What was found."""

    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    checks: list[report.Check] = field(default_factory=list)
    curve: report.Curve | None = None
    retries: int = 0


def soak(options: argparse.Namespace) -> Run:
    """Start everything, send everything, stop everything."""
    run = Run()
    raise_file_limit(4096)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        workers = [_start_worker(stack, directory / f"worker-{n}.log") for n in (1, 2)]
        log = options.log or directory / "gateway.log"
        gateway, admin_port = _start_gateway(stack, workers, log, options.stall)
        pid = gateway.process.pid
        sockets_before = open_sockets(pid)
        before = scrape(admin_port)
        say(f"the gateway is ready (pid {pid}, RSS {tree_memory(pid).now / report.MB:.1f} MB)")
        began_s = time.monotonic()
        last = _drive(stack, gateway, options, run)
        run.seconds = time.monotonic() - began_s
        expected = _expected(last["sent"])
        after, sockets = _quiet(admin_port, pid, sockets_before, sum(expected.values()), before)
        run.retries = after.retries - before.retries
        run.curve = report.curve(run.samples)
        if run.curve is not None and not options.no_rss_bound:
            run.checks.append(report.check_memory(run.curve))
        run.checks += report.check_books(expected, before, after, (sockets_before, sockets))
        run.checks.append(report.check_clients(last["wrong"]))
        run.checks.append(report.check_log(log.read_text(errors="replace").splitlines()))
    return run


def _start_worker(stack: ExitStack, log: Path) -> str:
    port = free_port()
    command = [
        *(sys.executable, "-m", "gateway.cli", "sim", "--model", MODEL, "--port", str(port)),
        *("--ttft", "1ms", "--itl", "0.5ms", "--prefill-tokens-per-second", "0"),
        *("--max-num-seqs", "512"),
    ]
    process = _start(stack, command, log)
    wait_ready(Proxy("nginx", port, process, log))
    return f"http://127.0.0.1:{port}"


def _start_gateway(
    stack: ExitStack, workers: list[str], log: Path, stall_s: float
) -> tuple[Proxy, int]:
    port, admin_port = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "gateway.cli", "serve"),
        *(part for url in workers for part in ("--worker", url)),
        *("--port", str(port), "--admin-port", str(admin_port)),
        *("--timeouts-idle", f"{stall_s}s", "--timeouts-write-stall", f"{stall_s / 2}s"),
    ]
    gateway = Proxy("gateway", port, _start(stack, command, log), log)
    wait_ready(gateway)
    return gateway, admin_port


def _start(stack: ExitStack, command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    stack.callback(stop, process)
    return process


def _drive(
    stack: ExitStack, gateway: Proxy, options: argparse.Namespace, run: Run
) -> dict[str, dict[str, int]]:
    """Run the clients, and look at the gateway's memory meanwhile."""
    requests = options.requests or (1 if options.minutes else REQUESTS)
    seconds = (options.minutes or 0) * 60
    command = [
        *(sys.executable, "-m", "loadtests.soak.driver", "--port", str(gateway.port)),
        *("--requests", str(requests), "--seconds", str(seconds)),
        *("--clients", str(options.clients), "--seed", str(options.seed)),
    ]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    stack.callback(stop, process)
    told = _Told(process)
    began_s = moved_s = told_s = time.monotonic()
    done = 0
    while not told.finished.wait(SAMPLE_S):
        now_s = time.monotonic()
        if gateway.process.poll() is not None:
            raise BenchError(f"the gateway ended by itself.{last_words(gateway.log)}")
        if told.done != done:
            done, moved_s = told.done, now_s
        elif now_s - moved_s > STUCK_S:
            raise BenchError(f"no request has ended for {STUCK_S:.0f} s, after {done:,}")
        run.samples.append(Sample(now_s - began_s, done, tree_memory(gateway.process.pid).now))
        if now_s - told_s >= TELL_S:
            told_s = now_s
            rss = run.samples[-1].rss / report.MB
            say(f"  {now_s - began_s:5.0f} s  {done:9,} requests  RSS {rss:6.2f} MB")
    if process.wait() != 0 or "sent" not in told.last:
        raise BenchError(f"the clients ended with code {process.returncode}")
    return told.last


class _Told:
    """What the clients' process says, read on a thread."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.done = 0
        self.last: dict[str, dict[str, int]] = {}
        self.finished = threading.Event()
        self._process = process
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        with self._process.stdout as lines:
            for line in lines:
                said = json.loads(line)
                self.done = said["done"]
                if "sent" in said:
                    self.last = said
        self.finished.set()


def _expected(sent: dict[str, int]) -> Counter[str]:
    outcome_of = {kind.name: kind.outcome.value for kind in kinds()}
    expected: Counter[str] = Counter()
    for name, count in sent.items():
        expected[outcome_of[name]] += count
    return expected


def _quiet(
    admin_port: int, pid: int, sockets_before: int, sent: int, before: Figures
) -> tuple[Figures, int]:
    """Wait until nothing is under way, and then a little for what should not come."""
    deadline_s = time.monotonic() + QUIET_S
    while True:
        after, sockets = scrape(admin_port), open_sockets(pid)
        counted = after.requests - before.requests
        quiet = not any(after.gauges.values()) and sockets <= sockets_before and counted >= sent
        if quiet or time.monotonic() > deadline_s:
            return after, sockets
        time.sleep(0.2)


def _print(run: Run) -> None:
    requests = run.samples[-1].done if run.samples else 0
    rate = f", about {requests / run.seconds:,.0f} requests/s" if requests else ""
    print(f"took {run.seconds:.0f} s{rate}; {run.retries:,} retries\n")
    if run.curve is not None:
        print(report.memory_table(run.curve), end="\n\n")
    print(report.check_table(run.checks))


def main(arguments: list[str] | None = None) -> int:
    """Runs the soak; gives the exit code."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run = soak(options)
    except (BenchError, OSError, ValueError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        print("soak: interrupted; everything it started has been stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    _print(run)
    if options.json:
        options.json.write_text(json.dumps(asdict(run), indent=2) + "\n")
    return EXIT_OK if all(check.met for check in run.checks) else EXIT_NOT_MET


def say(line: str) -> None:
    """Progress, for whoever waits; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def _interrupt(*_: object) -> NoReturn:
    """SIGTERM ends the run as Ctrl-C does, so that children are stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

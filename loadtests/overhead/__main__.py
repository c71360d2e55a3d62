"""``python -m loadtests.overhead``: arguments in, tables out."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from typing import NoReturn

from loadtests.overhead import report
from loadtests.overhead.driver import Driver
from loadtests.overhead.processes import BenchError, pinned, raise_file_limit, stop, two_cores
from loadtests.overhead.proxies import STARTERS, Proxy, find_nginx, wait_ready
from loadtests.overhead.results import YARDSTICK, Bounds, Results, Verdict, verdicts
from loadtests.overhead.scenarios import (
    EXPLAINED,
    MANY_STREAMS,
    QUICK,
    Bench,
    Plan,
    Scenario,
    say,
)

EXIT_OK, EXIT_NOT_MET, EXIT_CANNOT_RUN, EXIT_INTERRUPTED = 0, 1, 2, 130

ABOUT = f"""\
What does a proxy in front of an OpenAI-style streaming worker cost?

A small C program plays a paced worker and its clients on one core; each proxy under test runs alone
on another. nginx, unbuffered, is the yardstick: it is measured in the same run, turn by turn, since
absolute figures change with the machine and the hour, and ratios hardly do.

scenarios:
{chr(10).join(f"  {name.value:<9} {what}" for name, what in EXPLAINED.items())}

figures:
  us CPU/event   user and system time of the proxy's processes, per token event relayed
  RSS            resident memory of the proxy's processes while {MANY_STREAMS:,} streams are open,
                 each with an event every 20 ms; and its peak, overload included
  saturation     token events per second when offering more brings no more; `generator-bound` means
                 that the driver's core was the limit, and then there is no ratio
  added TTFT     request sent to first token event read, median of a lone stream, less direct
  added ITL      99th percentile of the gaps between token events of a lone stream, less direct
  ratios         median of the rounds' ratios (lowest to highest)

exit code: 0 all bounds met; 1 a bound not met, or errors; 2 it could not run.
"""

EXAMPLES = """\
examples:
  python -m loadtests.overhead --quick
  python -m loadtests.overhead --only events --rounds 9
  python -m loadtests.overhead --proxy gateway --only lone --no-fail
  python -m loadtests.overhead --json overhead.json
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m loadtests.overhead",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--quick", action="store_true", help="under a minute: fewer rounds, shorter windows")
    add(
        "--rounds",
        type=_positive,
        metavar="N",
        help=f"rounds (default {Plan.rounds}; quick {QUICK.rounds})",
    )
    add(
        "--proxy",
        action="append",
        choices=sorted(STARTERS),
        help="measure only this proxy; repeatable",
    )
    add(
        "--only",
        action="append",
        choices=[each.value for each in Scenario],
        help="run only this scenario; repeatable",
    )
    add("--json", type=Path, metavar="FILE", help="write every figure and window to a file")
    add("--no-fail", action="store_true", help="exit with 0 also when a bound is not met")
    for bound in fields(Bounds):
        name = bound.name.replace("_", "-")
        add(
            f"--max-{name}",
            type=float,
            default=bound.default,
            metavar="X",
            help="bound (default %(default)s)",
        )
    return result


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def measure(proxies: list[str], scenarios: list[Scenario], plan: Plan) -> Results:
    """Starts everything, runs every scenario, ends everything."""
    results = Results()
    cores = two_cores()
    raise_file_limit(2 * MANY_STREAMS + 200)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overhead-")))
        # What runs here must not disturb the proxy, nor move about.
        stack.enter_context(pinned(cores[1]))
        driver = stack.enter_context(Driver(core=cores[1]))
        running: list[Proxy] = []
        for name in proxies:
            proxy = STARTERS[name](driver.worker_url, cores[0], directory)
            stack.callback(stop, proxy.process)
            running.append(proxy)
        for proxy in running:
            wait_ready(proxy)
            say(f"{proxy.name} is ready")
        bench = Bench(driver, running, cores, plan, results)
        for scenario in scenarios:
            bench.run(scenario)
    return results


def _versions(proxies: list[str]) -> dict[str, str]:
    found = report.installed("uvicorn", "uvloop", "httptools")
    if YARDSTICK in proxies:
        said = subprocess.run([find_nginx(), "-v"], capture_output=True, text=True, check=False)
        found["nginx"] = said.stderr.strip().rpartition("/")[2]
    return found


def _print_report(
    results: Results, proxies: list[str], found: dict[str, list[Verdict]], machine: str
) -> None:
    print(machine)
    print()
    print(report.figures_table(results, proxies))
    for name, rows in found.items():
        print(f"\n{name}")
        print(report.verdict_table(rows))
    costs = [
        f"{median(values):.1f} ({scenario})" for scenario, values in results.driver_event_us.items()
    ]
    if costs:
        print(f"\nthe driver itself, worker and clients: {', '.join(costs)} us CPU/event")
    if results.disturbed:
        print(
            f"{results.disturbed} of {len(results.windows)} windows were disturbed: other programs"
            " took more than a quarter of a core. Trust the ratios with care."
        )
    for name, counts in results.errors.items():
        if counts and name not in found:
            print(f"errors, {name}: {counts}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; gives the exit code."""
    options = parser().parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    proxies = [name for name in STARTERS if not options.proxy or name in options.proxy]
    scenarios = [each for each in Scenario if not options.only or each.value in options.only]
    bounds = Bounds(**{each.name: getattr(options, f"max_{each.name}") for each in fields(Bounds)})

    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    try:
        machine = report.machine(_versions(proxies))
        results = measure(proxies, scenarios, plan)
    except BenchError as error:
        print(f"overhead: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        print("overhead: interrupted; everything it started has been stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    say(f"took {time.monotonic() - began:.0f} s\n")

    found = {name: verdicts(results, name, bounds) for name in proxies if name != YARDSTICK}
    _print_report(results, proxies, found, machine)
    if options.json:
        content = report.as_json(results, found, machine)
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    all_met = all(each.met for rows in found.values() for each in rows)
    no_errors = not any(results.errors.values())
    return EXIT_OK if (all_met and no_errors) or options.no_fail else EXIT_NOT_MET


def _interrupt(*_: object) -> NoReturn:
    """SIGTERM ends the run as Ctrl-C does, so that children are stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

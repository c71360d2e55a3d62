"""The four scenarios. Each runs one round for every proxy in turn: A B, then A B again."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from loadtests.overhead.driver import Driver, Load, Window
from loadtests.overhead.processes import BenchError
from loadtests.overhead.procfs import (
    CoreTime,
    Memory,
    core_time,
    tree_cpu_s,
    tree_memory,
)
from loadtests.overhead.proxies import Proxy, last_words
from loadtests.overhead.results import DISTURBED, Figure, Results, Step, proxy_was_the_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STREAMS = 256
JSON_CONNECTIONS = 32
MANY_STREAMS = 1_000
LONE_EVENTS, LONE_GAP_US = 16, 2_000
CAPACITY_GAPS_US = (20_000, 12_500, 9_000, 7_000, 5_000)
"""The steps of the offer: 50,000 to 200,000 events per second of 1,000 streams."""
CAPACITY_REST_US = 20_000
"""Nobody needs times at saturation; clients that read less often leave the worker its core."""
STILL_RISING = 1.05
"""A step that gives less than this times the best so far has shown where the end is."""


class Scenario(StrEnum):
    EVENTS = "events"
    JSON = "json"
    CAPACITY = "capacity"
    LONE = "lone"


EXPLAINED = {
    Scenario.EVENTS: f"{STREAMS} streams of 64 events, 10 ms apart: CPU per event",
    Scenario.JSON: f"{JSON_CONNECTIONS} small JSON requests in flight: CPU per request",
    Scenario.CAPACITY: f"{MANY_STREAMS:,} streams: memory, and the highest throughput",
    Scenario.LONE: "one stream at a time: added TTFT and ITL, against the worker direct",
}


@dataclass(frozen=True)
class Plan:
    """How long everything takes."""

    rounds: int = 5
    capacity_rounds: int = 2
    window_s: float = 3.0
    short_window_s: float = 2.0
    """For the scenarios that gather samples faster."""
    capacity_window_s: float = 1.5
    capacity_gaps_us: tuple[int, ...] = CAPACITY_GAPS_US

    def rounds_of(self, scenario: Scenario) -> int:
        """The throughput search is long and steady: it needs fewer rounds."""
        if scenario is Scenario.CAPACITY:
            return min(self.rounds, self.capacity_rounds)
        return self.rounds


QUICK = Plan(
    rounds=2,
    capacity_rounds=1,
    window_s=1.5,
    short_window_s=1.0,
    capacity_window_s=1.0,
    capacity_gaps_us=(20_000, 9_000, 5_000),
)


@dataclass(frozen=True)
class Reading:
    """What the meters say of a proxy and of the two cores at one moment."""

    cpu_s: float
    proxy_core: CoreTime
    driver_core: CoreTime
    memory: Memory


@dataclass(frozen=True)
class Run:
    """One window through one proxy."""

    window: Window
    cpu_s: float
    proxy_core_busy: float
    driver_core_busy: float
    memory: Memory

    @property
    def driver_cpu_s(self) -> float:
        return self.window.client_cpu_s + self.window.worker_cpu_s

    @property
    def driver_event_us(self) -> float:
        """What one event costs the worker and the clients."""
        return self.driver_cpu_s / max(1, self.window.events) * 1e6

    @property
    def taken_by_others(self) -> float:
        """The larger share, of the two cores, that went to neither the proxy nor the driver."""
        return max(
            self.proxy_core_busy - self.cpu_s / self.window.seconds,
            self.driver_core_busy - self.driver_cpu_s / self.window.seconds,
        )


class Bench:
    """The driver, the proxies that run, and where results go."""

    def __init__(
        self,
        driver: Driver,
        proxies: Sequence[Proxy],
        cores: tuple[int, int],
        plan: Plan,
        results: Results,
    ) -> None:
        self._driver = driver
        self._proxies = proxies
        self._proxy_core, self._driver_core = cores
        self._plan = plan
        self._results = results

    def run(self, scenario: Scenario) -> None:
        """All rounds of one scenario."""
        one_round: dict[Scenario, Callable[[], None]] = {
            Scenario.EVENTS: self._events,
            Scenario.JSON: self._json,
            Scenario.CAPACITY: self._capacity,
            Scenario.LONE: self._lone,
        }
        rounds = self._plan.rounds_of(scenario)
        say(f"{scenario}: {EXPLAINED[scenario]}")
        for number in range(1, rounds + 1):
            say(f"  round {number} of {rounds}")
            one_round[scenario]()

    def _events(self) -> None:
        load = Load("stream", STREAMS, warm_s=0.8, window_s=self._plan.window_s)
        for proxy in self._proxies:
            run = self._through(proxy, load)
            if run.window.events == 0:
                continue
            cost = run.cpu_s / run.window.events * 1e6
            self._results.add(proxy.name, Figure.EVENT_US, cost)
            self._results.add_driver_cost(Scenario.EVENTS, run.driver_event_us)
            say(f"    {proxy.name}: {cost:.1f} us CPU per event")

    def _json(self) -> None:
        load = Load("json", JSON_CONNECTIONS, warm_s=0.4, window_s=self._plan.short_window_s)
        for proxy in self._proxies:
            run = self._through(proxy, load)
            if run.window.requests == 0:
                continue
            cost = run.cpu_s / run.window.requests * 1e6
            self._results.add(proxy.name, Figure.REQUEST_US, cost)
            say(
                f"    {proxy.name}: {cost:.1f} us CPU per request,"
                f" {run.window.requests_per_s:,.0f} requests/s"
            )

    def _capacity(self) -> None:
        for proxy in self._proxies:
            steps: list[Step] = []
            memory: list[Memory] = []
            best = 0.0
            for gap_us in self._plan.capacity_gaps_us:
                load = Load(
                    "stream",
                    MANY_STREAMS,
                    warm_s=0.8,
                    window_s=self._plan.capacity_window_s,
                    gap_us=gap_us,
                    rest_us=CAPACITY_REST_US,
                )
                run = self._through(proxy, load)
                memory.append(run.memory)
                reached = run.window.events_per_s
                self._results.add_driver_cost(Scenario.CAPACITY, run.driver_event_us)
                steps.append(Step(reached, run.proxy_core_busy, run.driver_core_busy))
                say(
                    f"    {proxy.name}: {load.offered_per_s:,.0f} events/s offered, {reached:,.0f}"
                    f" relayed; busy: proxy's core {run.proxy_core_busy:.0%},"
                    f" driver's {run.driver_core_busy:.0%}"
                )
                if reached < best * STILL_RISING:
                    break
                best = reached
            top = max(step.events_per_s for step in steps)
            self._results.add(proxy.name, Figure.SATURATION, top)
            self._results.add(proxy.name, Figure.RSS, memory[0].now)
            self._results.add(proxy.name, Figure.RSS_PEAK, memory[-1].peak)
            if not proxy_was_the_limit(steps):
                self._results.generator_bound.add(proxy.name)

    def _lone(self) -> None:
        load = Load(
            "stream",
            1,
            warm_s=0.2,
            window_s=self._plan.short_window_s,
            events=LONE_EVENTS,
            gap_us=LONE_GAP_US,
        )
        direct = self._driver.run(self._driver.port, load, lambda: None).window
        self._record("direct", load, direct, {})
        say(f"    direct: TTFT {direct.ttft.p50:.0f} us, ITL p99 {direct.itl.p99:.0f} us")
        for proxy in self._proxies:
            window = self._through(proxy, load).window
            if window.itl.count == 0:
                continue
            added = {
                Figure.TTFT_ADDED_US: window.ttft.p50 - direct.ttft.p50,
                Figure.TTFT_ADDED_P99_US: window.ttft.p99 - direct.ttft.p99,
                Figure.ITL_ADDED_US: window.itl.p50 - direct.itl.p50,
                Figure.ITL_ADDED_P99_US: window.itl.p99 - direct.itl.p99,
            }
            for figure, value in added.items():
                self._results.add(proxy.name, figure, value)
            say(
                f"    {proxy.name}: TTFT {added[Figure.TTFT_ADDED_US]:+.0f} us,"
                f" ITL p99 {added[Figure.ITL_ADDED_P99_US]:+.0f} us"
            )

    def _through(self, proxy: Proxy, load: Load) -> Run:
        """One window through a proxy, recorded."""

        def meter() -> Reading:
            root = proxy.process.pid
            return Reading(
                tree_cpu_s(root),
                core_time(self._proxy_core),
                core_time(self._driver_core),
                tree_memory(root),
            )

        # A stream's length more, so that the load is even before the window begins.
        load = replace(load, warm_s=load.warm_s + load.stream_s)
        measured = self._driver.run(proxy.port, load, meter)
        if proxy.process.poll() is not None:
            raise BenchError(f"{proxy.name} died under load.{last_words(proxy.log)}")
        before, after = measured.before, measured.after
        run = Run(
            measured.window,
            cpu_s=after.cpu_s - before.cpu_s,
            proxy_core_busy=after.proxy_core.busy_share_since(before.proxy_core),
            driver_core_busy=after.driver_core.busy_share_since(before.driver_core),
            memory=after.memory,
        )
        meters = {key: value for key, value in asdict(run).items() if key != "window"}
        self._record(proxy.name, load, run.window, meters)
        self._results.disturbed += run.taken_by_others > DISTURBED
        return run

    def _record(self, name: str, load: Load, window: Window, meters: dict[str, object]) -> None:
        self._results.windows.append(
            {"proxy": name, "load": asdict(load), "window": asdict(window), **meters}
        )
        self._results.add_errors(name, window.failures)
        if window.errors:
            say(f"    {name}: {window.errors} errors: {window.failures}")


def say(line: str) -> None:
    """Progress, for whoever waits; results go to stdout."""
    print(line, file=sys.stderr, flush=True)

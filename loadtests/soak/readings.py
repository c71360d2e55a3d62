"""What a soak reads of the gateway from outside: its figures, its memory, its sockets."""

from __future__ import annotations

import urllib.request
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from loadtests.overhead.procfs import PROC, process_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "vllm_gateway_"
QUIET_GAUGES = (
    "requests_in_flight",
    "requests_queued",
    "request_body_bytes",
    "client_connections",
    "worker_leases",
)
"""Must be 0 when nobody asks anything. (`worker_connections` need not: idle ones are kept.)"""
SCRAPE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What `/metrics` says that matters here."""

    outcomes: Mapping[str, int]
    """Requests by outcome, over all endpoints, models and workers."""
    gauges: Mapping[str, float]
    """`QUIET_GAUGES`, each summed over its labels."""
    retries: int

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(self.outcomes.values())


def parse_figures(text: str) -> Figures:
    """Read Prometheus' text format. ValueError where a gauge is missing: nothing would be proven by
    the zero of a name that does not exist."""
    outcomes: Counter[str] = Counter()
    gauges: dict[str, float] = {}
    retries = 0
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix(PREFIX)
        for sample in family.samples:
            if sample.name == f"{PREFIX}requests_total":
                outcomes[sample.labels["outcome"]] += int(sample.value)
            elif sample.name == f"{PREFIX}retries_total":
                retries += int(sample.value)
            elif name in QUIET_GAUGES:
                gauges[name] = gauges.get(name, 0.0) + sample.value
    missing = [name for name in QUIET_GAUGES if name not in gauges]
    if missing:
        raise ValueError(f"/metrics has no {', '.join(PREFIX + name for name in missing)}")
    return Figures(outcomes, gauges, retries)


def scrape(admin_port: int) -> Figures:
    """Ask the admin port."""
    url = f"http://127.0.0.1:{admin_port}/metrics"
    with urllib.request.urlopen(url, timeout=SCRAPE_TIMEOUT_S) as answer:
        return parse_figures(answer.read().decode())


def open_sockets(pid: int) -> int:
    """Sockets of a process and its descendants, listening ones included."""
    count = 0
    for process in process_tree(pid):
        for entry in (PROC / str(process.pid) / "fd").iterdir():
            try:
                count += str(entry.readlink()).startswith("socket:")
            except FileNotFoundError:
                continue  # closed while we looked
    return count

"""What the overhead benchmark prints, and what it reads from its driver."""

from __future__ import annotations

import json

from loadtests.overhead.driver import Load, Times, parse_window
from loadtests.overhead.report import as_json, figures_table, table, verdict_table
from loadtests.overhead.results import Figure, Results, Verdict

WINDOW = {
    "seconds": 2.0,
    "requests": 80,
    "events": 5000,
    "events_per_s": 2500.0,
    "requests_per_s": 40.0,
    "reads": 5100,
    "open_at_end": 25,
    "client_cpu_s": 0.01,
    "worker_cpu_s": 0.02,
    "ttft_us": {"count": 80, "p50": 30.5, "p90": 40.0, "p99": 50.0, "mean": 32.0},
    "itl_us": {"count": 0},
    "latency_us": {"count": 0},
    "errors": 2,
    "failures": {"connect": 0, "wrong_events": 2},
}


def test_columns_line_up() -> None:
    """Names to the left, figures to the right."""
    assert table([("proxy", "us"), ("a", "12.5"), ("gateway", "7")]) == (
        "proxy      us\n-------  ----\na        12.5\ngateway     7"
    )


def test_each_proxy_has_a_row_and_each_but_the_yardstick_a_ratio() -> None:
    """What was not measured is a dash, and differences have no ratio."""
    results = Results()
    for name, cost, rss in (("gateway", 12.0, 45_000_000), ("nginx", 8.0, 30_000_000)):
        results.add(name, Figure.EVENT_US, cost)
        results.add(name, Figure.RSS, rss)
        results.add(name, Figure.TTFT_ADDED_US, cost)
    rows = [line.split("  ") for line in figures_table(results, ["gateway", "nginx"]).splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[2] == ["gateway", "12.0", "-", "-", "45.0 MB", "+12 us", "-"]
    assert cells[3] == ["nginx", "8.0", "-", "-", "30.0 MB", "+8 us", "-"]
    assert cells[4] == [
        "gateway / nginx",
        "1.50 (1.50 to 1.50)",
        "-",
        "-",
        "1.50 (1.50 to 1.50)",
    ]


def test_a_throughput_that_the_driver_limited_is_marked() -> None:
    """The figure stays, with its reason; the ratio goes."""
    results = Results(generator_bound={"nginx"})
    results.add("gateway", Figure.SATURATION, 70_000.0)
    results.add("nginx", Figure.SATURATION, 120_000.0)
    lines = figures_table(results, ["gateway", "nginx"]).splitlines()
    assert "70,000" in lines[2]
    assert "120,000 (generator-bound)" in lines[3]
    assert "generator-bound" in lines[4]


def test_verdicts_say_met_or_not_met() -> None:
    """In words, in the last column."""
    rows = [Verdict("errors", "none", "none", met=True), Verdict("RSS", "90 MB", "< 80 MB", False)]
    lines = verdict_table(rows).splitlines()
    assert lines[2].endswith("  met")
    assert lines[3].endswith("not met")


def test_the_json_file_holds_figures_by_name() -> None:
    """Round by round, ready for another program."""
    results = Results()
    results.add("nginx", Figure.EVENT_US, 8.0)
    results.add("nginx", Figure.EVENT_US, 9.0)
    content = json.loads(json.dumps(as_json(results, {}, "2 cores")))
    assert content["figures"] == {"nginx": {"cpu_us_per_event": [8.0, 9.0]}}


def test_the_clients_last_line_is_read_with_its_empty_samples() -> None:
    """Percentiles of nothing are zeros with a count of zero; only failures that happened stay."""
    window = parse_window(json.dumps(WINDOW))
    assert window.ttft == Times(80, 30.5, 40.0, 50.0, 32.0)
    assert window.itl == Times()
    assert window.events_per_s == 2500.0
    assert window.failures == {"wrong_events": 2}


def test_a_load_knows_its_offer() -> None:
    """256 streams with an event each 10 ms are 25,600 events per second."""
    load = Load("stream", 256, warm_s=1.0, window_s=3.0)
    assert load.offered_per_s == 25_600
    assert load.stream_s == 0.64

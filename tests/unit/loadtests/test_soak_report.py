"""What a soak concludes from what it has read."""

from __future__ import annotations

import pytest

from loadtests.soak.mix import kinds
from loadtests.soak.readings import QUIET_GAUGES, Figures, parse_figures
from loadtests.soak.report import (
    MB,
    Sample,
    check_books,
    check_clients,
    check_log,
    check_memory,
    curve,
)

QUIET = dict.fromkeys(QUIET_GAUGES, 0.0)
NOTHING = Figures({}, QUIET, 0)


def samples(rss: list[float]) -> list[Sample]:
    """One a second, 1,000 requests apart, in megabytes."""
    return [Sample(at, at * 1000, int(size * MB)) for at, size in enumerate(rss)]


def test_growth_while_caches_fill_is_no_leak() -> None:
    """Only what comes after warm-up counts."""
    found = curve(samples([40, *[60] * 99]))
    assert found is not None
    assert (found.warm, found.end, found.growth, found.slope) == (60 * MB, 60 * MB, 0, 0)
    assert check_memory(found).met


def test_a_leak_shows_as_slope_and_growth() -> None:
    """0.1 MB in 1,000 requests are 1 MB in 10,000."""
    found = curve(samples([50 + 0.1 * at for at in range(101)]))
    assert found is not None
    assert found.slope == pytest.approx(1 * MB)
    assert found.growth == pytest.approx(8 * MB, rel=0.01)
    assert not check_memory(found).met


def test_a_peak_alone_is_no_leak() -> None:
    """Many large answers at once need their memory, and give it back."""
    found = curve(samples([50.0] * 60 + [90.0] + [50.0] * 40))
    assert found is not None
    assert found.peak == 90 * MB
    assert check_memory(found).met


def test_a_run_that_was_too_short_has_no_curve() -> None:
    """Better none than one that means nothing."""
    assert curve([]) is None
    assert curve(samples([50])) is None


def test_books_must_agree_outcome_by_outcome() -> None:
    """A request under the wrong outcome shows twice, though the sum is right."""
    after = Figures({"ok": 9, "client_closed": 3}, QUIET, 0)
    checks = check_books({"ok": 10, "client_closed": 2}, NOTHING, after, (4, 4))
    assert {check.what: check.met for check in checks if check.what.startswith("requests")} == {
        "requests: client_closed": False,
        "requests: ok": False,
        "requests: all": True,
    }


def test_what_is_left_behind_is_seen() -> None:
    """A gauge that is not 0, a socket too many."""
    after = Figures({}, {**QUIET, "worker_leases": 1.0}, 0)
    missed = [check.what for check in check_books({}, NOTHING, after, (4, 5)) if not check.met]
    assert missed == ["gauge: worker_leases", "open sockets"]


def test_complaints_of_clients_and_of_the_log_fail_the_soak() -> None:
    """With what was seen, and how often."""
    assert check_clients({}).met
    assert check_clients({"silent: no end": 2}).found == "2 x silent: no end"
    assert check_log(["2026 INFO    all is well"]).met
    assert check_log(["2026 ERROR   Fatal error"]).found == "1: Fatal error"


def test_figures_are_read_from_the_exposition() -> None:
    """Requests by outcome over all labels; gauges over all workers."""
    gauges = "".join(f"vllm_gateway_{name} 0\n" for name in QUIET_GAUGES if name != "worker_leases")
    text = (
        "# TYPE vllm_gateway_requests counter\n"
        'vllm_gateway_requests_total{model="a",outcome="ok"} 3\n'
        'vllm_gateway_requests_total{model="b",outcome="ok"} 4\n'
        "# TYPE vllm_gateway_worker_leases gauge\n"
        'vllm_gateway_worker_leases{worker="x"} 1\n'
        'vllm_gateway_worker_leases{worker="y"} 2\n'
    )
    found = parse_figures(text + gauges)
    assert found.outcomes == {"ok": 7}
    assert found.gauges == {**QUIET, "worker_leases": 3.0}


def test_a_gauge_that_does_not_exist_proves_nothing() -> None:
    """A renamed gauge must not pass as zero."""
    with pytest.raises(ValueError, match="vllm_gateway_requests_in_flight"):
        parse_figures("")


def test_each_kind_of_request_is_there_once() -> None:
    """Names are how sent and counted are matched; weights are shares of a thousand, about."""
    names = [kind.name for kind in kinds()]
    assert len(set(names)) == len(names)
    assert 900 < sum(kind.weight for kind in kinds()) < 1100

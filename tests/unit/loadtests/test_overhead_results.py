"""Ratios, bounds and saturation of the overhead benchmark."""

from __future__ import annotations

import pytest

from loadtests.overhead.results import (
    Bounds,
    Figure,
    Results,
    Spread,
    Step,
    Verdict,
    proxy_was_the_limit,
    ratios,
    spread,
    verdicts,
)


def results_of(figure: Figure, gateway: list[float], nginx: list[float]) -> Results:
    results = Results()
    for value in gateway:
        results.add("gateway", figure, value)
    for value in nginx:
        results.add("nginx", figure, value)
    return results


def test_the_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_the_medians() -> None:
    """In the second round the machine was three times slower for both."""
    results = results_of(Figure.EVENT_US, [12.0, 48.0, 20.0], [10.0, 30.0, 10.0])
    assert results.ratio("gateway", Figure.EVENT_US) == Spread(mid=1.6, low=1.2, high=2.0)


def test_rounds_without_a_yardstick_are_left_out() -> None:
    """A yardstick of zero, or a missing round, gives no ratio."""
    assert ratios([4.0, 6.0, 8.0], [2.0, 0.0]) == [2.0]


def test_nothing_measured_is_none_and_not_zero() -> None:
    """An absent figure must not look like a good one."""
    assert spread([]) is None
    assert Results().ratio("gateway", Figure.EVENT_US) is None


def test_no_ratio_of_throughputs_when_the_driver_was_the_limit() -> None:
    """Either side generator-bound is enough; other figures keep their ratio."""
    results = results_of(Figure.SATURATION, [70_000.0], [140_000.0])
    assert results.ratio("gateway", Figure.SATURATION) == Spread(0.5, 0.5, 0.5)
    results.generator_bound.add("nginx")
    assert results.ratio("gateway", Figure.SATURATION) is None


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([Step(50e3, 0.6, 0.4), Step(90e3, 0.99, 0.7)], True, id="proxy full"),
        pytest.param([Step(50e3, 0.6, 0.4), Step(90e3, 0.99, 0.95)], False, id="both full"),
        pytest.param([Step(50e3, 0.5, 0.4), Step(90e3, 0.8, 0.7)], False, id="neither full"),
        pytest.param([Step(90e3, 0.8, 0.8), Step(85e3, 0.8, 0.95)], False, id="driver full later"),
        pytest.param([Step(74e3, 0.88, 0.6), Step(70e3, 1.0, 0.6)], True, id="overloaded later"),
    ],
)
def test_a_saturation_counts_only_when_the_proxy_was_the_limit(
    steps: list[Step], expected: bool
) -> None:
    """The proxy's core full, the driver's not."""
    assert proxy_was_the_limit(steps) is expected


def test_a_bound_is_met_up_to_its_limit() -> None:
    """2.0 times is within `<= 2 x`."""
    results = results_of(Figure.EVENT_US, [20.0], [10.0])
    assert verdicts(results, "gateway", Bounds()) == [
        Verdict("CPU per event", "2.00 x nginx (2.00 to 2.00)", "<= 2 x", met=True),
        Verdict("errors", "none", "none", met=True),
    ]


def test_bounds_that_are_not_met_say_so() -> None:
    """Each of the three, with settable limits."""
    results = results_of(Figure.EVENT_US, [20.0], [10.0])
    results.add("gateway", Figure.REQUEST_US, 61.0)
    results.add("nginx", Figure.REQUEST_US, 10.0)
    results.add("gateway", Figure.RSS, 80_000_000)
    found = verdicts(results, "gateway", Bounds(event_ratio=1.5))
    assert {each.what: each.met for each in found} == {
        "CPU per event": False,
        "CPU per JSON request": False,
        "RSS at 1,000 streams": False,
        "errors": True,
    }


def test_errors_are_a_bound_of_their_own() -> None:
    """A proxy that loses events must not pass for being cheap."""
    results = Results()
    results.add_errors("gateway", {"wrong_events": 2})
    results.add_errors("gateway", {"wrong_events": 1, "status": 4})
    assert verdicts(results, "gateway", Bounds()) == [
        Verdict("errors", "4 status, 3 wrong_events", "none", met=False)
    ]

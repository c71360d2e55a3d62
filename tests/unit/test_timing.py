"""TTFT, TPOT and ITL: the definitions."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telemetry.timing import TOKEN_EDGES_S, TTFT_EDGES_S, TokenTimes

# Times that floats carry exactly, so that sums are exact too.
_gaps = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2**20)), min_size=1, max_size=20)


def test_several_events_in_one_read_are_one_gap_and_zeros() -> None:
    """k events in one read: one gap, k − 1 zeros."""
    times = TokenTimes()
    times.add(1, 10.0)
    times.add(4, 10.0625)
    assert times.gaps is not None
    expected = [0] * (len(TOKEN_EDGES_S) + 1)
    expected[0] = 3
    expected[bisect_left(TOKEN_EDGES_S, 0.0625)] = 1
    assert times.gaps == expected


def test_the_first_read_has_no_gap_before_it() -> None:
    """ITL has one sample per token event after the first."""
    times = TokenTimes()
    times.add(3, 10.0)
    assert times.gaps is not None
    assert (sum(times.gaps), times.gaps[0]) == (2, 2)


@given(reads=_gaps)
@settings(deadline=None, max_examples=200)
def test_there_is_one_sample_less_than_token_events(reads: list[tuple[int, int]]) -> None:
    """And their sum, tk − t1, is the sum of the gaps between the reads."""
    times, now_s = TokenTimes(), 100.0
    for events, gap in reads:
        now_s += gap / 1024
        times.add(events, now_s)
    assert times.gaps is not None
    assert sum(times.gaps) == sum(events for events, _ in reads) - 1
    assert times.last_at_s - times.first_at_s == sum(gap for _, gap in reads[1:]) / 1024


def test_time_to_first_token_counts_from_the_start() -> None:
    """TTFT = t1 − t0; the later events do not move it."""
    times = TokenTimes()
    times.add(1, 12.5)
    times.add(1, 13.0)
    assert times.ttft_s(10.0) == 2.5


def test_time_per_output_token_divides_by_tokens_not_by_events() -> None:
    """TPOT = (tk − t1) / (n − 1), with n from the worker's usage: an event may hold several."""
    times = TokenTimes()
    times.add(1, 10.0)
    times.add(1, 11.0)
    assert times.tpot_s(5) == 0.25


@pytest.mark.parametrize("tokens", [0, 1])
def test_fewer_than_two_tokens_have_no_time_per_output_token(tokens: int) -> None:
    """n − 1 would be nothing to divide by."""
    times = TokenTimes()
    times.add(1, 10.0)
    assert times.tpot_s(tokens) is None


def test_without_token_events_there_are_no_times() -> None:
    """A refusal, or a stream cut before its first token."""
    times = TokenTimes()
    assert (times.gaps, times.ttft_s(1.0), times.tpot_s(5)) == (None, None, None)


def test_a_gap_above_the_last_edge_is_counted() -> None:
    """In the +Inf bucket."""
    times = TokenTimes()
    times.add(1, 0.0)
    times.add(1, 1000.0)
    assert times.gaps is not None
    assert times.gaps[-1] == 1


def test_the_edges_are_vllms_own_and_more() -> None:
    """vllm/v1/metrics/loggers.py, 0.32: so that dashboards can put the two side by side."""
    vllm_itl = (
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
        1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    )  # fmt: skip
    vllm_ttft = (
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
        1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
    )  # fmt: skip
    assert vllm_ttft == TTFT_EDGES_S
    assert set(vllm_itl) <= set(TOKEN_EDGES_S)
    assert sorted(TOKEN_EDGES_S) == list(TOKEN_EDGES_S)

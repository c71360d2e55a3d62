"""What is measured of an answer, and what is made of many: samples, thresholds, the summary."""

from __future__ import annotations

import argparse
from random import Random

import pytest

from loadtests.chat import report
from loadtests.chat.answer import Answer, ChatFailure
from loadtests.chat.figures import Figure, Figures, Samples, bucket, nearest_rank
from loadtests.chat.prompts import Prompts
from loadtests.chat.thresholds import BOUNDS, Bound, judge, judge_errors, share, wait_s

TTFT_P95 = Bound(Figure.TTFT, 95)


def answer(*at_s: float, sent_at_s: float = 0.0, tokens: int | None = None) -> Answer:
    """An answer whose token events came at `at_s`."""
    made = Answer(sent_at_s)
    for now_s in at_s:
        made.token_event(now_s)
    made.tokens = tokens
    made.ended_at_s = at_s[-1] if at_s else sent_at_s
    return made


def test_times_are_those_of_the_design() -> None:
    """TTFT = t1 − t0, ITL = gaps, TPOT = (tk − t1) / (n − 1) with the worker's own n."""
    made = answer(1.5, 2.0, 2.0, 3.0, sent_at_s=1.0, tokens=7)
    assert made.ttft_s == 0.5
    assert made.gaps_s == [0.5, 0.0, 1.0]
    assert sum(made.gaps_s) == made.last_at_s - 1.5
    assert made.tpot_s == 1.5 / 6
    assert made.duration_s == 2.0
    assert made.tokens_per_s == 3.5


@pytest.mark.parametrize("made", [answer(), answer(1.0), answer(1.0, tokens=1), answer(1.0, 2.0)])
def test_without_usage_of_two_tokens_there_is_no_tpot(made: Answer) -> None:
    """Counting events instead would be another figure under the same name."""
    assert made.tpot_s is None


def test_a_percentile_is_the_nearest_rank() -> None:
    """Exact: a value that was measured."""
    ordered = [float(value) for value in range(1, 101)]
    assert nearest_rank(ordered, 95) == 95
    assert nearest_rank(ordered, 99.9) == 100
    assert nearest_rank([7.0], 50) == 7
    assert nearest_rank([], 50) is None


def test_samples_are_bounded_and_drawn_evenly() -> None:
    """Past the bound each value seen so far has the same chance to be among those kept."""
    samples = Samples(most=1000)
    for value in range(20_000):
        samples.add(float(value))
    middle = samples.percentile(50)
    summary = samples.summary()
    assert middle is not None
    assert 9_000 < middle < 11_000
    assert summary is not None
    assert (summary.count, summary.max) == (20_000, 19_999)
    assert len(samples.take()) == 1000 * 8


def test_figures_of_many_processes_add_up() -> None:
    """What a process has given is not given again."""
    worker, master = Figures(), Figures()
    worker.add(answer(0.2, 0.3, tokens=2))
    master.merge(worker.take())
    master.merge(worker.take())
    summary = master.samples[Figure.TTFT].summary()
    assert summary is not None
    assert (summary.count, summary.max) == (1, 0.2)
    assert master.tokens == 2


def test_a_failed_answer_counts_with_what_it_brought() -> None:
    """Its first token was late or early like any other; its duration says nothing."""
    figures = Figures()
    failed = answer(0.2, 0.3)
    failed.failure = ChatFailure("cut")
    figures.add(failed)
    counts = {figure: samples.count for figure, samples in figures.samples.items()}
    assert counts == {
        Figure.TTFT: 1, Figure.TPOT: 0, Figure.ITL: 1, Figure.RATE: 0, Figure.E2E: 0,
    }  # fmt: skip


def test_a_threshold_says_in_one_line_whether_it_was_met() -> None:
    """And is held against exact samples: 50.4 ms is more than 50 ms."""
    figures = Figures()
    figures.samples[Figure.TTFT].add(0.3124)
    met = judge(TTFT_P95, 0.5, figures)
    missed = judge(TTFT_P95, 0.312, figures)
    assert (met.line, met.met) == ("TTFT p95 312.4 ms <= 500 ms: met", True)
    assert (missed.line, missed.met) == ("TTFT p95 312.4 ms > 312 ms: not met", False)


def test_a_run_without_samples_meets_nothing() -> None:
    """Or a gateway that answers nobody would pass."""
    verdict = judge(TTFT_P95, 0.5, Figures())
    assert (verdict.line, verdict.met) == ("TTFT p95 <= 500 ms: no samples: not met", False)
    assert not judge_errors(0, 0, 1.0).met


def test_errors_are_a_share_of_all_requests() -> None:
    """Those within the share are allowed."""
    assert judge_errors(1, 200, 0.01).line == "errors 0.5 % <= 1 %: met"
    assert judge_errors(3, 200, 0.01).line == "errors 1.5 % > 1 %: not met"


def test_flags_say_what_they_bound() -> None:
    """`--ttft-p95`, and no two alike."""
    assert (TTFT_P95.flag, TTFT_P95.dest) == ("--ttft-p95", "ttft_p95")
    assert len({bound.flag for bound in BOUNDS}) == len(BOUNDS)


def test_values_of_flags_have_units() -> None:
    """A share needs its %: a bare 1 could mean everything."""
    assert wait_s("50ms") == 0.05
    assert share("1%") == 0.01
    for text in ("1", "x%", "101%", "-1%"):
        with pytest.raises(argparse.ArgumentTypeError):
            share(text)
    with pytest.raises(argparse.ArgumentTypeError):
        wait_s("soon")


def test_rows_in_the_table_are_fine_enough_for_tokens() -> None:
    """A tenth of a millisecond below 100 ms, three digits above."""
    assert [bucket(value) for value in (0.04, 15.26, 99.94, 123.4, 1234.0, 98765.0)] == [
        0.0, 15.3, 99.9, 123.0, 1230.0, 98800.0,
    ]  # fmt: skip


def test_the_wanted_share_of_a_prompt_is_the_same_for_all() -> None:
    """From its start: that is what a prefix cache can use."""
    prompts = Prompts(words=100, shared=0.5)
    one, two = (prompts.next(Random(seed)).split() for seed in (1, 2))  # noqa: S311
    assert len(one) == len(two) == 100
    assert one[:50] == two[:50]
    assert one[50:] != two[50:]


def test_the_summary_has_a_row_for_each_figure() -> None:
    """And says where nothing was measured."""
    figures = Figures()
    figures.add(answer(0.2, 0.3, tokens=2))
    text = report.summary(figures, requests=1, failures=0, seconds=2.0)
    assert "TTFT, ms" in text
    assert "1 requests, 2 tokens in 2.0 s: 0.5 requests/s, 1 tokens/s" in text
    assert "too much" in report.own_cost(0.95)
    assert "too much" not in report.own_cost(0.3)

"""Admission: never more than may run, first in first out, and nothing is ever lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access.admission import Admission
from gateway.errors import GatewayError, Kind

TIMEOUT_S = 10.0


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time is set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def time(self) -> float:
        """The time that was set."""
        return self.now_s

    def turn(self, turns: int = 1) -> None:
        """Run what is ready, `turns` times."""

        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run_until_complete(turn())


@dataclass
class Bench:
    """Many clients of one admission."""

    loop: Clock
    admission: Admission
    tasks: list[asyncio.Task[float]] = field(default_factory=list)
    left: set[int] = field(default_factory=set)

    def inside(self) -> list[int]:
        """Requests whose `enter` has returned."""
        return [
            at
            for at, task in enumerate(self.tasks)
            if task.done() and not task.cancelled() and task.exception() is None
        ]

    def waiting(self) -> list[int]:
        return [at for at, task in enumerate(self.tasks) if not task.done()]

    def holding(self) -> list[int]:
        return [at for at in self.inside() if at not in self.left]

    def enter(self) -> None:
        self.tasks.append(self.loop.create_task(self.admission.enter()))

    def leave(self, which: int) -> None:
        holding = self.holding()
        if holding:
            at = holding[which % len(holding)]
            self.left.add(at)
            # On the loop, as the product does, not from outside.
            self.loop.call_soon(self.admission.leave)

    def cancel(self, which: int) -> None:
        waiting = self.waiting()
        if waiting:
            self.tasks[waiting[which % len(waiting)]].cancel()


def admission(*, max_running: int = 2, max_queued: int = 2, max_bytes: int = 100) -> Admission:
    return Admission(
        max_running=max_running,
        max_queued=max_queued,
        queue_timeout_s=TIMEOUT_S,
        max_inflight_bytes=max_bytes,
    )


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.just(0)),
        st.tuples(st.just("enter"), st.just(0)),
        st.tuples(st.sampled_from(("leave", "cancel")), st.integers(0, 9)),
        st.tuples(st.just("advance"), st.sampled_from((1, 6, 10))),
        st.tuples(st.just("turn"), st.integers(1, 2)),
        st.tuples(st.just("settle"), st.just(0)),
    ),
    max_size=40,
)


@given(steps=_steps, max_running=st.integers(1, 3), max_queued=st.integers(0, 4))
@settings(deadline=None, max_examples=400)
def test_any_interleaving_keeps_the_bounds_and_the_order(
    steps: list[tuple[str, int]], max_running: int, max_queued: int
) -> None:
    """Clients enter, leave, give up and time out, in any order and within any turn of the loop."""
    with_loop = Clock()
    bench = Bench(with_loop, admission(max_running=max_running, max_queued=max_queued))
    try:
        for step, argument in steps:
            match step:
                case "enter":
                    bench.enter()
                case "leave":
                    bench.leave(argument)
                case "cancel":
                    bench.cancel(argument)
                case "advance":
                    with_loop.now_s += argument
                case _:
                    with_loop.turn(argument or 8)
            assert len(bench.holding()) <= max_running
            assert bench.admission.queued <= max_queued
            if step == "settle":
                check_settled(bench, max_running)
        with_loop.turn(8)
        check_settled(bench, max_running)
        for _ in bench.tasks:
            bench.leave(0)
            with_loop.turn(8)
        assert (bench.holding(), bench.waiting()) == ([], [])
        assert (bench.admission.running, bench.admission.queued) == (0, 0)
        for task in bench.tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, GatewayError)
                assert error.kind is Kind.OVERLOADED
    finally:
        with_loop.close()


def check_settled(bench: Bench, max_running: int) -> None:
    """Between two turns of the loop, when nothing is on its way."""
    waiting, inside = bench.waiting(), bench.inside()
    assert bench.admission.running == len(bench.holding())
    assert bench.admission.queued == len(waiting)
    if waiting:
        assert bench.admission.running == max_running  # nobody waits for a place that is free
        assert max(inside) < min(waiting)  # nobody was overtaken


def test_a_free_place_is_taken_at_once() -> None:
    """Without a wait, and without a turn of the loop."""
    loop = Clock()
    gate = admission()
    assert loop.run_until_complete(gate.enter()) == 0.0
    assert gate.running == 1
    loop.close()


def test_one_more_than_may_wait_is_refused() -> None:
    """At once, and told to come back."""
    loop = Clock()
    bench = Bench(loop, admission(max_running=1, max_queued=1))
    for _ in range(3):
        bench.enter()
    loop.turn(3)
    assert (bench.inside(), bench.waiting()) == ([0], [1])
    refusal = bench.tasks[2].exception()
    assert isinstance(refusal, GatewayError)
    assert refusal.kind is Kind.OVERLOADED
    assert "1 requests run and 1 wait" in refusal.message
    bench.leave(0)
    loop.turn(8)
    loop.close()


def test_who_waits_too_long_is_refused() -> None:
    """And the place that comes free later goes to the next."""
    loop = Clock()
    bench = Bench(loop, admission(max_running=1, max_queued=5))
    bench.enter()
    bench.enter()
    loop.turn(3)
    loop.now_s = TIMEOUT_S - 1
    bench.enter()
    loop.turn(3)
    loop.now_s = TIMEOUT_S
    loop.turn(8)
    refusal = bench.tasks[1].exception()
    assert isinstance(refusal, GatewayError)
    assert "No place came free within 10 s" in refusal.message
    bench.leave(0)
    loop.turn(8)
    assert bench.holding() == [2]
    loop.close()


def test_a_place_given_to_one_who_has_just_left_is_passed_on() -> None:
    """It was given and the client went, within one turn of the loop."""
    loop = Clock()
    bench = Bench(loop, admission(max_running=1, max_queued=5))
    for _ in range(3):
        bench.enter()
    loop.turn(3)
    bench.admission.leave()
    bench.left.add(0)
    bench.tasks[1].cancel()
    loop.turn(8)
    assert bench.tasks[1].cancelled()
    assert bench.holding() == [2]
    assert bench.admission.running == 1
    loop.close()


@given(sizes=st.lists(st.integers(0, 60), max_size=20))
@settings(deadline=None, max_examples=100)
def test_body_bytes_are_bounded_and_given_back(sizes: list[int]) -> None:
    """A refused reservation counts for nothing."""
    gate = admission(max_bytes=100)
    kept: list[int] = []
    for size in sizes:
        if sum(kept) + size <= 100:
            gate.reserve(size)
            kept.append(size)
        else:
            with pytest.raises(GatewayError, match="max_inflight_bytes"):
                gate.reserve(size)
        assert gate.inflight_bytes == sum(kept)
    for size in kept:
        gate.release(size)
    assert gate.inflight_bytes == 0

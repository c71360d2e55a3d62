"""The policy: fewest leases, ties in turn."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.routing.least_leases import LeastLeases
from gateway.terms import Lease, Worker


def workers(*leases: int) -> list[Worker]:
    return [Worker(f"http://w{at}:1", f"w{at}", 1, leases=n) for at, n in enumerate(leases)]


@given(leases=st.lists(st.integers(0, 5), min_size=1, max_size=8), turns=st.integers(0, 9))
@settings(deadline=None, max_examples=200)
def test_the_pick_has_the_fewest_leases(leases: list[int], turns: int) -> None:
    """Whatever was picked before."""
    policy, pool = LeastLeases(), workers(*leases)
    for _ in range(turns):
        policy.pick(pool)
    assert policy.pick(pool).leases == min(leases)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_equals_are_picked_in_turn(size: int) -> None:
    """When requests come one at a time, each worker gets its share."""
    policy, pool = LeastLeases(), workers(*[0] * size)
    picked = Counter(policy.pick(pool).url for _ in range(4 * size))
    assert picked == {worker.url: 4 for worker in pool}


def test_held_requests_spread_evenly() -> None:
    """A hundred at once over four workers: twenty-five each."""
    policy, pool = LeastLeases(), workers(0, 0, 0, 0)
    leases = [Lease(policy.pick(pool)) for _ in range(100)]
    assert [worker.leases for worker in pool] == [25, 25, 25, 25]
    for lease in leases:
        lease.close()


def test_the_pool_is_left_as_it_is() -> None:
    """A policy decides; it changes nothing but its own turn."""
    pool = workers(2, 1, 1)
    LeastLeases().pick(pool)
    assert [worker.leases for worker in pool] == [2, 1, 1]

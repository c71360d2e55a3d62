"""Which workers exist, and which models they serve."""

from __future__ import annotations

from gateway.pool.registry import Registry
from gateway.terms import Lease, Model, Worker


def worker(name: str) -> Worker:
    return Worker(f"http://{name}:1", name, 1)


def model(name: str, entry: str = "") -> Model:
    return Model(name=name, entry=(entry or f'{{"id":"{name}"}}').encode())


A, B = "a", "b"


def test_at_first_nothing_is_known() -> None:
    """Not that a model does not exist, either: nobody has been asked."""
    registry = Registry([worker(A)])
    assert registry.pool("m") is None
    assert (registry.models, registry.ready, registry.asked) == ({}, False, False)


def test_a_pool_is_the_workers_that_serve_one_name() -> None:
    """A worker may serve several, and be in several pools."""
    one, two = worker(A), worker(B)
    registry = Registry([one, two])
    registry.learnt(one, [model("m"), model("lora")])
    registry.learnt(two, [model("m")])
    assert registry.pool("m") == (one, two)
    assert registry.pool("lora") == (one,)
    assert registry.pool("none") is None
    assert registry.ready
    assert registry.asked


def test_a_worker_that_is_away_leaves_its_pools_but_its_models_stay_known() -> None:
    """So that clients are told to come back (503), not that there is no such model (404)."""
    one = worker(A)
    registry = Registry([one])
    registry.learnt(one, [model("m")])
    assert registry.lost(one)
    assert registry.pool("m") == ()
    assert (registry.models, registry.ready, registry.asked) == ({}, False, True)


def test_a_worker_that_comes_back_is_in_its_pools_again() -> None:
    """With what it serves now."""
    one = worker(A)
    registry = Registry([one])
    registry.learnt(one, [model("m")])
    registry.lost(one)
    assert registry.learnt(one, [model("n")])
    assert registry.pool("n") == (one,)
    assert registry.pool("m") is None


def test_only_news_is_told() -> None:
    """The log has a line for a change, not for a look."""
    one = worker(A)
    registry = Registry([one])
    assert not registry.lost(one)
    assert registry.learnt(one, [model("m")])
    assert not registry.learnt(one, [model("m")])
    assert not registry.learnt(one, [model("m", '{"id":"m","created":2}')])
    assert registry.learnt(one, [model("m"), model("n")])
    assert registry.lost(one)
    assert not registry.lost(one)


def test_the_list_of_models_is_the_union_as_the_workers_wrote_it() -> None:
    """Of two that serve one name, the first worker's entry stands."""
    one, two = worker(A), worker(B)
    registry = Registry([one, two])
    registry.learnt(two, [model("m", '{"id":"m","by":"two"}'), model("n")])
    registry.learnt(one, [model("m", '{"id":"m","by":"one"}')])
    assert registry.models == {"m": b'{"id":"m","by":"one"}', "n": b'{"id":"n"}'}


def test_a_worker_that_serves_nothing_has_been_asked_all_the_same() -> None:
    """Then an unknown model is a 404 and not a 503."""
    one = worker(A)
    registry = Registry([one])
    registry.learnt(one, [])
    assert registry.asked
    assert not registry.ready


def test_a_lease_is_closed_exactly_once() -> None:
    """However often `close` is called: a second must not take another request's away."""
    one = worker(A)
    first, second = Lease(one), Lease(one)
    assert one.leases == 2
    first.close()
    first.close()
    assert one.leases == 1
    second.close()
    assert one.leases == 0

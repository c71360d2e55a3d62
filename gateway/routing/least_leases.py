"""Fewest leases, ties in turn. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.terms import Worker


class LeastLeases:
    """Picks the worker with the fewest open leases; among equals, the next in turn."""

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, workers: Sequence[Worker]) -> Worker:
        """One of `workers`, of which there is at least one."""
        if len(workers) == 1:
            return workers[0]
        least = min(worker.leases for worker in workers)
        equals = [worker for worker in workers if worker.leases == least]
        self._turn += 1
        return equals[self._turn % len(equals)]

"""Which workers exist, and which models they serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gateway.terms import Model, Worker


class Registry:
    """All workers, and the pools they form: the workers that serve one model name.

    A model that was served once stays known while its workers are away, so that its clients are
    told to come back (503) and not that it does not exist (404).
    """

    def __init__(self, workers: Iterable[Worker]) -> None:
        self.workers: tuple[Worker, ...] = tuple(workers)
        self._pools: dict[str, tuple[Worker, ...]] = {}
        self._entries: dict[str, bytes] = {}
        self.asked = False
        """Some worker has told its models at least once."""

    def pool(self, model: str) -> Sequence[Worker] | None:
        """The reachable workers of a model; None where no such model is known."""
        return self._pools.get(model)

    def worker_at(self, tag: str, tag_of: Callable[[str], str]) -> Worker | None:
        """The worker whose URL has this tag, reachable or not."""
        return next((worker for worker in self.workers if tag_of(worker.url) == tag), None)

    @property
    def only_model(self) -> str | None:
        """The model that is served, where there is but one."""
        return next(iter(self._pools)) if len(self._pools) == 1 else None

    @property
    def models(self) -> dict[str, bytes]:
        """Models that can be served now, each with its `/v1/models` entry (JSON)."""
        return {name: self._entries[name] for name, pool in self._pools.items() if pool}

    @property
    def ready(self) -> bool:
        """Some worker can serve."""
        return any(self._pools.values())

    def learnt(self, worker: Worker, models: Iterable[Model]) -> bool:
        """A worker has told its models. True where that changed anything."""
        models = tuple(models)
        self.asked = True
        if worker.reachable and worker.models == models:
            return False
        worker.reachable = True
        worker.models = models
        self._rebuild()
        return True

    def lost(self, worker: Worker) -> bool:
        """A worker does not answer. True where that is news."""
        if not worker.reachable:
            return False
        worker.reachable = False
        self._rebuild()
        return True

    def _rebuild(self) -> None:
        known = {model.name for worker in self.workers for model in worker.models}
        self._pools = {
            name: tuple(
                worker
                for worker in self.workers
                if worker.reachable and any(model.name == name for model in worker.models)
            )
            for name in sorted(known)
        }
        self._entries = {
            model.name: model.entry for worker in reversed(self.workers) for model in worker.models
        }

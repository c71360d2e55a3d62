"""One request in the engine: its sequences, and what its client's reading and leaving do to it."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.sim.answers import Script
from gateway.sim.engine import Engine
from gateway.sim.faults import Fault
from gateway.sim.response import STREAM_HEADERS, Headers
from gateway.sim.sampling import Sampling
from gateway.sim.sequence import Job, Sequence, Step

POOLED = Sampling(max_tokens=0)
"""One step after the prefill, and no token."""


class Outlet(Protocol):
    """Where an answer goes: to a connection (``Response``), or into the store of responses."""

    fault: Fault | None
    hung: bool
    gone: Callable[[], None] | None
    pause: Callable[[], None] | None
    resume: Callable[[], None] | None

    def open(self, headers: Headers = STREAM_HEADERS) -> None:
        """The head of a stream."""

    def event(self, data: bytes) -> None:
        """One event or piece."""

    def end(self, last: bytes) -> None:
        """The terminal event (empty: there is none) and the end."""

    def cut(self) -> None:
        """Break off in the middle."""

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """A complete answer."""


class Run:
    """Add sequences, then ``start``. ``deliver`` gets every step, ``left`` counts down."""

    def __init__(
        self, engine: Engine, outlet: Outlet, deliver: Callable[[Sequence, Step], None]
    ) -> None:
        self._engine = engine
        self._outlet = outlet
        self.job = Job(deliver, asyncio.get_running_loop().time())

    @property
    def done(self) -> bool:
        """Every sequence has ended."""
        return self.job.left == 0

    def add(self, prompt: list[int], sampling: Sampling, script: Script) -> None:
        """One more sequence."""
        job = self.job
        job.sequences.append(Sequence(job, len(job.sequences), prompt, sampling, script))

    def pool(self, prompt: list[int]) -> None:
        """One more sequence that only reads its prompt."""
        self.job.pooling = True
        self.add(prompt, POOLED, Script([], iter(())))

    def use(self, adapter: str | None, cache_salt: str | None) -> None:
        """The LoRA adapter, and the client's salt: both keep the prefix cache apart."""
        self.job.adapter = adapter
        if adapter or cache_salt:
            self.job.salt = hash((cache_salt, adapter))

    def start(self) -> None:
        """Queue the sequences."""
        engine, job, outlet = self._engine, self.job, self._outlet
        outlet.gone = self.abort
        outlet.pause = lambda: engine.pause(job)
        outlet.resume = lambda: engine.resume(job)
        engine.submit(job)
        if outlet.hung:
            engine.pause(job)

    def abort(self) -> None:
        """The client has gone."""
        self._engine.abort(self.job)

"""A look-alike of a vLLM 0.32 worker: for the demo, for tests and for load tests without a GPU.

It speaks vLLM's wire format byte for byte, keeps time like an engine (prefill, then paced
tokens), and can misbehave in every way a worker or a network can: see ``gateway.sim.faults``.

    async with Sim(SimOptions(models=("demo",))) as sim:
        ...  # sim.url, sim.running, sim.aborted, sim.requests, sim.operator_calls

Read ``worker.py`` for its routes: each surface is a class with a table of them. What they share is
the engine (``engine.py``), and how an answer that is generated gets from there to the wire
(``generation.py`` with a writer per surface, ``run.py`` for everything else).
"""

from gateway.sim.options import SimOptions
from gateway.sim.sim import Sim

__all__ = ["Sim", "SimOptions"]

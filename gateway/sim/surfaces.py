"""The surfaces of a worker, by its task: a vLLM engine either generates or pools."""

from collections.abc import Iterator
from typing import Protocol

from gateway.sim.audio.speech import Speech
from gateway.sim.audio.transcriptions import Transcriptions
from gateway.sim.exchange import Routes
from gateway.sim.images.api import Images
from gateway.sim.machine import Machine
from gateway.sim.messages.api import Messages
from gateway.sim.pooling.api import Pooling
from gateway.sim.pooling.scoring import Scoring
from gateway.sim.responses.api import Responses
from gateway.sim.texts import Texts


class Surface(Protocol):
    """Some routes that belong together."""

    def routes(self) -> Routes:
        """Path to method to handler."""


def surfaces(machine: Machine, fingerprint: str) -> Iterator[Surface]:
    """What this worker serves."""
    task = machine.options.task
    if task in ("all", "generate"):
        yield Texts(machine, fingerprint)
        yield Responses(machine, fingerprint)
        yield Messages(machine, fingerprint)
    if task in ("all", "pooling"):
        yield Pooling(machine)
        yield Scoring(machine)
    if task in ("all", "transcription"):
        yield Transcriptions(machine)
    if task in ("all", "speech"):
        yield Speech(machine)
    if task in ("all", "image"):
        yield Images(machine)

"""What all surfaces of one worker share: the engine, the tokenizer, the clock, ids and names."""

from hashlib import blake2b
from random import Random
from time import time
from uuid import uuid4

from gateway.sim.answers import Author
from gateway.sim.connection import Request
from gateway.sim.engine import Engine
from gateway.sim.metrics import Metrics
from gateway.sim.misbehave import refusal
from gateway.sim.models import ModelNames
from gateway.sim.options import SimOptions
from gateway.sim.requests import RequestReader
from gateway.sim.text import Tokenizer


class Machine:
    """The shared parts of one worker."""

    def __init__(self, options: SimOptions, engine: Engine, metrics: Metrics) -> None:
        self.options = options
        self.engine = engine
        self.metrics = metrics
        self.tokenizer = Tokenizer()
        self.author = Author(self.tokenizer)
        self.models = ModelNames(options.models, options.loras)
        self.reader = RequestReader(options, self.tokenizer, self.models, self.admit)

    def now(self) -> float:
        """Unix time, or the frozen one."""
        frozen = self.options.frozen_time
        return time() if frozen is None else frozen

    def admit(self, sequences: int) -> None:
        """Raises vLLM's 503 when the queue is full."""
        if not self.engine.has_room(sequences):
            self.metrics.rejections += 1
            raise refusal(503)

    def name(self, request: Request, body_id: str | None = None) -> str:
        """The request's id without its prefix: ``X-Request-Id``, the body's, or a new one."""
        return request.header(b"x-request-id") or body_id or self.random_id(request)

    def random_id(self, request: Request) -> str:
        """16 hex digits; the same for the same body when time is frozen."""
        if self.options.frozen_time is None:
            return uuid4().hex[:16]
        return blake2b(request.body, digest_size=8).hexdigest()

    def rng(self, content: bytes, seed: object, number: int) -> Random:
        """Chance that depends on nothing but these and the worker's own seed."""
        salt = f"{self.options.seed}/{seed}/{number}".encode()
        digest = blake2b(content + salt, digest_size=8).digest()
        return Random(digest)  # noqa: S311 - text, no secret


def derived_id(prefix: str, *parts: object) -> str:
    """An id that repeats when the answer's own id does: ``prefix`` and 16 hex digits."""
    name = "/".join(map(str, (prefix, *parts))).encode()
    return prefix + blake2b(name, digest_size=8).hexdigest()

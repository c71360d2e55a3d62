"""One request for generation: from its checked form, through the engine, to the wire."""

import asyncio
from array import array
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

from gateway.sim.answers import Author, Kind
from gateway.sim.chat import ChatWriter
from gateway.sim.completion import CompletionWriter
from gateway.sim.engine import Engine
from gateway.sim.options import SimOptions
from gateway.sim.requests import GenerateRequest
from gateway.sim.response import Response
from gateway.sim.sequence import Job, Sequence, Step
from gateway.sim.text import Tokenizer
from gateway.sim.wire import KEEP_ALIVE, Names, Usage, error_event, usage_of


@dataclass(frozen=True, slots=True)
class Machine:
    """What every generation of one worker shares."""

    options: SimOptions
    tokenizer: Tokenizer
    author: Author
    engine: Engine


class Generation:
    """Runs one request. Raises ``ApiError`` on ``start`` for what the engine refuses late."""

    def __init__(
        self, machine: Machine, request: GenerateRequest, names: Names, response: Response
    ) -> None:
        self._machine = machine
        self._request = request
        self._names = names
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._job = Job(self._stream if request.stream else self._collect, self._loop.time())
        self._writer = (
            ChatWriter(request, names, machine.tokenizer, self._call_id)
            if request.chat
            else CompletionWriter(request, names, machine.tokenizer)
        )
        self._opened = False
        self._keep_alive: asyncio.TimerHandle | None = None
        self._spoke_at = 0.0
        fault = response.fault
        self._big = fault.integer("big-event") if fault is not None else 0
        self._zero_usage = fault is not None and "zero-usage" in fault

    def start(self) -> None:
        """Queue the sequences, and open the stream."""
        request, response, job = self._request, self._response, self._job
        if request.late is not None:
            if not request.stream:
                raise request.late
            response.open()
            response.event(error_event(request.late))
            response.end()
            return
        job.salt = hash(request.cache_salt) if request.cache_salt else 0
        for prompt in request.prompts:
            for number in range(request.sampling.n):
                script = self._machine.author.script(request.task, self._rng(prompt.tokens, number))
                index = len(job.sequences)
                job.sequences.append(Sequence(job, index, prompt.tokens, request.sampling, script))
        engine = self._machine.engine
        response.gone = self._gone
        response.pause = lambda: engine.pause(job)
        response.resume = lambda: engine.resume(job)
        if request.stream:
            response.open()
            self._keep_talking()
        engine.submit(job)
        if response.hung:
            engine.pause(job)

    def _rng(self, tokens: list[int], number: int) -> Random:
        seed = self._request.sampling.seed
        salt = f"{self._machine.options.seed}/{seed}/{number}".encode()
        digest = blake2b(array("q", tokens).tobytes() + salt, digest_size=8).digest()
        return Random(digest)  # noqa: S311 - text, no secret

    def _call_id(self, index: int, number: int) -> str:
        """Ids of tool calls follow from the answer's id, so that they repeat when it does."""
        name = f"{self._names.id}/{index}/{number}".encode()
        return f"chatcmpl-tool-{blake2b(name, digest_size=8).hexdigest()}"

    def _stream(self, sequence: Sequence, step: Step) -> None:
        response = self._response
        self._spoke_at = self._loop.time() if self._keep_alive is not None else 0.0
        if not self._opened:
            self._opened = True
            for data in self._writer.opening():
                response.event(data)
        if self._big and step.piece.kind is Kind.TEXT:
            step = step._replace(text=_filled(self._big))
            self._big = 0
        event = self._writer.token(sequence, step)
        if event is not None:
            response.event(event)
        if step.finish is not None and self._job.left == 0:
            self._silence()
            if self._request.include_usage:
                response.usage(self._writer.last(self._usage()))
            response.end()

    def _collect(self, sequence: Sequence, step: Step) -> None:
        self._writer.add(sequence, step)
        if step.finish is not None and self._job.left == 0:
            body = self._writer.whole(self._usage())
            self._response.whole(
                200,
                [
                    (b"content-length", b"%d" % len(body)),
                    (b"content-type", b"application/json"),
                    (b"vary", b"Origin"),
                ],
                body,
            )

    def _usage(self) -> Usage:
        if self._zero_usage:
            return Usage(0)
        options, request = self._machine.options, self._request
        size = options.block_size if options.prompt_tokens_details else None
        prompts = [prompt.tokens for prompt in request.prompts]
        usage = usage_of(self._job.sequences, prompts, size, request.chat)
        usage.reasoning_tokens = self._writer.reasoning_tokens()
        return usage

    def _gone(self) -> None:
        self._silence()
        self._machine.engine.abort(self._job)

    def _keep_talking(self) -> None:
        """``--sse-keep-alive-interval``: a comment whenever the stream was silent so long."""
        interval = self._machine.options.sse_keep_alive_interval_s
        if not interval:
            return
        now = self._loop.time()
        self._spoke_at = self._spoke_at or now
        if now - self._spoke_at >= interval * 0.999:
            self._response.event(KEEP_ALIVE)
            self._spoke_at = now
        at = self._spoke_at + interval
        self._keep_alive = self._loop.call_at(at, self._keep_talking)

    def _silence(self) -> None:
        if self._keep_alive is not None:
            self._keep_alive.cancel()
            self._keep_alive = None


def _filled(size: int) -> str:
    """Text of ``size`` bytes, with characters of several bytes in it."""
    unit = "Zürich — 日本 🙂 and on it goes. "
    whole, rest = divmod(size, len(unit.encode()))
    return unit * whole + "." * rest

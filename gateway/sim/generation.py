"""One request for generated text: from its checked form, through the engine, to the wire."""

import asyncio
from array import array
from typing import Protocol

from gateway.sim.answers import Kind
from gateway.sim.machine import Machine
from gateway.sim.requests import GenerateRequest
from gateway.sim.run import Outlet, Run
from gateway.sim.schema import ApiError
from gateway.sim.sequence import Sequence, Step
from gateway.sim.wire import KEEP_ALIVE, Usage, usage_of


class Writer(Protocol):
    """Writes one answer in the format of one surface."""

    def preamble(self) -> list[bytes]:
        """Events that leave with the head, before the engine has answered."""

    def opening(self) -> list[bytes]:
        """Events that leave with the engine's first output."""

    def token(self, sequence: Sequence, step: Step) -> tuple[bytes, ...]:
        """The events of one token."""

    def ending(self, usage: Usage | None) -> list[bytes]:
        """Events after the last token; ``usage`` None: a fault wants none."""

    def terminal(self, usage: Usage | None) -> bytes:
        """The event that ends the stream."""

    def refused(self, error: ApiError) -> list[bytes] | None:
        """What the engine refuses after the head has gone out. None: the stream just breaks."""

    def add(self, sequence: Sequence, step: Step) -> None:
        """Take one token for the whole answer."""

    def whole(self, usage: Usage) -> bytes:
        """The answer that is no stream."""

    def reasoning_tokens(self) -> int | None:
        """Tokens of thoughts; None when this is no thinking model."""


class Generation:
    """Runs one request. Raises ``ApiError`` on ``start`` for what the engine refuses late."""

    def __init__(
        self,
        machine: Machine,
        request: GenerateRequest,
        writer: Writer,
        outlet: Outlet,
        *,
        keep_alive: bool = False,
    ) -> None:
        self._machine = machine
        self._request = request
        self._outlet = outlet
        self._loop = asyncio.get_running_loop()
        deliver = self._stream if request.stream else self._collect
        self.run = Run(machine.engine, outlet, deliver)
        self._writer = writer
        self._opened = False
        # vLLM's ``--sse-keep-alive-interval`` is for chat and completions only.
        self._interval_s = machine.options.sse_keep_alive_interval_s if keep_alive else 0.0
        self._keep_alive: asyncio.TimerHandle | None = None
        self._spoke_at = 0.0
        fault = outlet.fault
        self._big = fault.integer("big-event") if fault is not None else 0
        self._zero_usage = fault is not None and "zero-usage" in fault
        self._no_usage = fault is not None and "no-usage" in fault

    def start(self) -> None:
        """Queue the sequences, and open the stream."""
        request, outlet, run = self._request, self._outlet, self.run
        if request.late is not None and not request.stream:
            raise request.late
        for prompt in request.prompts:
            content = array("q", prompt.tokens).tobytes()
            for number in range(request.sampling.n):
                rng = self._machine.rng(content, request.sampling.seed, number)
                script = self._machine.author.script(request.task, rng)
                run.add(prompt.tokens, request.sampling, script)
        run.use(request.adapter, request.cache_salt)
        if request.stream:
            outlet.open()
            for data in self._writer.preamble():
                outlet.event(data)
            if request.late is not None:
                self._refuse(request.late)
                return
            self._keep_talking()
        run.start()
        if self._keep_alive is not None:
            outlet.gone = self._gone

    def _refuse(self, error: ApiError) -> None:
        events = self._writer.refused(error)
        if events is None:
            self._outlet.cut()
            return
        for data in events[:-1]:
            self._outlet.event(data)
        self._outlet.end(events[-1])

    def _stream(self, sequence: Sequence, step: Step) -> None:
        outlet = self._outlet
        self._spoke_at = self._loop.time() if self._keep_alive is not None else 0.0
        if not self._opened:
            self._opened = True
            for data in self._writer.opening():
                outlet.event(data)
        if self._big and step.piece.kind is Kind.TEXT:
            step = step._replace(text=_filled(self._big))
            self._big = 0
        for data in self._writer.token(sequence, step):
            outlet.event(data)
        if step.finish is not None and self.run.done:
            self._silence()
            usage = None if self._no_usage else self._usage()
            for data in self._writer.ending(usage):
                outlet.event(data)
            outlet.end(self._writer.terminal(usage))

    def _collect(self, sequence: Sequence, step: Step) -> None:
        self._writer.add(sequence, step)
        if step.finish is not None and self.run.done:
            body = self._writer.whole(self._usage())
            self._outlet.whole(
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
        prompts = [prompt.tokens for prompt in request.prompts]
        usage = usage_of(self.run.job.sequences, prompts, options.block_size, request.chat)
        usage.details = options.prompt_tokens_details
        usage.reasoning_tokens = self._writer.reasoning_tokens()
        return usage

    def _gone(self) -> None:
        self._silence()
        self.run.abort()

    def _keep_talking(self) -> None:
        """A comment whenever the stream was silent so long."""
        interval = self._interval_s
        if not interval:
            return
        now = self._loop.time()
        self._spoke_at = self._spoke_at or now
        if now - self._spoke_at >= interval * 0.999:
            self._outlet.event(KEEP_ALIVE)
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

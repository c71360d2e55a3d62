"""The pretended engine: a first-come-first-served queue, a running limit, and paced tokens.

One heap of due times and one timer drive all sequences: a thousand streams are a thousand heap
entries, no tasks. The engine knows no HTTP; output goes to ``Job.deliver``.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random

from gateway.sim.answers import Kind, Piece
from gateway.sim.cache import BlockPool, block_hashes
from gateway.sim.metrics import Metrics
from gateway.sim.options import SimOptions
from gateway.sim.sequence import Finish, Job, Sequence, State, Step

# A step later than this is still on time: one timer then serves all that are due together.
_SLACK_S = 0.0003
_READ = Step(Piece(0, "", Kind.CONTROL), "", Finish.STOP)
"""The only step of a sequence that makes no tokens."""


class Engine:
    """Runs jobs. Call it only from the event loop it was made in."""

    def __init__(
        self, options: SimOptions, metrics: Metrics, changed: Callable[[], None] | None = None
    ) -> None:
        self._options = options
        self._metrics = metrics
        self._changed = changed or (lambda: None)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Sequence] = deque()
        self._rng = Random(options.seed)  # noqa: S311 - jitter, no secret
        self._due: list[tuple[float, int, Sequence]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.pool = BlockPool(options.kv_blocks, options.block_size)
        self.running = 0
        self._adapters: Counter[str] = Counter()
        self.asleep = False
        """vLLM's ``/sleep``: requests are taken, and nothing is answered."""
        self.started = 0
        self.finished = 0
        self.aborted = 0
        """Jobs: API requests that reached the engine, that ended, whose client left."""

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place."""
        return len(self._waiting)

    def adapters(self) -> tuple[list[str], list[str]]:
        """The LoRA adapters of running and of waiting sequences, by name."""
        waiting = {sequence.job.adapter for sequence in self._waiting if sequence.job.adapter}
        return sorted(+self._adapters), sorted(waiting)

    def has_room(self, sequences: int) -> bool:
        """Whether the queue limit lets this many more sequences in."""
        limit = self._options.max_waiting
        if limit is None:
            return True
        return self.running + self.waiting + sequences <= self._options.max_num_seqs + limit

    def submit(self, job: Job) -> None:
        """Queue all sequences of ``job``."""
        hashes: dict[int, list[int]] = {}
        for sequence in job.sequences:
            key = id(sequence.prompt)
            if key not in hashes:
                hashes[key] = block_hashes(sequence.prompt, self._options.block_size, job.salt)
            sequence.hashes = hashes[key]
        job.left = len(job.sequences)
        self.started += 1
        self._waiting.extend(job.sequences)
        self._admit()
        self._changed()

    def abort(self, job: Job) -> None:
        """The client has gone: stop every sequence that has not ended, and free its blocks."""
        if job.left == 0:
            return
        job.aborted = True
        self.aborted += 1
        for sequence in job.sequences:
            if sequence.state is not State.DONE:
                self._end(sequence, Finish.ABORT)
        self._admit()
        self._changed()

    def pause(self, job: Job) -> None:
        """The client does not read: its sequences keep their places and make no tokens."""
        job.paused = True

    def resume(self, job: Job) -> None:
        """The client reads again."""
        job.paused = False
        self._unpark(job.sequences)

    def sleep(self) -> None:
        """Go silent, as vLLM's ``/sleep`` does."""
        self.asleep = True
        self._changed()

    def wake(self) -> None:
        """Go on with everything that came meanwhile."""
        self.asleep = False
        self._admit()
        self._arm()
        self._changed()

    def close(self) -> None:
        """Stop the timer; nothing is delivered any more."""
        self.asleep = True
        if self._timer is not None:
            self._timer.cancel()

    def _unpark(self, sequences: list[Sequence]) -> None:
        now = self._loop.time()
        for sequence in sequences:
            if sequence.parked:
                sequence.parked = False
                heappush(self._due, (now, next(self._order), sequence))
        self._arm()

    def _admit(self) -> None:
        options, metrics = self._options, self._metrics
        while self._waiting and self.running < options.max_num_seqs and not self.asleep:
            sequence = self._waiting[0]
            prompt_tokens = len(sequence.prompt)
            holding = self.pool.acquire(sequence.hashes, prompt_tokens, sequence.max_total_tokens)
            if holding is None:
                break
            self._waiting.popleft()
            sequence.holding = holding
            sequence.cached_tokens = holding.cached_tokens
            sequence.state = State.RUNNING
            self.running += 1
            if sequence.job.adapter:
                self._adapters[sequence.job.adapter] += 1
            metrics.prefix_queries += prompt_tokens
            metrics.prefix_hits += holding.cached_tokens
            now = sequence.scheduled_at = self._loop.time()
            prefill_s = self._vary(options.ttft_s)
            if options.prefill_tokens_per_s:
                computed = prompt_tokens - holding.cached_tokens
                prefill_s += computed / options.prefill_tokens_per_s
            heappush(self._due, (now + prefill_s, next(self._order), sequence))
        self._arm()

    def _vary(self, seconds: float) -> float:
        jitter = self._options.jitter
        return seconds * (1 + jitter * (2 * self._rng.random() - 1)) if jitter else seconds

    def _arm(self) -> None:
        if not self._due or self.asleep:
            return
        at = self._due[0][0]
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self.asleep:
            return
        due = self._due
        now = self._loop.time()
        ready: list[tuple[float, int, Sequence]] = []
        while due and due[0][0] <= now + _SLACK_S:
            ready.append(heappop(due))
        tokens = 0
        for at, _, sequence in ready:
            if sequence.state is State.DONE:
                continue
            if sequence.job.paused:
                sequence.parked = True
                continue
            tokens += self._step(sequence, at, now)
        if tokens:
            self._metrics.step_tokens.observe(tokens)
        self._arm()

    def _step(self, sequence: Sequence, at: float, now: float) -> int:
        """One token; returns the tokens the step computed, prompt included."""
        metrics = self._metrics
        if sequence.job.pooling:
            step, tokens = _READ, 0
        else:
            step, tokens = sequence.step(), 1
            metrics.generation_tokens += 1
        if sequence.first_at:
            metrics.itl_s.observe(now - sequence.last_at)
        else:
            sequence.first_at = now
            tokens += self._first(sequence, now)
        sequence.last_at = now
        if step.finish is None:
            # From the time it was due: lateness of one step does not add up over a stream. But
            # an engine that fell behind does not catch up by bursts.
            following = max(at + self._vary(self._options.itl_s), now)
            heappush(self._due, (following, next(self._order), sequence))
            sequence.job.deliver(sequence, step)
            return tokens
        self._end(sequence, step.finish)
        job = sequence.job
        if job.left == 0:
            self.finished += 1
        job.deliver(sequence, step)
        self._admit()
        self._changed()
        return tokens

    def _first(self, sequence: Sequence, now: float) -> int:
        metrics, prompt_tokens = self._metrics, len(sequence.prompt)
        computed = prompt_tokens - sequence.cached_tokens
        metrics.ttft_s.observe(now - sequence.job.arrived_at)
        metrics.prompt_tokens += prompt_tokens
        metrics.cached_prompt_tokens += sequence.cached_tokens
        return computed

    def _end(self, sequence: Sequence, finish: Finish) -> None:
        if sequence.state is State.WAITING:
            self._waiting.remove(sequence)
        else:
            self.running -= 1
            if sequence.job.adapter:
                self._adapters[sequence.job.adapter] -= 1
        sequence.state = State.DONE
        sequence.job.left -= 1
        if sequence.holding is not None:
            hashes = sequence.hashes
            if sequence.first_at:
                hashes = self._full_blocks(sequence)
            self.pool.release(sequence.holding, hashes)
            sequence.holding = None
        self._record(sequence, finish)

    def _full_blocks(self, sequence: Sequence) -> list[int]:
        """Prompt and output: the next turn of a chat finds both."""
        size = self._options.block_size
        done = len(sequence.hashes) * size
        tail = sequence.prompt[done:] + sequence.produced
        parent = sequence.hashes[-1] if sequence.hashes else sequence.job.salt
        return sequence.hashes + block_hashes(tail, size, parent)

    def _record(self, sequence: Sequence, finish: Finish) -> None:
        if finish is Finish.ABORT:
            return  # vLLM counts nothing of a request whose client left (output_processor.py, 0.32)
        metrics, now = self._metrics, self._loop.time()
        metrics.finished[finish.value] += 1
        if not sequence.first_at:
            return
        produced = len(sequence.produced)
        arrived_at, decode_s = sequence.job.arrived_at, sequence.last_at - sequence.first_at
        metrics.request_prompt_tokens.observe(len(sequence.prompt))
        metrics.request_generation_tokens.observe(produced)
        metrics.params_max_tokens.observe(sequence.sampling.max_tokens)
        metrics.computed_tokens.observe(len(sequence.prompt) - sequence.cached_tokens)
        metrics.e2e_s.observe(now - arrived_at)
        metrics.queue_s.observe(sequence.scheduled_at - arrived_at)
        metrics.prefill_s.observe(sequence.first_at - sequence.scheduled_at)
        metrics.decode_s.observe(decode_s)
        metrics.inference_s.observe(sequence.last_at - sequence.scheduled_at)
        metrics.tpot_s.observe(decode_s / (produced - 1) if produced > 1 else 0.0)
        if sequence is sequence.job.sequences[-1]:
            metrics.params_n.observe(sequence.sampling.n)
            longest = max(len(one.produced) for one in sequence.job.sequences)
            metrics.max_num_generation_tokens.observe(longest)

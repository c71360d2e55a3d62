"""One sequence: the tokens of one choice for one prompt, and where its text stops."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from gateway.sim.answers import Kind, Piece, Script
from gateway.sim.sampling import Sampling
from gateway.sim.text import EOS

if TYPE_CHECKING:
    from gateway.sim.cache import Holding


class Finish(Enum):
    """How a sequence ended: the values of vLLM's label ``finished_reason``."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    REPETITION = "repetition"


class Step(NamedTuple):
    """One output of the engine for one sequence."""

    piece: Piece
    text: str
    """What may be shown now: less than the token while a stop text may be forming."""
    finish: Finish | None = None
    stop_reason: str | int | None = None


class Sequence:
    """State of one choice, from the queue to its last token."""

    __slots__ = (
        "_checked",
        "_produced_text",
        "_script",
        "_shown",
        "cached_tokens",
        "first_at",
        "hashes",
        "holding",
        "index",
        "job",
        "last_at",
        "max_total_tokens",
        "parked",
        "produced",
        "prompt",
        "sampling",
        "scheduled_at",
        "state",
    )

    def __init__(
        self, job: "Job", index: int, prompt: list[int], sampling: Sampling, script: Script
    ) -> None:
        self.job = job
        self.index = index
        """Number of the choice in the answer, over all prompts."""
        self.prompt = prompt
        self.sampling = sampling
        self._script = script
        natural = script.natural
        ends = bool(natural) and natural[-1].token_id == EOS
        longest = min(sampling.max_tokens, len(natural)) if ends else sampling.max_tokens
        self.max_total_tokens = len(prompt) + longest
        self.hashes: list[int] = []
        self.holding: Holding | None = None
        self.cached_tokens = 0
        self.produced: list[int] = []
        self.state = State.WAITING
        self.parked = False
        """Due while its client does not read; taken up again when the client does."""
        self.scheduled_at = self.first_at = self.last_at = 0.0
        self._produced_text = ""
        self._shown = 0
        self._checked = 0

    def step(self) -> Step:
        """Produce the next token."""
        script, produced = self._script, self.produced
        number = len(produced)
        piece = script.natural[number] if number < len(script.natural) else next(script.endless)
        produced.append(piece.token_id)
        number += 1
        sampling = self.sampling
        if piece.token_id == EOS:
            finish: Finish | None = Finish.STOP
        else:
            finish = Finish.LENGTH if number >= sampling.max_tokens else None
        if piece.token_id in sampling.stop_token_ids and number > sampling.min_tokens:
            # As in vLLM, the token that stops is counted but not shown.
            return Step(piece, self._rest(), Finish.STOP, piece.token_id)
        if sampling.stop and piece.kind in (Kind.TEXT, Kind.CONTROL):
            return self._cut(piece, finish)
        return Step(piece, piece.text, finish)

    def _cut(self, piece: Piece, finish: Finish | None) -> Step:
        """Hold back what may be the beginning of a stop text (``v1/engine/detokenizer.py``)."""
        sampling = self.sampling
        self._produced_text += piece.text
        if len(self.produced) <= sampling.min_tokens:
            self._checked = len(self._produced_text)
        found = self._find_stop()
        if found is not None:
            stop, end = found
            text = self._produced_text[self._shown : max(end, self._shown)]
            return Step(piece, text, Finish.STOP, stop)
        if finish is not None:
            return Step(piece, self._rest(), finish)
        hold = 0 if sampling.include_stop else max(map(len, sampling.stop)) - 1
        end = max(len(self._produced_text) - hold, self._shown)
        text = self._produced_text[self._shown : end]
        self._shown = end
        return Step(piece, text)

    def _rest(self) -> str:
        """What was held back."""
        held = self._produced_text[self._shown :]
        self._shown = len(self._produced_text)
        return held

    def _find_stop(self) -> tuple[str, int] | None:
        best: tuple[str, int, int] | None = None
        text = self._produced_text
        for stop in self.sampling.stop:
            start = text.find(stop, max(self._checked - len(stop) + 1, 0))
            if start >= 0 and (best is None or start + len(stop) < best[2]):
                best = (stop, start, start + len(stop))
        self._checked = max(self._checked, len(text))
        if best is None:
            return None
        return best[0], best[2] if self.sampling.include_stop else best[1]


class State(Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Job:
    """The sequences of one API request, and who wants their output."""

    deliver: Callable[[Sequence, Step], None]
    arrived_at: float
    sequences: list[Sequence] = field(default_factory=list)
    left: int = 0
    """Sequences that have not ended."""
    salt: int = 0
    """Keeps the prefix cache of ``cache_salt`` and of adapters apart."""
    adapter: str | None = None
    """The LoRA adapter that it needs."""
    pooling: bool = False
    """Its sequences read their prompts and make no tokens."""
    paused: bool = False
    aborted: bool = False

"""Kept responses: for ``previous_response_id``, GET, cancel, and those made in the background.

Bounded, unlike vLLM's: the oldest go first.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.sim.response import STREAM_HEADERS, Headers, Response
from gateway.sim.schema import Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.sim.faults import Fault


class Tape:
    """The outlet of a response that is made in the background: its events stay, and can be
    followed from any place while more come."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.hung = False
        self.gone: Callable[[], None] | None = None
        self.pause: Callable[[], None] | None = None
        self.resume: Callable[[], None] | None = None
        self.events: list[bytes] = []
        self.complete = False
        """The last event is the terminal one."""
        self._followers: list[Follower] = []

    def open(self, headers: Headers = STREAM_HEADERS) -> None:
        """Nobody listens yet."""

    def event(self, data: bytes) -> None:
        """One more event."""
        self.events.append(data)
        self._tell()

    def end(self, last: bytes) -> None:
        """The terminal event."""
        self.events.append(last)
        self.complete = True
        self._tell()

    def cut(self) -> None:
        """As in vLLM, who follows hears nothing more, and is not told."""

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """The writer has put it into the store."""

    def follow(self, response: Response, start: int) -> None:
        """Send events from number ``start`` on, up to the last there will be."""
        self._followers.append(Follower(self, response, start))
        self._tell()

    def leave(self, follower: "Follower") -> None:
        """No more events for this one."""
        if follower in self._followers:
            self._followers.remove(follower)

    def _tell(self) -> None:
        for follower in tuple(self._followers):
            follower.send()


class Follower:
    """One client that reads a tape, at its own speed."""

    def __init__(self, tape: Tape, response: Response, start: int) -> None:
        self._tape = tape
        self._response = response
        self._next = start
        self._paused = False
        response.gone = lambda: tape.leave(self)
        response.pause = self._pause
        response.resume = self._resume
        response.open()

    def send(self) -> None:
        """What has come since the last time."""
        tape = self._tape
        while self._next < len(tape.events) and not self._paused:
            data = tape.events[self._next]
            self._next += 1
            if tape.complete and self._next == len(tape.events):
                tape.leave(self)
                self._response.end(data)
            else:
                self._response.event(data)

    def _pause(self) -> None:
        self._paused = True

    def _resume(self) -> None:
        self._paused = False
        self.send()


@dataclass(slots=True)
class Kept:
    """What is known of one response."""

    messages: list[Json] = field(default_factory=list)
    """The conversation that led to it."""
    value: Json | None = None
    """The object; None: it has not ended, and was not made in the background."""
    tape: Tape | None = None


class ResponseStore:
    """The last ``limit`` responses. 0: nothing is kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._limit > 0

    def begin(self, name: str, messages: list[Json]) -> Kept:
        """A response is being made; the same id again takes the place of the old one's input."""
        kept = self._kept.setdefault(name, Kept())
        kept.messages = messages
        self._kept.move_to_end(name)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return kept

    def get(self, name: str) -> Kept | None:
        """A response that can be asked for."""
        kept = self._kept.get(name)
        return kept if kept is not None and kept.value is not None else None

    def finish(self, name: str, value: Json) -> None:
        """A response has ended; one that was cancelled stays so."""
        kept = self._kept.get(name)
        if kept is None or (kept.value is not None and kept.value["status"] == "cancelled"):
            return
        kept.value = value

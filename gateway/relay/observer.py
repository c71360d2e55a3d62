"""Watches one stream go by: counts token events, finds usage, hides the usage event. Pure.

Almost every event is one whole token event in one read. That one is recognised by its bytes
alone; every other event is decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.relay.events import EventSplitter, event_data

if TYPE_CHECKING:
    from gateway.relay.formats import Reading, StreamFormat
    from gateway.terms import Usage

_QUOTE = 0x22


class EventTooLarge(Exception):
    """An event that must be held back until it is whole has outgrown its bound."""


class StreamObserver:
    """Reads one worker's stream.

    Until its first answer (an event that is not preamble) everything is held back, since that
    event may turn out to be a refusal. After it, bytes go down as they come, or event by event
    where a usage event must be hidden.
    """

    __slots__ = (
        "_fast",
        "_format",
        "_held",
        "_hid_last",
        "_hide_usage",
        "_mark",
        "_max_event_bytes",
        "_oversize",
        "_splitter",
        "announced",
        "answered",
        "ended",
        "error",
        "fresh",
        "last",
        "opening",
        "refusal",
        "token_events",
        "usage",
    )

    def __init__(self, format_: StreamFormat, *, hide_usage: bool, max_event_bytes: int) -> None:
        self._format = format_
        self._hide_usage = hide_usage
        self._max_event_bytes = max_event_bytes
        self._splitter = EventSplitter()
        self._held: list[bytes] = []
        self._mark = format_.token_marks[0]
        self._fast = False
        self._hid_last = False
        self._oversize = False
        self.answered = False
        """An event that is not preamble has been read."""
        self.ended = False
        """The terminal event has been read."""
        self.error: Reading | None = None
        """The last error event."""
        self.refusal: Reading | None = None
        """The error event that was the first answer: a late refusal."""
        self.announced: Usage | None = None
        """Usage that was told before the engine had answered: of the prompt alone."""
        self.usage: Usage | None = None
        self.opening = b""
        """The first event that is no comment."""
        self.last = b""
        """The last whole event that is no comment."""
        self.fresh = 0
        """Token events in the last feed."""
        self.token_events = 0
        """Token events in all."""

    def feed(self, data: bytes) -> bytes:
        """Read what came; give back what is to go down now. EventTooLarge as its name says."""
        if (
            self._fast
            and data[-2:] == b"\n\n"
            and data.find(b"\n\n") == len(data) - 2
            and b"\r" not in data
        ):
            mark = self._mark
            at = data.find(mark)
            if at > 0 and data[at + len(mark)] != _QUOTE:
                self.fresh = 1
                self.token_events += 1
                self.last = data
                return data
        return self._feed_slowly(data)

    @property
    def mid_event(self) -> bool:
        """Half an event has gone down."""
        return self.answered and not self._hide_usage and self._splitter.pending > 0

    def release(self) -> bytes:
        """Comments that are held back, to go down although the first answer is not there yet.

        Announcements (`response.created`, `message_start`) stay: another worker may have to begin
        anew, and its own would contradict them.
        """
        comments = 0
        while comments < len(self._held) and event_data(self._held[comments]) is None:
            comments += 1
        released = b"".join(self._held[:comments])
        del self._held[:comments]
        return released

    def finish(self) -> bytes:
        """The stream is over. Gives back a terminal event that lacks its blank line, if that is
        what was held back: half of any other event is no use to anyone."""
        rest = self._splitter.rest()
        if not rest or self._oversize:
            return b""
        reading = self._format.read(rest)
        if not reading.end:
            return b""
        self.answered = self.ended = True
        if reading.usage is not None:
            self.usage = reading.usage.after(self.usage or self.announced)
        return rest if self._hide_usage else b""

    def _feed_slowly(self, data: bytes) -> bytes:
        self.fresh = 0
        answered_before = self.answered
        events = self._splitter.feed(data)
        shown = [event for event in events if self._read(event)]
        # Only whole events lie behind us: the next one can be recognised by its bytes.
        self._fast = self.token_events > 0 and self._splitter.clean
        oversize = self._splitter.pending > self._max_event_bytes
        if oversize and (self._hide_usage or not self.answered):
            raise EventTooLarge
        if not self.answered:
            self._held += shown
            if sum(map(len, self._held)) > self._max_event_bytes:
                raise EventTooLarge
            return b""
        if self._hide_usage:
            shown[:0] = self._held
            self._held.clear()
            return b"".join(shown)
        if not answered_before:
            # From now on bytes go down as they come: what is pending goes along.
            data = b"".join((*self._held, *shown, self._splitter.rest()))
            self._held.clear()
        if oversize:
            self._splitter.shed()
            self._oversize = True
        return data

    def _read(self, event: bytes) -> bool:
        """Take in one event. False: it is not for the client."""
        if event == b"\n":
            return not self._hid_last
        self._hid_last = False
        if event[:1] != b":":
            self.last = event
        if self._oversize:
            # Its beginning is gone, so it cannot be read; an event that large carries text.
            self._oversize = False
            self._count_token()
            return True
        if self.token_events and self._marked(event):
            self._count_token()
            return True
        reading = self._format.read(event)
        if not self.opening and event[:1] != b":":
            self.opening = event
        if reading.preamble:
            self.announced = reading.usage or self.announced
            return True
        if reading.usage is not None:
            self.usage = reading.usage.after(self.usage or self.announced)
            self._hid_last = self._hide_usage and reading.only_usage
        if reading.error is not None:
            self.error = reading
            if not self.answered and reading.error:
                self.refusal = reading
        self.answered = True
        if reading.token:
            self._count_token()
            self._marked(event)
        if reading.end:
            self.ended = True
        return not self._hid_last

    def _marked(self, event: bytes) -> bool:
        """Does one of the format's marks prove a token event? The one that does comes first next
        time."""
        for mark in self._format.token_marks:
            at = event.find(mark)
            if at > 0 and event[at + len(mark)] != _QUOTE:
                self._mark = mark
                return True
        return False

    def _count_token(self) -> None:
        self.fresh += 1
        self.token_events += 1

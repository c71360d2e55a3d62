"""Server-sent events: bytes in, whole events out, however the bytes were cut. Pure.

Rules: WHATWG HTML, 9.2.6 "Interpreting an event stream". A line ends with CRLF, LF or CR; a blank
line ends an event; `data:` lines join with LF, less one leading space; lines that begin with `:`
are comments. An event here is its very bytes, its blank line included, so that joining the events
gives the bytes that came.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")
# Two line ends in a row. A CR is a line end of its own only where no LF follows it.
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LONGEST_END = 4


class EventSplitter:
    """Cuts a stream of bytes into events.

    Holds at most the one unfinished event, whose size `pending` tells; the caller sets the bound.
    """

    __slots__ = ("_after_cr", "_rest", "_scanned")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._scanned = 0
        self._after_cr = False

    @property
    def pending(self) -> int:
        """Bytes of the unfinished event."""
        return len(self._rest)

    @property
    def clean(self) -> bool:
        """The next byte begins an event."""
        return not self._rest and not self._after_cr

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` finishes, in order."""
        if not self._rest and not self._after_cr and data[-2:] == b"\n\n" and b"\r" not in data:
            if data.find(b"\n\n") == len(data) - 2:
                return [data]
            if b"\n\n\n" not in data:  # else the last blank line may not end an event
                return [part + b"\n\n" for part in data[:-2].split(b"\n\n")]
        return self._feed_slowly(data)

    def rest(self) -> bytes:
        """The unfinished event so far."""
        return bytes(self._rest)

    def shed(self) -> None:
        """Forget the unfinished event, but for its last bytes: its end may straddle the cut."""
        del self._rest[:-_LONGEST_END]
        self._scanned = 0

    def _feed_slowly(self, data: bytes) -> list[bytes]:
        events: list[bytes] = []
        if self._after_cr and data:
            self._after_cr = False
            if data[:1] == b"\n":
                # The other half of the CRLF whose CR has already ended an event.
                events.append(b"\n")
                data = data[1:]
        rest = self._rest
        rest += data
        start = 0
        while found := _EVENT_END.search(rest, max(start, self._scanned)):
            events.append(bytes(rest[start : found.end()]))
            start = self._scanned = found.end()
        if start and start == len(rest):
            self._after_cr = rest[-1:] == b"\r"
        del rest[:start]
        # What was looked at need not be looked at again, but for an end that may straddle the cut.
        self._scanned = max(0, len(rest) - _LONGEST_END)
        return events


def event_data(event: bytes) -> bytes | None:
    """The event's `data`, its lines joined with LF; None where it has none (a comment, say)."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = _LINE_END.split(event)
    values = [
        line[5:].removeprefix(b" ")
        for line in lines
        if line.startswith(b"data:") or line == b"data"
    ]
    return b"\n".join(values) if values else None

"""The splitter: whole events, however the bytes were cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.relay.events import EventSplitter, event_data
from tests.unit.streams import cut, cut_points

_TOKEN = re.compile(rb"\r\n|\n|\r|[^\r\n]+")
_pieces = st.sampled_from(
    (b"data: a", b"data:b", b"data", b"datax: n", b": c", b"event: e", b" ", b"\n", b"\r", b"\r\n")
)
_lf_pieces = st.sampled_from((b"data: a", b"\n"))
_bytes = (st.lists(_pieces, max_size=24) | st.lists(_lf_pieces, min_size=3, max_size=10)).map(
    b"".join
)


def split_simply(data: bytes) -> tuple[list[bytes], bytes]:
    """The rule, on the whole stream at once: two line ends in a row end an event."""
    events, event, ends = [], b"", 0
    for token in _TOKEN.findall(data):
        event += token
        ends = ends + 1 if token.strip(b"\r\n") == b"" else 0
        if ends == 2:
            events.append(event)
            event, ends = b"", 0
    return events, event


def data_simply(stream: bytes) -> list[bytes]:
    """`data` of each event, by the steps of WHATWG HTML, 9.2.6."""
    found: list[bytes] = []
    values: list[bytes] = []
    lines = re.split(rb"\r\n|\n|\r", stream)
    for line in lines[:-1]:
        name, _, value = line.partition(b":")
        if not line:
            found += [b"\n".join(values)] if values else []
            values = []
        elif name == b"data":
            values.append(value.removeprefix(b" "))
    return found


def split(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    """What the splitter makes of `pieces`. The LF of a cut CRLF counts to the event before it."""
    splitter = EventSplitter()
    events: list[bytes] = []
    for piece in pieces:
        for event in splitter.feed(piece):
            if event == b"\n":
                events[-1] += event
            else:
                events.append(event)
    return events, splitter.rest()


@given(data=_bytes, points=cut_points)
@settings(deadline=None, max_examples=500)
def test_however_the_bytes_are_cut_the_events_are_the_same(data: bytes, points: list[int]) -> None:
    """Against a reference that sees the whole stream at once; LF, CRLF, CR, and mixes of them."""
    assert split(cut(data, points)) == split_simply(data)


@given(data=_bytes)
@settings(deadline=None, max_examples=200)
def test_byte_by_byte_gives_the_same_events_as_all_at_once(data: bytes) -> None:
    """The two extremes of cutting."""
    assert split([data[at : at + 1] for at in range(len(data))]) == split([data])


@given(data=_bytes, points=cut_points)
@settings(deadline=None, max_examples=200)
def test_no_byte_is_lost_or_added(data: bytes, points: list[int]) -> None:
    """The events and the rest, joined, are what came."""
    splitter = EventSplitter()
    events = [event for piece in cut(data, points) for event in splitter.feed(piece)]
    assert b"".join(events) + splitter.rest() == data


@given(data=_bytes)
@settings(deadline=None, max_examples=300)
def test_the_data_of_an_event_is_what_the_standard_says(data: bytes) -> None:
    """Against WHATWG's own steps, for every event of the stream."""
    events, rest = split([data])
    found = [event_data(event) for event in events]
    assert [value for value in found if value is not None] == data_simply(
        data[: -len(rest) or None]
    )


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: {}\n\n", b"{}"),
        (b"data:{}\n\n", b"{}"),
        (b"data:  two\n\n", b" two"),
        (b"data: a\r\n\r\n", b"a"),
        (b"data: a\r\r", b"a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\ndata\ndata: b\n\n", b"a\n\nb"),
        (b"event: message_stop\ndata: {}\n\n", b"{}"),
        (b"data\n\n", b""),
        (b": keep-alive\n\n", None),
        (b"event: ping\n\n", None),
        (b"database: x\n\n", None),
    ],
)
def test_event_data(event: bytes, data: bytes | None) -> None:
    """One leading space goes, data lines join with LF, a comment has no data."""
    assert event_data(event) == data


def test_a_byte_order_mark_is_passed_like_any_other_bytes() -> None:
    """No worker sends one; if one does, it is not the gateway's to take out."""
    assert split([b"\xef\xbb\xbfdata: a\n\n"]) == ([b"\xef\xbb\xbfdata: a\n\n"], b"")


def test_pending_tells_the_size_of_the_unfinished_event() -> None:
    """The caller bounds it, so it must count every byte that is held."""
    splitter = EventSplitter()
    splitter.feed(b"data: a\n\ndata: b")
    assert (splitter.pending, splitter.clean) == (7, False)
    splitter.feed(b"\n\n")
    assert (splitter.pending, splitter.clean) == (0, True)


def test_after_a_lone_cr_the_next_byte_may_still_belong_to_the_event() -> None:
    """The CR has ended the event, but an LF would be the other half of its CRLF."""
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\r\n\r") == [b"data: a\r\n\r"]
    assert not splitter.clean
    assert splitter.feed(b"\ndata: b\n\n") == [b"\n", b"data: b\n\n"]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])
def test_an_event_that_was_shed_still_ends_where_its_blank_line_is(end: bytes) -> None:
    """Whatever the cut between the two halves of the blank line."""
    for at in range(len(end)):
        splitter = EventSplitter()
        events = splitter.feed(b"data: " + b"x" * 99 + end[:at])
        splitter.shed()
        assert splitter.pending <= 4
        events += splitter.feed(end[at:] + b"data: b\n\n")
        assert events[-1] == b"data: b\n\n"
        assert len([event for event in events if event != b"\n"]) == 2

"""How the load generator reads a chat stream: whatever the cuts, the events are the same."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.chat.events import EventReader, Reading, read_error, read_event

STREAM = (
    b": a comment\n\n"
    b'data: {"a": 1}\n\n'
    b"event: x\ndata: two\ndata: lines\n\n"
    b"data:no space\n\n"
    b"data: gr\xc3\xbcn\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [b'{"a": 1}', b"two\nlines", b"no space", "grün".encode(), b"[DONE]"]


def read(parts: list[bytes]) -> list[bytes]:
    reader = EventReader()
    return [event for part in parts for event in reader.feed(part)]


@given(st.lists(st.integers(0, len(STREAM))), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int], end: bytes) -> None:
    """Inside UTF-8, inside a line end, anywhere; with each of the three line ends."""
    stream = STREAM.replace(b"\n", end)
    # A lone CR at the very end may be half a line end: what follows settles it.
    stream += b": end" if end == b"\r" else b""
    places = sorted({0, *[cut for cut in cuts if cut < len(stream)], len(stream)})
    parts = [stream[a:b] for a, b in pairwise(places)]
    assert read(parts) == EVENTS


def test_an_unfinished_event_is_no_event() -> None:
    """A stream that is cut in the middle of one must not count it."""
    assert read([b"data: one\n\ndata: tw"]) == [b"one"]


def delta(**fields: object) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": fields}]}).encode()


@pytest.mark.parametrize(
    ("event", "token"),
    [
        (delta(role="assistant", content=""), False),
        (delta(), False),
        (delta(content="x"), True),
        (delta(reasoning="x"), True),
        (delta(reasoning_content="x"), True),
        (delta(refusal="x"), True),
        (delta(tool_calls=[{"index": 0, "function": {"name": "f"}}]), True),
        (delta(tool_calls=[{"index": 0, "function": {"arguments": ""}}]), False),
        (b'{"choices": []}', False),
    ],
)
def test_a_token_event_has_text(event: bytes, token: bool) -> None:
    """A role alone, or an empty delta, does not count."""
    assert read_event(event).token is token


def test_usage_the_end_and_errors_are_told_apart() -> None:
    """And an error has a short name, so that errors of one kind add up."""
    assert read_event(b"[DONE]") == Reading(done=True)
    usage = b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 7}}'
    assert read_event(usage) == Reading(tokens=7)
    assert read_event(b'{"error": {"message": "m", "code": 503}}') == Reading(error="503")
    assert read_event(b'{"error": {"message": "m", "type": "t"}}') == Reading(error="t")


def test_what_is_no_chat_event_is_said_to_be_none() -> None:
    """ValueError, which the clients count as a failure."""
    with pytest.raises(ValueError, match="malformed"):
        read_event(b"hello")


@pytest.mark.parametrize(
    ("body", "name"),
    [(b'{"error": {"code": "no_worker"}}', "no_worker"), (b"<html>", ""), (b'{"detail": 1}', "")],
)
def test_a_refusal_may_have_any_body(body: bytes, name: str) -> None:
    """A proxy in between answers with what it likes."""
    assert read_error(body) == name

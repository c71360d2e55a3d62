"""The observer: counts, finds and hides without changing anything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.relay.formats import OpenAIFormat, Reading
from gateway.relay.observer import EventTooLarge, StreamObserver
from gateway.terms import Usage
from tests.support.scripted import DONE, ROLE, chat_event, error_event, usage_event
from tests.unit.streams import Stream, cut, cut_points, reads, streams

USAGE = Usage(prompt_tokens=5, completion_tokens=7)


def observer(*, hide: bool, max_event_bytes: int = 2**20) -> StreamObserver:
    return StreamObserver(OpenAIFormat(), hide_usage=hide, max_event_bytes=max_event_bytes)


def feed(watching: StreamObserver, pieces: list[bytes]) -> tuple[bytes, int]:
    """What goes down, and the sum of `fresh`."""
    down, fresh = b"", 0
    for piece in pieces:
        down += watching.feed(piece)
        fresh += watching.fresh
    return down, fresh


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_hidden_usage_is_exactly_the_usage_event_taken_out(data: st.DataObject) -> None:
    """Nothing else goes, nothing else changes, and the figures are those of a full decode."""
    stream = data.draw(streams())
    pieces = data.draw(reads(stream))
    watching = observer(hide=True)
    down, fresh = feed(watching, pieces)
    assert down + watching.finish() == stream.shown
    assert (watching.token_events, fresh) == (stream.tokens, stream.tokens)
    assert watching.usage == (None if stream.usage is None else USAGE)
    assert (watching.answered, watching.ended, watching.error) == (True, True, None)


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_where_nothing_is_hidden_the_bytes_pass_as_they_are(data: st.DataObject) -> None:
    """And the figures are the same as where usage is hidden."""
    stream = data.draw(streams())
    pieces = data.draw(reads(stream))
    watching = observer(hide=False)
    down, fresh = feed(watching, pieces)
    assert down + watching.finish() == stream.data
    assert (watching.token_events, fresh) == (stream.tokens, stream.tokens)
    assert watching.usage == (None if stream.usage is None else USAGE)
    assert watching.ended


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_after_the_first_answer_nothing_is_held_back_where_nothing_is_hidden(
    data: st.DataObject,
) -> None:
    """Every byte that has come has gone down, the unfinished event's too."""
    stream = data.draw(streams())
    pieces = data.draw(reads(stream))
    watching = observer(hide=False)
    came = down = b""
    for piece in pieces:
        came += piece
        down += watching.feed(piece)
        assert down == (came if watching.answered else b"")


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_only_whole_events_go_down_where_usage_is_hidden(data: st.DataObject) -> None:
    """Each whole event goes down with the read that finishes it, none earlier, none later."""
    stream = data.draw(streams())
    pieces = data.draw(reads(stream))
    watching = observer(hide=True)
    came = down = b""
    for piece in pieces:
        came += piece
        down += watching.feed(piece)
        whole, size = b"", 0
        for at, event in enumerate(stream.events):
            size += len(event)
            if size <= len(came):
                whole += event if at != stream.usage else b""
        if not watching.answered:
            assert down == b""
        elif b"\r" not in came:  # a cut CRLF may send its LF a read later
            assert down == whole


@given(stream=streams(line_ends=("\n",)), hide=st.booleans())
@settings(deadline=None, max_examples=150)
def test_events_read_one_by_one_and_byte_by_byte_give_the_same(stream: Stream, hide: bool) -> None:
    """One event a read may be told by its bytes alone; byte by byte each is decoded."""
    quick, slow = observer(hide=hide), observer(hide=hide)
    quick_down, _ = feed(quick, list(stream.events))
    slow_down, _ = feed(slow, [stream.data[at : at + 1] for at in range(len(stream.data))])
    assert quick_down == slow_down
    assert (quick.token_events, quick.usage, quick.ended) == (
        slow.token_events, slow.usage, slow.ended,
    )  # fmt: skip


class CountingFormat(OpenAIFormat):
    """How many events had to be decoded."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, event: bytes) -> Reading:
        self.reads += 1
        return super().read(event)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"content": '"'},
        {"reasoning": "x"},
        {"reasoning_content": "x"},
        {"refusal": "x"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "x"}}]},
    ],
    ids=lambda delta: next(iter(delta)),
)
def test_token_events_after_the_first_are_not_decoded(delta: dict[str, object]) -> None:
    """This is what makes counting cheap: one decode for the first of a kind, none after it."""
    format_ = CountingFormat()
    watching = StreamObserver(format_, hide_usage=True, max_event_bytes=1000)
    event = f"data: {json.dumps({'choices': [{'delta': delta}]}, separators=(',', ':'))}\n\n"
    feed(watching, [event.encode()] * 100)
    assert (watching.token_events, format_.reads) == (100, 1)


def test_a_switch_from_thoughts_to_content_to_tool_calls_is_not_decoded() -> None:
    """Each switch is told by another mark."""
    format_ = CountingFormat()
    watching = StreamObserver(format_, hide_usage=True, max_event_bytes=1000)
    call = chat_event(tool_calls=[{"index": 0, "function": {"arguments": "{"}}])
    events = [ROLE, chat_event(reasoning="a"), chat_event("b"), call, chat_event(reasoning="c")]
    feed(watching, events)
    assert (watching.token_events, format_.reads) == (4, 2)


@pytest.mark.parametrize(
    "event",
    [
        chat_event(""),
        chat_event(),
        chat_event(tool_calls=[{"index": 0, "function": {"arguments": ""}}]),
        b": keep-alive\n\n",
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
        b"data: not JSON\n\n",
        b"data: 17\n\n",
        b"data: " + b"[" * 20_000 + b"\n\n",
    ],
)
def test_an_event_without_text_is_no_token(event: bytes) -> None:
    """Empty deltas, comments, the finish event, and what is not understood."""
    watching = observer(hide=False)
    assert feed(watching, [ROLE, chat_event("a"), event]) == (ROLE + chat_event("a") + event, 1)


def test_text_in_the_second_choice_only_is_a_token() -> None:
    """The first mark in the event stands before empty text; that proves nothing."""
    watching = observer(hide=False)
    both = json.dumps(
        {"choices": [{"delta": {"content": ""}}, {"delta": {"content": "x"}}]},
        separators=(",", ":"),
    )
    feed(watching, [chat_event("a"), f"data: {both}\n\n".encode()])
    assert watching.token_events == 2


def test_several_token_events_in_one_read_are_all_fresh() -> None:
    """ITL needs to know how many came together."""
    watching = observer(hide=True)
    watching.feed(ROLE)
    watching.feed(chat_event("a") + chat_event("b") + chat_event("c"))
    assert watching.fresh == 3
    watching.feed(usage_event())
    assert watching.fresh == 0


def test_several_token_events_in_one_read_are_all_fresh_once_bytes_tell() -> None:
    """The short cut is for one event a read."""
    watching = observer(hide=True)
    feed(watching, [ROLE, chat_event("a"), chat_event("b")])
    watching.feed(chat_event("c") + usage_event(5, 7) + chat_event("d"))
    assert (watching.fresh, watching.token_events, watching.usage) == (2, 4, USAGE)


def test_events_with_other_line_ends_in_one_read_are_all_counted() -> None:
    """The short cut knows LF only."""
    watching = observer(hide=True)
    feed(watching, [ROLE, chat_event("a")])
    watching.feed(chat_event("b").replace(b"\n", b"\r\n") + chat_event("c"))
    assert watching.token_events == 3


@pytest.mark.parametrize("hide", [True, False])
def test_a_crlf_that_is_cut_goes_with_its_event(hide: bool) -> None:
    """Wherever the usage event is cut, both halves of its last line end go, or both stay."""
    before, done = chat_event("a").replace(b"\n", b"\r\n"), DONE.replace(b"\n", b"\r\n")
    usage = usage_event(5, 7).replace(b"\n", b"\r\n")
    whole = before + usage + done
    for at in range(len(before), len(before + usage) + 1):
        watching = observer(hide=hide)
        down, _ = feed(watching, [before, whole[len(before) : at], whole[at:]])
        assert down == (before + done if hide else whole)
        assert (watching.usage, watching.ended) == (USAGE, True)


def test_usage_that_comes_with_text_is_not_hidden() -> None:
    """Only an event that carries usage and nothing else may go."""
    event = (
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":5,"completion_tokens":7}}\n\n'
    )
    watching = observer(hide=True)
    assert watching.feed(ROLE + event) == ROLE + event
    assert watching.usage == USAGE


def test_everything_before_the_first_answer_is_held_back() -> None:
    """A comment is preamble: the next event may be a refusal."""
    watching = observer(hide=False)
    assert watching.feed(b": keep-alive\n\n") == b""
    assert watching.feed(ROLE[:9]) == b""
    assert not watching.answered
    assert watching.feed(ROLE[9:]) == b": keep-alive\n\n" + ROLE


def test_what_was_released_does_not_come_twice() -> None:
    """When the head waits too long, comments go down before the first answer."""
    watching = observer(hide=True)
    watching.feed(b": one\n\n")
    assert watching.release() == b": one\n\n"
    assert watching.feed(ROLE) == ROLE


@pytest.mark.parametrize("hide", [True, False])
def test_an_error_as_the_first_answer_is_a_late_refusal(hide: bool) -> None:
    """With the status that it names, so that the client can be given a real one."""
    watching = observer(hide=hide)
    watching.feed(b": keep-alive\n\n" + error_event(400) + DONE)
    assert watching.refusal is not None
    assert watching.refusal.error_status == 400
    assert watching.refusal.error is not None
    assert json.loads(watching.refusal.error)["error"]["code"] == 400


def test_an_error_after_the_first_answer_is_no_refusal() -> None:
    """It goes down in the stream as it came."""
    watching = observer(hide=True)
    assert watching.feed(ROLE + error_event(500)) == ROLE + error_event(500)
    assert watching.refusal is None
    assert watching.error is not None
    assert not watching.ended


@pytest.mark.parametrize("done", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n"])
def test_a_terminal_event_without_its_blank_line_still_ends_the_stream(done: bytes) -> None:
    """And goes down, where it was held back."""
    hiding, passing = observer(hide=True), observer(hide=False)
    assert (hiding.feed(ROLE + done), hiding.finish(), hiding.ended) == (ROLE, done, True)
    assert (passing.feed(ROLE + done), passing.finish(), passing.ended) == (ROLE + done, b"", True)


@given(hide=st.booleans(), size=st.integers(1, len(chat_event("b")) - 2))
@settings(deadline=None, max_examples=200)
def test_half_an_event_at_the_end_is_no_token_and_no_end(hide: bool, size: int) -> None:
    """Wherever the worker was cut; right after the opening quote of the text, too."""
    watching = observer(hide=hide)
    watching.feed(ROLE + chat_event("a"))
    watching.feed(chat_event("b")[:size])
    assert watching.finish() == b""
    assert (watching.token_events, watching.ended) == (1, False)
    assert watching.mid_event == (not hide)


def test_a_larger_event_than_may_be_held_fails_where_usage_is_hidden() -> None:
    """It cannot be passed on: it might be the usage event."""
    watching = observer(hide=True, max_event_bytes=1000)
    watching.feed(ROLE)
    with pytest.raises(EventTooLarge):
        watching.feed(b"data: " + b"x" * 1000)


def test_a_larger_event_than_may_be_held_fails_before_the_first_answer() -> None:
    """It might be a refusal."""
    with pytest.raises(EventTooLarge):
        observer(hide=False, max_event_bytes=1000).feed(b"data: " + b"x" * 1000)


@given(points=cut_points)
@settings(deadline=None, max_examples=200)
def test_a_larger_event_passes_where_nothing_is_hidden(points: list[int]) -> None:
    """Not a byte is lost, what follows is read as ever, and it counts as one token event."""
    large = chat_event("y" * 400)
    data = ROLE + chat_event("a") + large + chat_event("b") + usage_event(5, 7) + DONE
    watching = observer(hide=False, max_event_bytes=300)
    head = len(ROLE)
    assert watching.feed(data[:head]) == ROLE
    down, _ = feed(watching, cut(data[head:], points))
    assert down == data[head:]
    assert (watching.token_events, watching.usage, watching.ended) == (3, USAGE, True)


def test_a_larger_event_in_the_same_read_as_the_first_answer_loses_nothing() -> None:
    """What is pending goes down along with the first answer."""
    watching = observer(hide=False, max_event_bytes=300)
    data = ROLE + chat_event("y" * 400)
    assert watching.feed(data[:-9]) + watching.feed(data[-9:]) == data


def test_within_a_larger_event_the_client_is_in_mid_event() -> None:
    """So that an error event, should one come, begins on a line of its own."""
    watching = observer(hide=False, max_event_bytes=300)
    watching.feed(ROLE)
    watching.feed(b"data: " + b"x" * 1000)
    assert watching.mid_event

"""What the named events of Responses and Messages mean, and how a failure is told among them."""

from __future__ import annotations

import json

import pytest

from gateway.errors import GatewayError, Kind
from gateway.relay.events import event_data
from gateway.relay.formats import MessagesFormat, Reading, ResponsesFormat, StreamFormat
from gateway.relay.observer import StreamObserver
from gateway.terms import Usage
from tests.support.samples import (
    MESSAGE_EVENTS,
    RESPONSE_TOKENS,
    RESPONSE_USAGE,
    compact,
    named_events,
    response,
    response_events,
)

RESPONSES = ResponsesFormat()
MESSAGES = MessagesFormat()
FAILED = GatewayError(Kind.WORKER_FAILED, "The worker failed.")


def event(type_: str, **fields: object) -> bytes:
    (made,) = named_events({**fields, "type": type_})
    return made


def observe(format_: StreamFormat, *data: bytes) -> StreamObserver:
    """An observer that has been fed."""
    observer = StreamObserver(format_, hide_usage=False, max_event_bytes=2**20)
    for each in data:
        observer.feed(each)
    return observer


# --- responses ---


@pytest.mark.parametrize(
    "type_",
    [
        "response.output_text.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.refusal.delta",
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
        "response.mcp_call_arguments.delta",
        "response.audio.delta",
    ],
)
def test_every_delta_of_a_response_is_a_token_event(type_: str) -> None:
    """`response.*.delta`, where it is not empty: an unfinished character makes an empty one."""
    assert RESPONSES.read(event(type_, delta="x")) == Reading(token=True)
    assert RESPONSES.read(event(type_, delta="")) == Reading()
    assert RESPONSES.read(event(type_)) == Reading()


@pytest.mark.parametrize(
    "type_",
    [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.output_item.done",
        "response.made_up",
        "delta",
        "",
    ],
)
def test_the_other_events_of_a_response_carry_no_tokens(type_: str) -> None:
    """Not even those that say the whole text again."""
    assert RESPONSES.read(event(type_, delta="x", text="all of it")) == Reading()


@pytest.mark.parametrize("type_", ["response.created", "response.in_progress", "response.queued"])
def test_what_is_announced_is_preamble(type_: str) -> None:
    """The engine has not answered; no usage is told yet."""
    reading = RESPONSES.read(event(type_, response=response("resp_1", "in_progress")))
    assert reading == Reading(preamble=True)


@pytest.mark.parametrize("type_", ["response.completed", "response.incomplete"])
def test_the_terminal_event_of_a_response_has_its_usage(type_: str) -> None:
    """Cached tokens are part of the prompt."""
    assert RESPONSES.read(event(type_, response=response())) == Reading(
        end=True, usage=RESPONSE_USAGE
    )
    assert RESPONSES.read(event(type_, response={"usage": None})) == Reading(end=True)
    assert RESPONSES.read(event(type_)) == Reading(end=True)


def test_a_failed_response_ends_the_stream_with_an_error() -> None:
    """That cannot become a status: it is no error body."""
    assert RESPONSES.read(event("response.failed", response=response())) == Reading(
        end=True, usage=RESPONSE_USAGE, error=b""
    )
    assert RESPONSES.read(event("error", message="no")) == Reading(error=b"")


def test_a_bare_error_event_is_a_late_refusal() -> None:
    """As vLLM sends it on its other surfaces."""
    told = b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}'
    reading = RESPONSES.read(b"data: " + told + b"\n\n")
    assert reading == Reading(error=told, error_status=400)


def test_a_field_called_error_is_no_error() -> None:
    """Each response has one, mostly null; an event may, too."""
    assert RESPONSES.read(event("response.output_text.delta", delta="x", error={"a": 1})) == (
        Reading(token=True)
    )


def test_a_whole_stream_of_a_response_is_counted() -> None:
    """By its bytes alone, after the first token; the terminal event is still read, whatever the
    client called `delta` in what the response tells again."""
    events = response_events("resp_1", metadata={"delta": "x"}, tools=[{"delta": "x"}])
    observer = observe(RESPONSES, *events)
    assert observer.token_events == len(RESPONSE_TOKENS)
    assert observer.ended
    assert observer.usage == RESPONSE_USAGE
    assert observe(RESPONSES, b"".join(events)).token_events == len(RESPONSE_TOKENS)


def test_a_failed_response_goes_on_from_what_was_announced() -> None:
    """Every field as the worker wrote it, but for the status and the error."""
    events = response_events("resp_7", metadata={"sequence_number": "9"}, temperature=0.70)
    told = RESPONSES.error_event(FAILED, events[0], events[5])
    assert told.startswith(b"event: response.failed\ndata: {")
    assert told.endswith(b"}\n\n")
    assert told.count(b"\n") == 3
    announced = json.loads(events[0].partition(b"data: ")[2])["response"]
    assert json.loads(event_data(told) or b"") == {
        "response": {
            **announced,
            "status": "failed",
            "error": {"code": "server_error", "message": "The worker failed."},
        },
        "sequence_number": 6,
        "type": "response.failed",
    }
    assert RESPONSES.read(told).end


@pytest.mark.parametrize("opening", [b"", b": comment\n\n", b"data: {\n\n", b"data: [1]\n\n"])
def test_a_failure_before_any_announcement_is_told_all_the_same(opening: bytes) -> None:
    """With what a response needs to be one."""
    told = json.loads(event_data(RESPONSES.error_event(FAILED, opening, opening)) or b"")
    assert told["response"] == {
        "object": "response",
        "output": [],
        "status": "failed",
        "error": {"code": "server_error", "message": "The worker failed."},
    }
    assert told["sequence_number"] == 0


def test_the_last_whole_event_is_what_a_failure_follows() -> None:
    """Not half of the next, nor a comment."""
    events = response_events("resp_1")
    comment = b": ping\n\n"
    for half in (b"", b"e", events[5][:20], events[5][:-30]):
        observer = observe(RESPONSES, comment, *events[:5], comment, half)
        assert observer.opening == events[0]
        assert observer.last == events[4]


# --- messages ---


@pytest.mark.parametrize("name", ["text", "thinking", "partial_json"])
def test_a_delta_of_a_message_with_text_is_a_token_event(name: str) -> None:
    """Text, thoughts, and the input of a tool."""
    delta = {"type": f"{name}_delta", name: "x"}
    assert MESSAGES.read(event("content_block_delta", delta=delta)) == Reading(token=True)
    delta[name] = ""
    assert MESSAGES.read(event("content_block_delta", delta=delta)) == Reading()


@pytest.mark.parametrize(
    "fields",
    [
        {"type_": "content_block_start", "content_block": {"type": "text", "text": ""}},
        {"type_": "content_block_delta", "delta": {"type": "signature_delta", "signature": "x"}},
        {"type_": "content_block_delta", "delta": {"type": "citations_delta", "citation": {}}},
        {"type_": "content_block_stop", "index": 0},
        {"type_": "made_up"},
    ],
)
def test_the_other_events_of_a_message_carry_no_tokens(fields: dict[str, object]) -> None:
    """A signature is no text."""
    assert MESSAGES.read(event(str(fields.pop("type_")), **fields)) == Reading()


def test_the_prompt_of_a_message_is_counted_in_three_parts() -> None:
    """What was read from the cache, what was written to it, and the rest; they do not overlap."""
    usage = {
        "input_tokens": 21,
        "cache_read_input_tokens": 96,
        "cache_creation_input_tokens": 5,
        "output_tokens": 4,
    }
    expected = Usage(122, 4, 96)
    assert MESSAGES.read(event("message_delta", usage=usage)) == Reading(usage=expected)
    assert MESSAGES.usage_of(compact({"content": [], "usage": usage})) == expected


def test_usage_comes_in_two_parts() -> None:
    """The prompt with `message_start`, the output with `message_delta`: which tells the prompt
    again in vLLM, and does not elsewhere."""
    start, *_, delta, stop = MESSAGE_EVENTS
    assert MESSAGES.read(start) == Reading(preamble=True, usage=Usage(122))
    assert observe(MESSAGES, start, delta, stop).usage == Usage(122, 4, 96)
    bare = event("message_delta", usage={"output_tokens": 4})
    assert observe(MESSAGES, start, bare, stop).usage == Usage(122, 4)


def test_the_prompt_that_is_announced_is_not_the_count_of_a_message() -> None:
    """Cut short, it has no usage: what was relayed is counted, beside the prompt."""
    observer = observe(MESSAGES, *MESSAGE_EVENTS[:4])
    assert observer.usage is None
    assert observer.announced == Usage(122)
    assert observer.token_events == 2


def test_pings_come_before_the_engine() -> None:
    """And at any other time; `message_stop` ends."""
    assert MESSAGES.read(event("ping")) == Reading(preamble=True)
    assert MESSAGES.read(event("message_stop")) == Reading(end=True)


@pytest.mark.parametrize(
    ("type_", "status"),
    [
        ("invalid_request_error", 400),
        ("authentication_error", 401),
        ("permission_error", 403),
        ("not_found_error", 404),
        ("rate_limit_error", 429),
        ("overloaded_error", 503),
        ("api_error", 500),
        ("internal_error", 500),
        ("BadRequestError", 500),
    ],
)
def test_an_error_of_a_message_has_its_types_status(type_: str, status: int) -> None:
    """Anthropic's types; vLLM's own `internal_error` is its 500, unless it quotes a code."""
    told = {"type": "error", "error": {"type": type_, "message": "no"}}
    assert MESSAGES.read(event("error", error=told["error"])).error_status == status
    data = compact(told)
    assert MESSAGES.read(b"event: error\ndata: " + data + b"\n\n") == Reading(
        error=data, error_status=status
    )


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        (Kind.INVALID_JSON, "invalid_request_error"),
        (Kind.INVALID_API_KEY, "authentication_error"),
        (Kind.MODEL_NOT_FOUND, "not_found_error"),
        (Kind.METHOD_NOT_ALLOWED, "invalid_request_error"),
        (Kind.REQUEST_TIMEOUT, "invalid_request_error"),
        (Kind.UNSUPPORTED_ENCODING, "invalid_request_error"),
        (Kind.BODY_TOO_LARGE, "request_too_large"),
        (Kind.NO_WORKER, "overloaded_error"),
        (Kind.WORKER_FAILED, "api_error"),
        (Kind.WORKER_TIMEOUT, "timeout_error"),
        (Kind.INTERNAL, "api_error"),
    ],
)
def test_the_gateways_errors_have_anthropics_types(kind: Kind, type_: str) -> None:
    """In a body and in a stream."""
    error = GatewayError(kind, "What it is.")
    expected = {"type": "error", "error": {"type": type_, "message": "What it is."}}
    assert json.loads(MESSAGES.error_body(error)) == expected
    told = MESSAGES.error_event(error, MESSAGE_EVENTS[0], MESSAGE_EVENTS[2])
    assert told == b"event: error\ndata: " + MESSAGES.error_body(error) + b"\n\n"


# --- both ---

BOTH = pytest.mark.parametrize("format_", [RESPONSES, MESSAGES])


@BOTH
@pytest.mark.parametrize("comment", [b": keep-alive\n\n", b"event: ping\n\n", b"\n\n", b"\r\n\r\n"])
def test_what_has_no_data_is_preamble(format_: StreamFormat, comment: bytes) -> None:
    """The engine has not answered yet."""
    assert format_.read(comment) == Reading(preamble=True)


@BOTH
@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"17", b'"x"', b'{"type":7}', b"\xff", b"[" * 100_000, b"[DONE]"]
)
def test_what_is_not_understood_is_an_answer_without_tokens(
    format_: StreamFormat, data: bytes
) -> None:
    """It goes down as it is; and OpenAI's `[DONE]` ends nothing here."""
    assert format_.read(b"data: " + data + b"\n\n") == Reading()


@BOTH
def test_line_ends_make_no_difference(format_: StreamFormat) -> None:
    """CRLF, CR, or data without a space."""
    events = response_events("resp_1") if format_ is RESPONSES else MESSAGE_EVENTS
    for each in events:
        read = format_.read(each)
        assert format_.read(each.replace(b"\n", b"\r\n")) == read
        assert format_.read(each.replace(b"\n", b"\r")) == read
        assert format_.read(each.replace(b"data: ", b"data:")) == read


@BOTH
def test_a_workers_refusal_is_told_as_an_event(format_: StreamFormat) -> None:
    """After comments have gone down as a stream."""
    assert format_.refusal_event(b'{"error":{}}') == b'event: error\ndata: {"error":{}}\n\n'


@BOTH
def test_a_mark_ends_with_the_quote_that_opens_the_text(format_: StreamFormat) -> None:
    """The observer looks at the byte after it."""
    assert all(mark.endswith(b':"') for mark in format_.token_marks)


@BOTH
def test_a_mark_is_proof(format_: StreamFormat) -> None:
    """Of all events of a stream, only token events have one before text."""
    events = (
        response_events("r", metadata={"delta": "x"}) if format_ is RESPONSES else (MESSAGE_EVENTS)
    )
    for each in events:
        marked = any(
            mark in each and each[each.find(mark) + len(mark)] != ord('"')
            for mark in format_.token_marks
        )
        assert marked == format_.read(each).token

"""What the bytes of a stream mean."""

from __future__ import annotations

import json

import pytest

from gateway.errors import GatewayError, Kind
from gateway.relay.events import event_data
from gateway.relay.formats import OpenAIFormat, Reading, error_status
from gateway.terms import Usage

FORMAT = OpenAIFormat()


def event(**chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"reasoning": "x"},
        {"reasoning_content": "x"},
        {"refusal": "x"},
        {"tool_calls": [{"function": {"name": "f"}}]},
        {"tool_calls": [{"function": {"arguments": "{"}}]},
        {"content": "", "tool_calls": [{}, {"function": {"arguments": "{"}}]},
    ],
)
def test_a_delta_with_text_is_a_token_event(delta: dict[str, object]) -> None:
    """Content, thoughts, refusals and tool calls, whichever is not empty."""
    assert FORMAT.read(event(choices=[{"delta": delta}])) == Reading(token=True)


@pytest.mark.parametrize(
    "delta",
    [
        {},
        {"role": "assistant", "content": ""},
        {"content": None, "reasoning": None, "tool_calls": None},
        {"tool_calls": []},
        {"tool_calls": [{"function": {"name": None, "arguments": ""}}]},
        {"tool_calls": [{"id": "call-1"}]},
        {"made_up": "x"},
    ],
)
def test_a_delta_without_text_is_none(delta: dict[str, object]) -> None:
    """A role-only or empty delta does not count."""
    assert FORMAT.read(event(choices=[{"delta": delta}])) == Reading()


@pytest.mark.parametrize(("text", "token"), [("x", True), ("", False), (None, False)])
def test_completions_carry_their_text_in_the_choice(text: str | None, token: bool) -> None:
    """choices[].text of the completions surface."""
    assert FORMAT.read(event(choices=[{"text": text}])) == Reading(token=token)


def test_the_usage_event_carries_nothing_else() -> None:
    """Then it can be hidden whole."""
    usage = {
        "prompt_tokens": 700,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 672},
    }
    assert FORMAT.read(event(choices=[], usage=usage)) == Reading(
        usage=Usage(700, 7, 672), only_usage=True
    )


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 7},
        {"prompt_tokens": 7, "completion_tokens": None, "prompt_tokens_details": None},
        {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": None}},
    ],
)
def test_usage_may_leave_things_out(usage: dict[str, object]) -> None:
    """What is not told is nothing."""
    assert FORMAT.read(event(choices=[], usage=usage)).usage == Usage(7, 0, 0)


def test_usage_beside_choices_does_not_make_a_usage_event() -> None:
    """Continuous usage: the client asked for it in every event."""
    reading = FORMAT.read(
        event(choices=[{"delta": {"content": "x"}}], usage={"completion_tokens": 3})
    )
    assert reading == Reading(token=True, usage=Usage(0, 3))


def test_done_ends_the_stream() -> None:
    """The terminal event of chat and completions."""
    assert FORMAT.read(b"data: [DONE]\n\n") == Reading(end=True)


@pytest.mark.parametrize("comment", [b": keep-alive\n\n", b"event: ping\n\n", b"\n\n"])
def test_what_has_no_data_is_preamble(comment: bytes) -> None:
    """The engine has not answered yet."""
    assert FORMAT.read(comment) == Reading(preamble=True)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "too long", "code": 400}, 400),
        ({"message": "no", "code": "context_length_exceeded"}, 0),
        ({"message": "no", "code": 200}, 0),
        ({"message": "no", "code": None}, 0),
        ({}, 0),
        ("overloaded", 0),
    ],
)
def test_an_error_event_is_told_with_its_status(error: object, status: int) -> None:
    """vLLM's late refusal: an error object whose code is the HTTP status."""
    data = json.dumps({"error": error}).encode()
    assert FORMAT.read(b"data: " + data + b"\n\n") == Reading(error=data, error_status=status)


def test_an_error_of_null_is_no_error() -> None:
    """Some servers write every field."""
    assert FORMAT.read(event(error=None, choices=[{"text": "x"}])) == Reading(token=True)


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"17", b'"x"', b'{"choices":7}', b"\xff", b"[" * 100_000]
)
def test_what_is_not_understood_is_an_answer_without_tokens(data: bytes) -> None:
    """It goes down as it is; the worker's oddity is not the gateway's failure."""
    assert FORMAT.read(b"data: " + data + b"\n\n") == Reading()


@pytest.mark.parametrize("error", [b"{", b"17", b"null", b"[" * 100_000])
def test_a_malformed_error_names_no_status(error: bytes) -> None:
    """It is then for the caller to choose one."""
    assert error_status(error) == 0


def test_usage_of_a_whole_answer() -> None:
    """Where it stands in JSON that is not streamed."""
    body = json.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}})
    assert FORMAT.usage_of(body.encode()) == Usage(5, 7)


def test_usage_in_the_tail_of_a_large_answer() -> None:
    """Embeddings are not kept whole: usage stands in their last bytes."""
    tail = '0.25, 0.5]}], "usage": {"prompt_tokens": 5, "total_tokens": 5}}'
    assert FORMAT.usage_of(tail.encode()) == Usage(5, 0)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"no", b'{"usage":null}', b'0]},"usage":', b'"usage":{"prompt_tokens":"x"}'],
)
def test_an_answer_without_usage_has_none(body: bytes) -> None:
    """Or with one that cannot be read."""
    assert FORMAT.usage_of(body) is None


def test_the_error_event_is_what_openais_sdks_raise() -> None:
    """One event whose data has an `error`; and the observer knows it for one."""
    told = FORMAT.error_event(GatewayError(Kind.WORKER_FAILED, "The worker failed."))
    assert told.endswith(b"\n\n")
    assert json.loads(event_data(told) or b"") == {
        "error": {
            "message": "The worker failed.",
            "type": "server_error",
            "param": None,
            "code": "worker_failed",
        }
    }
    assert FORMAT.read(told).error is not None


def test_a_mark_ends_with_the_quote_that_opens_the_text() -> None:
    """The observer looks at the byte after it."""
    assert all(mark.endswith(b':"') for mark in FORMAT.token_marks)

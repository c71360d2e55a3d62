"""Responses, whole and streamed."""

import json
from typing import Any

import httpx
import pytest

from tests.conformance.answers import Each, Matches, OneOf, differences, read_named_stream
from tests.conformance.bodies import RESPONSES, WEATHER_ARGUMENTS, response, tool_response
from tests.conformance.targets import Target

RESPONSE_ID = Matches(r"resp_[\w-]+")
PART: dict[str, Any] = {"annotations": [], "text": str, "type": "output_text", "logprobs": None}
MESSAGE: dict[str, Any] = {
    "id": Matches("msg_[0-9a-f]{16}"),
    "content": [PART],
    "role": "assistant",
    "status": "completed",
    "type": "message",
    "phase": None,
}
USAGE: dict[str, Any] = {
    "input_tokens": int,
    "input_tokens_details": {
        "cached_tokens": int,
        "cache_write_tokens": int,
        "input_tokens_per_turn": [],
        "cached_tokens_per_turn": [],
    },
    "output_tokens": int,
    "output_tokens_details": {
        "reasoning_tokens": 0,
        "tool_output_tokens": 0,
        "output_tokens_per_turn": [],
        "tool_output_tokens_per_turn": [],
    },
    "total_tokens": int,
}
CUT_SHORT = {"reason": "max_output_tokens"}
CALL: dict[str, Any] = {
    "arguments": str,
    "call_id": Matches("chatcmpl-tool-[0-9a-f]{16}"),
    "name": "get_weather",
    "type": "function_call",
    "id": Matches("fc_[0-9a-f]{16}"),
    "async": None,
    "caller": None,
    "namespace": None,
    "status": "completed",
}
NAMED = {"type": "function", "name": "get_weather"}
CREATED, IN_PROGRESS = "response.created", "response.in_progress"
DELTA = "response.output_text.delta"


def like(**fields: Any) -> dict[str, Any]:
    """A response object of four tokens that the limit cut short, unless `fields` differ."""
    whole = {
        "id": RESPONSE_ID,
        "created_at": int,
        "incomplete_details": CUT_SHORT,
        "instructions": None,
        "metadata": None,
        "model": "tiny",
        "object": "response",
        "output": [MESSAGE],
        "parallel_tool_calls": True,
        "temperature": 0.0,
        "tool_choice": "none",
        "tools": [],
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": 4,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": "incomplete",
        "text": None,
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": USAGE,
        "user": None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }
    assert fields.keys() <= whole.keys()
    return {**whole, **fields}


def text_of(answer: dict[str, Any]) -> str:
    """The text of the first item of output."""
    text: str = answer["output"][0]["content"][0]["text"]
    return text


def test_answer_has_all_fields_in_order(target: Target) -> None:
    """A response that the limit cut short says so, and names every field."""
    answer = target.client.post(RESPONSES, json=response())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert differences(like(), answer.json()) == []
    used = answer.json()["usage"]
    assert used["output_tokens"] == 4
    assert used["total_tokens"] == used["input_tokens"] + 4


def test_what_was_asked_is_repeated(target: Target) -> None:
    """The response repeats what the request said of itself."""
    asked = {"instructions": "Be kind", "metadata": {"a": "b"}, "user": "me"}
    answer = target.client.post(RESPONSES, json=response(**asked)).json()
    assert differences(like(**asked), answer) == []


def test_conversation_as_input(target: Target) -> None:
    """The input may be a conversation; its parts count as tokens of the prompt."""
    short = target.client.post(RESPONSES, json=response()).json()
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "input_text", "text": "And you?"}]},
    ]
    answer = target.client.post(RESPONSES, json=response(input=turns)).json()
    assert differences(like(), answer) == []
    assert answer["usage"]["input_tokens"] > short["usage"]["input_tokens"]


def test_prompt_that_was_seen_before(target: Target, fresh_prompt: str) -> None:
    """Cached tokens are part of the input tokens."""
    answers = [
        target.client.post(RESPONSES, json=response(input=fresh_prompt)).json() for _ in range(2)
    ]
    first, second = [answer["usage"] for answer in answers]
    assert first["input_tokens"] == second["input_tokens"]
    assert second["input_tokens_details"]["cached_tokens"] > 500
    assert second["input_tokens_details"]["cached_tokens"] < second["input_tokens"]


def test_logprobs_beside_the_text(target: Target) -> None:
    """Logprobs come with the text when they are included."""
    body = response(include=["message.output_text.logprobs"], top_logprobs=1)
    answer = target.client.post(RESPONSES, json=body).json()
    logprob = {"token": str, "bytes": OneOf(Each(int), []), "logprob": float}
    tokens = Each({**logprob, "top_logprobs": [logprob]})
    expected = {**MESSAGE, "content": [{**PART, "logprobs": tokens}]}
    assert differences([expected], answer["output"]) == []
    assert len(answer["output"][0]["content"][0]["logprobs"]) == 4


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
def test_whole_call(target: Target, choice: Any) -> None:
    """A tool call is an item of output with arguments that are JSON of the schema."""
    answer = target.client.post(RESPONSES, json=tool_response(choice)).json()
    assert answer["status"] == "completed"
    assert answer["incomplete_details"] is None
    assert differences([CALL], answer["output"]) == []
    assert json.loads(answer["output"][0]["arguments"]) == WEATHER_ARGUMENTS


def test_result_of_a_call(target: Target) -> None:
    """The call and its result go back as items of input."""
    turns = [
        {"role": "user", "content": "What is the weather?"},
        {
            "type": "function_call",
            "call_id": "call_1",
            "name": "get_weather",
            "arguments": json.dumps(WEATHER_ARGUMENTS),
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    ]
    answer = target.client.post(RESPONSES, json=response(input=turns)).json()
    assert differences(like(), answer) == []


def test_events_in_order(target: Target) -> None:
    """The response is announced twice, then come its item and part, the text, and their ends."""
    stream = read_named_stream(target.client, RESPONSES, response())
    assert stream.names[:4] == [
        CREATED,
        IN_PROGRESS,
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert stream.names[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(stream.names[4:-4]) == {DELTA}
    assert [event["sequence_number"] for event in stream.events] == list(range(len(stream.events)))


def test_fields_of_events(target: Target) -> None:
    """Each event has its own fields; item and part are the same from event to event."""
    events = read_named_stream(target.client, RESPONSES, response()).events
    begun = like(incomplete_details=None, output=[], status="in_progress", usage=None)
    place = {"item_id": str, "output_index": 0, "sequence_number": int}
    added = {**MESSAGE, "content": [], "status": "in_progress"}
    numbered = {"sequence_number": int, "type": str}
    expected: list[dict[str, Any]] = [
        {"response": begun, **numbered},
        {"response": begun, **numbered},
        {"item": added, "output_index": 0, **numbered},
        {"content_index": 0, "item_id": str, "output_index": 0, "part": PART, **numbered},
    ]
    expected[3]["part"] = {**PART, "text": "", "logprobs": []}
    texts = len(events) - 8
    delta = {"content_index": 0, "delta": str, "item_id": str, "logprobs": [], "output_index": 0}
    expected += [{**delta, **numbered}] * texts
    done = {"content_index": 0, "item_id": str, "logprobs": [], "output_index": 0}
    expected += [
        {**done, "sequence_number": int, "text": str, "type": str},
        {"content_index": 0, "item_id": str, "output_index": 0, "part": PART, **numbered},
        {"item": MESSAGE, "output_index": 0, **numbered},
        {"response": like(), **numbered},
    ]
    assert differences(expected, events) == []
    assert place.keys() <= events[-4].keys()
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1


def test_cut_short_ends_as_completed(target: Target) -> None:
    """vLLM's last event is `response.completed` also where the limit cut the response short."""
    last = read_named_stream(target.client, RESPONSES, response()).events[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["status"] == "incomplete"
    assert last["response"]["incomplete_details"] == CUT_SHORT
    assert last["response"]["usage"]["output_tokens"] == 4


def test_stream_says_what_the_whole_response_says(target: Target) -> None:
    """Deltas, the finished part, the last event and the whole response have the same text."""
    whole = target.client.post(RESPONSES, json=response(max_output_tokens=30)).json()
    stream = read_named_stream(target.client, RESPONSES, response(max_output_tokens=30))
    deltas = "".join(event["delta"] for event in stream.all(DELTA))
    [done] = stream.all("response.output_text.done")
    assert [deltas, done["text"], text_of(stream.events[-1]["response"])] == [text_of(whole)] * 3


def test_streamed_call(target: Target) -> None:
    """The arguments of a call come piece by piece, after the item that has its name."""
    stream = read_named_stream(target.client, RESPONSES, tool_response(NAMED))
    assert stream.names[:3] == [CREATED, IN_PROGRESS, "response.output_item.added"]
    assert stream.names[-3:] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    pieces = stream.all("response.function_call_arguments.delta")
    assert len(pieces) == len(stream.names) - 6
    piece = {"delta": str, "item_id": str, "output_index": 0, "sequence_number": int, "type": str}
    assert differences([piece] * len(pieces), pieces) == []
    begun = {**CALL, "arguments": "", "status": "in_progress"}
    assert differences(begun, stream.events[2]["item"]) == []
    assert differences(CALL, stream.events[-2]["item"]) == []
    arguments = "".join(piece["delta"] for piece in pieces)
    assert stream.events[-3]["arguments"] == arguments
    assert json.loads(arguments) == WEATHER_ARGUMENTS


def test_usage_needs_no_asking(target: Target) -> None:
    """Usage is in the last event of every stream; `stream_options` change nothing."""
    asked = {"stream_options": {"include_usage": True}}
    for fields in ({}, asked):
        stream = read_named_stream(target.client, RESPONSES, response(**fields))
        assert differences(USAGE, stream.events[-1]["response"]["usage"]) == []
        assert stream.names[-1] == "response.completed"


def test_late_refusal_of_a_stream(target: Target) -> None:
    """A worker that refuses late breaks its stream off; the gateway says that it failed.

    vLLM sends no error event here: after the two announcements the connection just closes, as if
    the worker had died. That is no stream for the client to see.
    """
    body = response(logit_bias={"999999999": 1}, stream=True)
    if target.is_gateway:
        answer = target.client.post(RESPONSES, json=body)
        assert answer.status_code == 502
        error = {"message": str, "type": "server_error", "param": None, "code": "worker_failed"}
        assert differences({"error": error}, answer.json()) == []
        return
    with target.client.stream("POST", RESPONSES, json=body) as broken:
        assert broken.status_code == 200
        lines = broken.iter_lines()
        assert next(lines) == f"event: {CREATED}"
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)

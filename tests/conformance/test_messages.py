"""Anthropic's Messages, whole and streamed, and the counting of their tokens."""

import json
from typing import Any

import httpx
import pytest

from tests.conformance.answers import (
    Matches,
    OneOf,
    differences,
    named_stream,
    read_named_stream,
)
from tests.conformance.bodies import (
    CHAT,
    COUNT_TOKENS,
    MADE_UP_ID,
    MESSAGES,
    WEATHER_ARGUMENTS,
    WEATHER_SCHEMA,
    chat,
    message,
    tool_message,
)
from tests.conformance.targets import Target
from tests.support.engine import MAX_MODEL_LEN

USAGE = {
    "input_tokens": int,
    "output_tokens": 4,
    "cache_creation_input_tokens": int,
    "cache_read_input_tokens": int,
}
ANSWER: dict[str, Any] = {
    "id": Matches(f"chatcmpl-{MADE_UP_ID}"),
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": str}],
    "model": "tiny",
    "stop_reason": "max_tokens",
    "usage": USAGE,
}
CALL_ID = Matches("chatcmpl-tool-[0-9a-f]{16}")
CALL = {
    "type": "tool_use",
    "id": CALL_ID,
    "name": "get_weather",
    "input": WEATHER_ARGUMENTS,
}
START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": Matches(f"chatcmpl-{MADE_UP_ID}"),
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "tiny",
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": int, "output_tokens": 0},
    },
}
BLOCK = {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0}
DELTA = {
    "type": "content_block_delta",
    "delta": {"type": "text_delta", "text": str},
    "index": 0,
}
BLOCK_STOP = {"type": "content_block_stop", "index": 0}
STOP = {"type": "message_stop"}


def stopped(reason: str, usage: dict[str, Any], sequence: str | None = None) -> dict[str, Any]:
    """The event that says why the message ended."""
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return {"type": "message_delta", "delta": delta, "usage": usage}


def error(type_: str) -> dict[str, Any]:
    """The body of a refusal, Anthropic's shape."""
    return {"type": "error", "error": {"type": type_, "message": str}}


def assert_refused(answer: httpx.Response, status: int, body: dict[str, Any]) -> None:
    """The answer is JSON with that status, and like `body`."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert differences(body, answer.json()) == []


def prompt_tokens(usage: dict[str, int]) -> int:
    """The tokens of the prompt: Anthropic counts the cached ones apart."""
    return sum(number for name, number in usage.items() if name.endswith("input_tokens"))


def test_answer_has_all_fields_in_order(target: Target) -> None:
    """A whole message has its text, why it ended, and its usage; what is null is left out."""
    answer = target.client.post(MESSAGES, json=message())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert differences(ANSWER, answer.json()) == []


def test_same_prompt_as_a_chat(target: Target) -> None:
    """A message has as many tokens of prompt as the chat of the same turns."""
    whole = target.client.post(MESSAGES, json=message()).json()
    used = target.client.post(CHAT, json=chat()).json()["usage"]
    assert prompt_tokens(whole["usage"]) == used["prompt_tokens"]


def test_prompt_that_was_seen_before(target: Target, fresh_prompt: str) -> None:
    """Cached tokens are no longer among the `input_tokens`, but beside them."""
    body = message(messages=[{"role": "user", "content": fresh_prompt}])
    first, second = [target.client.post(MESSAGES, json=body).json()["usage"] for _ in range(2)]
    assert second["cache_read_input_tokens"] > 500
    assert prompt_tokens(first) == prompt_tokens(second)
    assert second["input_tokens"] < first["input_tokens"] + first["cache_creation_input_tokens"]


def test_cached_prompt_of_a_stream(target: Target, fresh_prompt: str) -> None:
    """A stream begins with the whole prompt's tokens; its end counts the cached ones apart."""
    body = message(messages=[{"role": "user", "content": fresh_prompt}])
    target.client.post(MESSAGES, json=body)
    stream = read_named_stream(target.client, MESSAGES, body)
    begin, end = stream.events[0]["message"]["usage"], stream.events[-2]["usage"]
    assert begin["input_tokens"] == prompt_tokens(end)
    assert end["cache_read_input_tokens"] > 500


def test_system_and_blocks(target: Target) -> None:
    """A system prompt counts, and content may be a list of blocks."""
    blocks = [{"type": "text", "text": "Hi there"}]
    body = message(system="Be kind", messages=[{"role": "user", "content": blocks}])
    answer = target.client.post(MESSAGES, json=body).json()
    assert differences(ANSWER, answer) == []
    alone = target.client.post(MESSAGES, json=message()).json()
    assert prompt_tokens(answer["usage"]) > prompt_tokens(alone["usage"])


def test_callers_request_id(target: Target) -> None:
    """The id is made of the client's `X-Request-Id`."""
    answer = target.client.post(MESSAGES, json=message(), headers={"X-Request-Id": "abc"})
    assert answer.json()["id"] == "chatcmpl-abc"


def test_query_is_ignored(target: Target) -> None:
    """Anthropic's SDK asks for its beta features with a query."""
    answer = target.client.post(f"{MESSAGES}?beta=true", json=message())
    assert differences(ANSWER, answer.json()) == []


def test_stop_sequence(target: Target) -> None:
    """The message ends before the stop sequence, and says which one it was."""
    text = target.client.post(MESSAGES, json=message(max_tokens=40)).json()["content"][0]["text"]
    stop = next(two for at in range(2, 30) if (two := text[at : at + 2]).isascii())
    body = message(max_tokens=40, stop_sequences=["@@@@", stop])
    answer = target.client.post(MESSAGES, json=body).json()
    assert answer["content"][0]["text"] == text[: text.index(stop)]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", stop)
    stream = read_named_stream(target.client, MESSAGES, body)
    used = {**USAGE, "output_tokens": answer["usage"]["output_tokens"]}
    assert differences(stopped("stop_sequence", used, stop), stream.events[-2]) == []


def test_whole_call(target: Target) -> None:
    """A tool call is a block with its input as JSON."""
    answer = target.client.post(MESSAGES, json=tool_message()).json()
    assert answer["stop_reason"] == "tool_use"
    assert differences([CALL], answer["content"]) == []


def test_result_of_a_call(target: Target) -> None:
    """The call and its result go back as blocks."""
    used = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": WEATHER_ARGUMENTS}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}
    turns = [
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [result]},
    ]
    answer = target.client.post(MESSAGES, json=message(messages=turns)).json()
    assert differences(ANSWER, answer) == []


def test_events_in_order(target: Target) -> None:
    """The message begins, a block begins, text, the block ends, why and with what usage, the end.

    vLLM has no `ping`, and its first event comes with the first token.
    """
    stream = read_named_stream(target.client, MESSAGES, message())
    texts = [DELTA] * (len(stream.events) - 5)
    expected = [START, BLOCK, *texts, BLOCK_STOP, stopped("max_tokens", USAGE), STOP]
    assert differences(expected, stream.events) == []
    assert 0 < len(texts) <= 4


def test_stream_says_what_the_whole_message_says(target: Target) -> None:
    """The text of the stream is the text of the whole message."""
    whole = target.client.post(MESSAGES, json=message(max_tokens=30)).json()
    stream = read_named_stream(target.client, MESSAGES, message(max_tokens=30))
    text = "".join(event["delta"]["text"] for event in stream.all("content_block_delta"))
    assert text == whole["content"][0]["text"]


def test_streamed_call(target: Target) -> None:
    """The block begins with id and name; its input comes as pieces of JSON."""
    stream = read_named_stream(target.client, MESSAGES, tool_message())
    begun = {"type": "tool_use", "id": CALL_ID, "name": "get_weather", "input": {}}
    start = {"type": "content_block_start", "content_block": begun, "index": 0}
    piece = {"type": "input_json_delta", "partial_json": str}
    pieces = [{"type": "content_block_delta", "delta": piece, "index": 0}]
    used = {**USAGE, "output_tokens": int}
    end = [BLOCK_STOP, stopped("tool_use", used), STOP]
    expected = [START, start, *pieces * (len(stream.events) - 5), *end]
    assert differences(expected, stream.events) == []
    deltas = stream.all("content_block_delta")
    assert json.loads("".join(event["delta"]["partial_json"] for event in deltas)) == (
        WEATHER_ARGUMENTS
    )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_unknown_model(target: Target, stream: bool) -> None:
    """A model that nobody serves is a 404: in Anthropic's own words from the gateway."""
    answer = target.client.post(MESSAGES, json=message(model="nope", stream=stream))
    assert_refused(answer, 404, error("not_found_error" if target.is_gateway else "NotFoundError"))
    assert "nope" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1},
        {"top_p": 5},
        {"max_tokens": MAX_MODEL_LEN + 1},
        {"messages": []},
        {"messages": [{"role": "user", "content": "fox " * MAX_MODEL_LEN}]},
    ],
    ids=["temperature", "top_p", "too many tokens", "no messages", "prompt too long"],
)
def test_wrong_request(target: Target, fields: dict[str, Any], stream: bool) -> None:
    """What vLLM refuses is a 400 in Anthropic's shape, with vLLM's own type; no stream begins."""
    answer = target.client.post(MESSAGES, json=message(**fields, stream=stream))
    assert_refused(answer, 400, error("BadRequestError"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": "many"}, "body.max_tokens"),
        ({"max_tokens": 0}, "body.max_tokens"),
        ({"messages": [{"role": "nobody", "content": "Hi"}]}, "body.messages.0.role"),
    ],
    ids=["wrong type", "no tokens", "unknown role"],
)
def test_request_that_cannot_be_read(target: Target, fields: dict[str, Any], param: str) -> None:
    """What does not fit the schema vLLM refuses in OpenAI's shape, here too."""
    answer = target.client.post(MESSAGES, json=message(**fields))
    body = {"message": str, "type": "Bad Request", "param": param, "code": 400}
    assert_refused(answer, 400, {"error": body})


def test_late_refusal_of_a_stream(target: Target) -> None:
    """A worker refuses some streams late, with an error as the only event of a 200.

    The gateway makes it a status.
    """
    schema = {"format": {"type": "json_schema", "schema": {"type": "nope"}}}
    answer = target.client.post(MESSAGES, json=message(output_config=schema, stream=True))
    if target.is_gateway:
        assert answer.status_code == 400
        assert differences(error("internal_error"), answer.json()) == []
    else:
        assert named_stream(answer).names == ["error"]
        assert differences(error("internal_error"), named_stream(answer).events[0]) == []


def test_tokens_are_counted(target: Target) -> None:
    """The count is what the message's usage says."""
    asked = {key: value for key, value in message().items() if key in ("model", "messages")}
    answer = target.client.post(COUNT_TOKENS, json=asked)
    assert answer.status_code == 200
    whole = target.client.post(MESSAGES, json=message()).json()
    count = prompt_tokens(whole["usage"])
    expected = {"input_tokens": count, "context_management": {"original_input_tokens": count}}
    assert answer.json() == expected


def test_system_and_tools_are_counted(target: Target) -> None:
    """A system prompt adds to the count; tools do where the chat template shows them."""
    messages = message()["messages"]
    tools = [{"name": "get_weather", "input_schema": WEATHER_SCHEMA}]
    bodies: list[dict[str, Any]] = [
        {},
        {"system": "Be kind"},
        {"system": "Be kind", "tools": tools},
    ]
    counts = [
        target.client.post(
            COUNT_TOKENS, json={"model": "tiny", "messages": messages, **body}
        ).json()["input_tokens"]
        for body in bodies
    ]
    assert counts[0] < counts[1] <= counts[2]


def test_tokens_of_an_unknown_model(target: Target) -> None:
    """Counting knows its model, too."""
    answer = target.client.post(COUNT_TOKENS, json=message(model="nope"))
    assert_refused(answer, 404, error("not_found_error" if target.is_gateway else "NotFoundError"))


@pytest.mark.parametrize("path", [MESSAGES, COUNT_TOKENS])
def test_no_model(target: Target, path: str) -> None:
    """This API has no model of its own accord, not at a worker either."""
    answer = target.client.post(path, json={"messages": [], "max_tokens": 4})
    if target.is_gateway:
        assert_refused(answer, 400, error("invalid_request_error"))
    else:
        body = {"message": str, "type": "Bad Request", "param": "body.model", "code": 400}
        assert_refused(answer, 400, {"error": body})


@pytest.mark.parametrize(
    ("content", "param"), [('{"model":', "body.9"), ("[]", "body")], ids=["cut off", "no object"]
)
def test_not_a_json_object(target: Target, content: str, param: str) -> None:
    """What is not a JSON object is a 400: in Anthropic's shape from the gateway, which reads it."""
    headers = {"content-type": "application/json"}
    answer = target.client.post(MESSAGES, content=content, headers=headers)
    if target.is_gateway:
        assert_refused(answer, 400, error("invalid_request_error"))
    else:
        body = {"message": str, "type": "Bad Request", "param": OneOf(param, None), "code": 400}
        assert_refused(answer, 400, {"error": body})

"""Tool calls that have to be made."""

import json
from typing import Any

import pytest

from tests.conformance.answers import Matches, differences, read_stream
from tests.conformance.bodies import CHAT, NAMED, WEATHER_ARGUMENTS, tool_chat
from tests.conformance.targets import Target

CALL_ID = Matches("chatcmpl-tool-[0-9a-f]{16}")
# A call that was named in the request ends as any answer does.
CHOICES = pytest.mark.parametrize(
    ("tool_choice", "reason"),
    [(NAMED, "stop"), ("required", "tool_calls")],
    ids=["named", "required"],
)


@CHOICES
def test_whole_call(target: Target, tool_choice: Any, reason: str) -> None:
    """The message has the call, with an id, and arguments that are JSON of the schema."""
    answer = target.client.post(CHAT, json=tool_chat(tool_choice)).json()
    [choice] = answer["choices"]
    assert choice["finish_reason"] == reason
    function = {"name": "get_weather", "arguments": str}
    call = {"id": CALL_ID, "type": "function", "function": function}
    assert differences([call], choice["message"]["tool_calls"]) == []
    arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == WEATHER_ARGUMENTS


@CHOICES
def test_streamed_call(target: Target, tool_choice: Any, reason: str) -> None:
    """First the role, then the call's id and name, then its arguments piece by piece."""
    stream = read_stream(target.client, CHAT, tool_chat(tool_choice))
    role, name, *pieces, last = stream.deltas()
    assert role == {"role": "assistant", "content": ""}
    begun = {"id": CALL_ID, "type": "function", "index": 0, "function": {"name": "get_weather"}}
    assert differences({"content": None, "tool_calls": [begun]}, name) == []
    piece = {"index": 0, "function": {"arguments": str}}
    expected = {"content": None, "tool_calls": [piece]}
    assert differences([expected] * len(pieces), pieces) == []
    arguments = "".join(each["tool_calls"][0]["function"]["arguments"] for each in pieces)
    assert json.loads(arguments) == WEATHER_ARGUMENTS
    assert len(pieces) > 1
    assert last == {}
    assert stream.finish_reasons() == [reason]


def test_named_tool_that_is_not_there(target: Target) -> None:
    """A call of a tool that the request does not define is a 400."""
    other = {"type": "function", "function": {"name": "nope"}}
    answer = target.client.post(CHAT, json=tool_chat(other))
    assert answer.status_code == 400
    expected = {"message": str, "type": "BadRequestError", "param": "tool_choice", "code": 400}
    assert differences({"error": expected}, answer.json()) == []


def test_required_call_without_tools(target: Target) -> None:
    """A call that is required needs a tool."""
    answer = target.client.post(CHAT, json=tool_chat("required", tools=None))
    assert answer.status_code == 400
    expected = {"message": str, "type": "BadRequestError", "param": "tool_choice", "code": 400}
    assert differences({"error": expected}, answer.json()) == []

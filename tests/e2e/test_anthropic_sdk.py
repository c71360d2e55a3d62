"""Anthropic's own SDK against the gateway in front of two engines."""

from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolUseBlock

from tests.conformance.bodies import WEATHER_ARGUMENTS, WEATHER_SCHEMA, tool_message
from tests.conformance.targets import Gateway
from tests.e2e.conftest import API_KEY, OTHER_API_KEY

pytestmark = pytest.mark.vllm

TURNS: list[MessageParam] = [{"role": "user", "content": "Hi there"}]
# This SDK has no word for the temperature any more.
ASKED: dict[str, Any] = {"model": "tiny", "messages": TURNS, "extra_body": {"temperature": 0}}


def test_whole_message(anthropic_client: anthropic.Anthropic) -> None:
    """A whole message has its text, why it ended, its usage, and a request id."""
    message = anthropic_client.messages.create(**ASKED, max_tokens=8)
    [block] = message.content
    assert block.type == "text"
    assert block.text
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 8


def test_stream_is_the_whole_message(anthropic_client: anthropic.Anthropic) -> None:
    """The pieces of a stream make the text of the whole message; so does the SDK's own message."""
    whole = anthropic_client.messages.create(**ASKED, max_tokens=40)
    [block] = whole.content
    assert block.type == "text"
    with anthropic_client.messages.stream(**ASKED, max_tokens=40) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == block.text
    [put_together] = message.content
    assert put_together.type == "text"
    assert put_together.text == text
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 40


def test_streamed_call(anthropic_client: anthropic.Anthropic) -> None:
    """A streamed tool call is put together by the SDK, and its result goes back."""
    asked = tool_message()
    asked["extra_body"] = {"temperature": asked.pop("temperature")}
    with anthropic_client.messages.stream(**asked) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    [call] = message.content
    assert isinstance(call, ToolUseBlock)
    assert call.input == WEATHER_ARGUMENTS
    used = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    turns: Any = [
        *asked["messages"],
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [result]},
    ]
    after = anthropic_client.messages.create(**{**ASKED, "messages": turns}, max_tokens=4)
    assert after.stop_reason == "max_tokens"


def test_count_of_tokens(anthropic_client: anthropic.Anthropic) -> None:
    """The count is what the message then uses."""
    tools: Any = [{"name": "get_weather", "input_schema": WEATHER_SCHEMA}]
    count = anthropic_client.messages.count_tokens(model="tiny", messages=TURNS)
    more = anthropic_client.messages.count_tokens(model="tiny", messages=TURNS, tools=tools)
    message = anthropic_client.messages.create(**ASKED, max_tokens=1)
    usage = message.usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    assert usage.input_tokens + cached == count.input_tokens
    assert more.input_tokens > count.input_tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_unknown_model_is_not_found(anthropic_client: anthropic.Anthropic, stream: bool) -> None:
    """A model that no engine serves raises `NotFoundError`, in Anthropic's words."""
    with pytest.raises(anthropic.NotFoundError) as caught:
        anthropic_client.messages.create(model="nope", messages=TURNS, max_tokens=4, stream=stream)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_bad_value_is_a_bad_request(anthropic_client: anthropic.Anthropic, stream: bool) -> None:
    """A value that the engine refuses raises `BadRequestError`, in the engine's own words."""
    with pytest.raises(anthropic.BadRequestError, match="temperature must be non-negative"):
        anthropic_client.messages.create(
            model="tiny",
            messages=TURNS,
            max_tokens=4,
            stream=stream,
            extra_body={"temperature": -1},
        )


def test_wrong_key_is_an_authentication_error(guarded_gateway: Gateway) -> None:
    """A wrong `x-api-key` raises `AuthenticationError`."""
    with (
        anthropic.Anthropic(base_url=guarded_gateway.url, api_key="sk-wrong") as sdk,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        sdk.messages.create(**ASKED, max_tokens=4)
    body: Any = caught.value.body
    assert body["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("api_key", [API_KEY, OTHER_API_KEY])
def test_right_key_is_served(guarded_gateway: Gateway, api_key: str) -> None:
    """Each of the keys opens the gateway, in the header that Anthropic's SDK has for it."""
    with anthropic.Anthropic(base_url=guarded_gateway.url, api_key=api_key) as sdk:
        message = sdk.messages.create(**ASKED, max_tokens=1)
    assert message.stop_reason == "max_tokens"

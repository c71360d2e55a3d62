"""OpenAI's own SDK against the gateway in front of two engines."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.conformance.bodies import NAMED, WEATHER_ARGUMENTS, tool_chat
from tests.conformance.samples import total
from tests.conformance.targets import Gateway
from tests.e2e.conftest import API_KEY, OTHER_API_KEY
from tests.support.engine import Engine

pytestmark = pytest.mark.vllm

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi there"}]
EXACT: dict[str, Any] = {"ignore_eos": True}
"""vLLM's own field: exactly `max_tokens` tokens."""


def test_models(client: openai.OpenAI) -> None:
    """Two engines of one model are one model."""
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_whole_chat(client: openai.OpenAI) -> None:
    """A whole answer has its text, its reason to finish, its usage, and a request id."""
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=8, temperature=0, extra_body=EXACT
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert answer._request_id


def test_streamed_chat_is_the_whole_chat(client: openai.OpenAI) -> None:
    """The pieces of a stream make the text of the whole answer."""
    whole = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=40, temperature=0, extra_body=EXACT
    )
    with client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=40, temperature=0, extra_body=EXACT, stream=True
    ) as stream:
        events = list(stream)
    text = "".join(event.choices[0].delta.content or "" for event in events)
    assert text == whole.choices[0].message.content
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-1].choices[0].finish_reason == "length"


def test_no_usage_unless_asked(client: openai.OpenAI) -> None:
    """A client that did not ask for usage sees none, and no event without choices."""
    with client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=8, stream=True, extra_body=EXACT
    ) as stream:
        events = list(stream)
    assert all(event.choices for event in events)
    assert all(event.usage is None for event in events)


def test_usage_when_asked(client: openai.OpenAI) -> None:
    """A client that asked for usage gets it, in the last event."""
    with client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=EXACT,
    ) as stream:
        *others, last = stream
    assert all(event.usage is None for event in others)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 8


def test_completions(client: openai.OpenAI) -> None:
    """The older surface, whole and streamed, says the same."""
    fields: dict[str, Any] = {"model": "tiny", "prompt": "Hello", "max_tokens": 20}
    whole = client.completions.create(**fields, temperature=0, extra_body=EXACT)
    with client.completions.create(
        **fields, temperature=0, extra_body=EXACT, stream=True
    ) as stream:
        text = "".join(event.choices[0].text for event in stream)
    assert text == whole.choices[0].text


def test_whole_tool_call(client: openai.OpenAI) -> None:
    """A tool call arrives with arguments that fit its schema."""
    body = tool_chat(NAMED)
    bias = body.pop("logit_bias")
    answer = client.chat.completions.create(**body, logit_bias=bias)
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == WEATHER_ARGUMENTS


def test_streamed_tool_call(client: openai.OpenAI) -> None:
    """The SDK's own accumulator puts a streamed call together."""
    with client.chat.completions.stream(**tool_chat("required")) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    [call] = message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == WEATHER_ARGUMENTS


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_unknown_model_is_not_found(client: openai.OpenAI, stream: bool) -> None:
    """A model that no engine serves raises `NotFoundError`, with a request id."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=MESSAGES, stream=stream)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert caught.value.request_id


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_bad_value_is_a_bad_request(client: openai.OpenAI, stream: bool) -> None:
    """A value that the engine refuses raises `BadRequestError`, in the engine's own words."""
    with pytest.raises(openai.BadRequestError, match="temperature must be non-negative") as caught:
        client.chat.completions.create(
            model="tiny", messages=MESSAGES, temperature=-1, stream=stream
        )
    assert caught.value.param == "temperature"
    assert caught.value.request_id


def test_late_refusal_is_a_bad_request(client: openai.OpenAI) -> None:
    """What the engine refuses only after its 200 raises `BadRequestError` before the stream."""
    with pytest.raises(openai.BadRequestError, match="out of vocabulary") as caught:
        client.completions.create(model="tiny", prompt=[4_000_000_000], stream=True)
    assert caught.value.request_id


def test_wrong_key_is_an_authentication_error(guarded_gateway: Gateway) -> None:
    """A wrong key raises `AuthenticationError`, at once and with a request id."""
    with (
        openai.OpenAI(base_url=f"{guarded_gateway.url}/v1", api_key="sk-wrong") as sdk,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        sdk.chat.completions.create(model="tiny", messages=MESSAGES)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id


@pytest.mark.parametrize("api_key", [API_KEY, OTHER_API_KEY])
def test_right_key_is_served(guarded_gateway: Gateway, api_key: str) -> None:
    """Each of the keys opens the gateway."""
    with openai.OpenAI(base_url=f"{guarded_gateway.url}/v1", api_key=api_key) as sdk:
        answer = sdk.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1)
    assert answer.choices[0].finish_reason is not None


def test_callers_request_id_is_kept(client: openai.OpenAI) -> None:
    """The id that the caller sets is the one in the answer and in its head."""
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=1, extra_headers={"X-Request-Id": "abc"}
    )
    assert answer.id == "chatcmpl-abc"
    assert answer._request_id == "abc"


async def test_async_streams_side_by_side(
    async_client: openai.AsyncOpenAI, engines: tuple[Engine, Engine]
) -> None:
    """Many streams at once are each whole, and both engines work on them."""
    generated = "vllm:generation_tokens_total"
    before = [total(engine.url, generated) for engine in engines]

    async def one(number: int) -> int:
        message: ChatCompletionMessageParam = {"role": "user", "content": f"Number {number}"}
        stream = await async_client.chat.completions.create(
            model="tiny",
            messages=[message],
            max_tokens=50,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=EXACT,
        )
        used = 0
        async with stream:
            async for event in stream:
                used = event.usage.completion_tokens if event.usage else 0
        return used

    assert await asyncio.gather(*(one(number) for number in range(24))) == [50] * 24
    after = [total(engine.url, generated) for engine in engines]
    assert sum(after) - sum(before) == 24 * 50
    assert all(late > early for early, late in zip(before, after, strict=True))


async def test_async_errors(async_client: openai.AsyncOpenAI) -> None:
    """The asynchronous SDK raises the same errors."""
    with pytest.raises(openai.NotFoundError):
        await async_client.chat.completions.create(model="nope", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError):
        await async_client.chat.completions.create(
            model="tiny", messages=MESSAGES, temperature=-1, stream=True
        )

"""OpenAI's own client works against the worker as against vLLM."""

import json
from typing import TYPE_CHECKING

import openai
import pytest

from gateway.sim import Sim, SimOptions

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionUserMessageParam


async def test_whole_and_streamed_chat(client: openai.AsyncOpenAI) -> None:
    messages: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello"}]
    whole = await client.chat.completions.create(model="demo", messages=messages)
    stream = await client.chat.completions.create(
        model="demo", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    text, usage = "", None
    async for chunk in stream:
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


async def test_completions_and_models(client: openai.AsyncOpenAI) -> None:
    done = await client.completions.create(model="demo", prompt="Hello", max_tokens=3)
    assert done.usage is not None
    assert done.usage.completion_tokens == 3
    assert [model.id async for model in client.models.list()] == ["demo"]


async def test_tools(client: openai.AsyncOpenAI) -> None:
    stream = client.chat.completions.stream(
        model="demo",
        messages=[{"role": "user", "content": "Weather?"}],
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "strict": True,
                    "parameters": {
                        "type": "object",
                        "properties": {"city": {"type": "string"}},
                        "required": ["city"],
                        "additionalProperties": False,
                    },
                },
            }
        ],
    )
    async with stream as events:
        final = await events.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert list(json.loads(calls[0].function.arguments)) == ["city"]
    assert final.choices[0].finish_reason == "tool_calls"


async def test_errors_have_their_classes(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.completions.create(model="nope", prompt="x")
    with pytest.raises(openai.BadRequestError, match="max_tokens must be at least 1"):
        await client.completions.create(model="demo", prompt="x", max_tokens=0)
    stream = await client.completions.create(
        model="demo", prompt="x", stream=True, extra_headers={"X-Sim-Fault": "error@2"}
    )
    with pytest.raises(openai.APIError, match="Internal server error"):
        async for _ in stream:
            pass


async def test_keys() -> None:
    async with (
        Sim(SimOptions(api_keys=("right",))) as sim,
        openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="wrong", max_retries=0) as client,
    ):
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()

"""``/v1/messages`` on the wire, and with Anthropic's own client. Bytes are a running vLLM's."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anthropic
import pytest

from gateway.sim import Sim, SimOptions

from .client import ask, connect

if TYPE_CHECKING:
    from anthropic.types import MessageParam, ToolParam

PATH = "/v1/messages"
_NAME = {"x-request-id": "abc"}
_HELLO: "list[MessageParam]" = [{"role": "user", "content": "Hi there"}]
_WEATHER: "ToolParam" = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def _body(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "max_tokens": 2, "messages": _HELLO, **more}


@pytest.fixture
async def claude(sim: Sim) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=sim.url, api_key="none", max_retries=0) as running:
        yield running


async def test_a_stream_has_vllm_bytes(sim: Sim) -> None:
    answer = await ask(sim, PATH, _body(stream=True), headers=_NAME)
    first, second = (e["delta"]["text"] for n, e in answer.named if n == "content_block_delta")
    expected = [
        (
            "message_start",
            (
                '{"type":"message_start","message":{"id":"chatcmpl-abc","type":"message",'
                '"role":"assistant","content":[],"model":"demo","stop_reason":null,'
                '"stop_sequence":null,"usage":{"input_tokens":6,"output_tokens":0}}}'
            ),
        ),
        (
            "content_block_start",
            '{"type":"content_block_start","content_block":{"type":"text","text":""},"index":0}',
        ),
        *(
            (
                "content_block_delta",
                (
                    '{"type":"content_block_delta","delta":{"type":"text_delta",'
                    f'"text":"{text}"}},"index":0}}'
                ),
            )
            for text in (first, second)
        ),
        ("content_block_stop", '{"type":"content_block_stop","index":0}'),
        (
            "message_delta",
            (
                '{"type":"message_delta","delta":{"stop_reason":"max_tokens","stop_sequence":null},'
                '"usage":{"input_tokens":6,"output_tokens":2,"cache_creation_input_tokens":0,'
                '"cache_read_input_tokens":0}}'
            ),
        ),
        ("message_stop", '{"type":"message_stop"}'),
    ]
    events = [f"event: {name}\ndata: {data}\n\n" for name, data in expected]
    assert answer.body.decode() == "".join(events)
    assert [chunk.decode() for chunk in answer.chunks if chunk] == events


async def test_whole_has_vllm_bytes(sim: Sim) -> None:
    answer = await ask(sim, PATH, _body(), headers=_NAME)
    text = answer.json["content"][0]["text"]
    assert answer.body.decode() == (
        '{"id":"chatcmpl-abc","type":"message","role":"assistant","content":[{"type":"text",'
        f'"text":"{text}"}}],"model":"demo","stop_reason":"max_tokens","usage":'
        '{"input_tokens":6,"output_tokens":2,"cache_creation_input_tokens":0,'
        '"cache_read_input_tokens":0}}'
    )


async def test_anthropics_client_streams(claude: anthropic.AsyncAnthropic) -> None:
    async with claude.messages.stream(model="demo", max_tokens=500, messages=_HELLO) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    whole = await claude.messages.create(model="demo", max_tokens=500, messages=_HELLO)
    (block,) = whole.content
    assert block.type == "text"
    assert text == block.text
    assert (final.stop_reason, whole.stop_reason) == ("end_turn", "end_turn")
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_tools_and_thinking(claude: anthropic.AsyncAnthropic) -> None:
    stream = claude.messages.stream(
        model="demo",
        max_tokens=2000,
        messages=_HELLO,
        tools=[_WEATHER],
        tool_choice={"type": "any"},
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    async with stream as events:
        kinds = {e.delta.type async for e in events if e.type == "content_block_delta"}
        final = await events.get_final_message()
    assert kinds == {"thinking_delta", "signature_delta", "input_json_delta"}
    thoughts, call = final.content
    assert thoughts.type == "thinking"
    assert len(thoughts.signature) == 32
    assert call.type == "tool_use"
    assert call.name == "get_weather"
    assert list(call.input) == ["city"]
    assert final.stop_reason == "tool_use"
    whole = await claude.messages.create(
        model="demo", max_tokens=2000, messages=_HELLO, tools=[_WEATHER]
    )
    (again,) = whole.content
    assert again.type == "tool_use"
    assert again.input == call.input


async def test_an_answered_tool_is_answered_with_text(claude: anthropic.AsyncAnthropic) -> None:
    messages: list[MessageParam] = [
        *_HELLO,
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t", "name": "get_weather", "input": {}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t", "content": "Rain."}],
        },
    ]
    answer = await claude.messages.create(
        model="demo", max_tokens=500, messages=messages, tools=[_WEATHER], system="Be kind."
    )
    assert [block.type for block in answer.content] == ["text"]


async def test_count_tokens(sim: Sim, claude: anthropic.AsyncAnthropic) -> None:
    counted = await claude.messages.count_tokens(model="demo", messages=_HELLO, system="Be kind.")
    answer = await ask(sim, PATH, _body(stream=True, system="Be kind."))
    assert counted.input_tokens == answer.events[0]["message"]["usage"]["input_tokens"]
    raw = await ask(sim, f"{PATH}/count_tokens", {"model": "demo", "messages": _HELLO})
    assert raw.body == b'{"input_tokens":6,"context_management":{"original_input_tokens":6}}'


async def test_cached_tokens_are_told_apart(sim: Sim) -> None:
    body = _body(messages=[{"role": "user", "content": "word " * 300}])
    total = (await ask(sim, PATH, body)).json["usage"]
    again = (await ask(sim, PATH, body)).json["usage"]
    assert again["cache_read_input_tokens"] > 200
    assert sum(v for k, v in total.items() if "input" in k) == sum(
        v for k, v in again.items() if "input" in k
    )


async def test_stop_sequence(sim: Sim) -> None:
    text = (await ask(sim, PATH, _body(max_tokens=200))).json["content"][0]["text"]
    stop = text[20:25]
    whole = (await ask(sim, PATH, _body(max_tokens=200, stop_sequences=[stop]))).json
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", stop)
    assert whole["content"][0]["text"] == text[: text.index(stop)]


async def test_errors_have_their_classes(claude: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="does not exist"):
        await claude.messages.create(model="nope", max_tokens=1, messages=_HELLO)
    with pytest.raises(anthropic.BadRequestError, match="must be positive"):
        await claude.messages.create(model="demo", max_tokens=0, messages=_HELLO)
    with pytest.raises(anthropic.APIStatusError, match="Internal server error"):
        async with claude.messages.stream(
            model="demo", max_tokens=9, messages=_HELLO, extra_headers={"X-Sim-Fault": "error@3"}
        ) as stream:
            await stream.get_final_message()


async def test_error_shapes(sim: Sim) -> None:
    """Anthropic's, but OpenAI's for what the schema refuses."""
    unknown = await ask(sim, PATH, _body(model="nope"))
    assert (unknown.status, unknown.body) == (
        404,
        (
            b'{"type":"error","error":{"type":"NotFoundError","message":"The model `nope` does not '
            b'exist. Valid aliases: demo."}}'
        ),
    )
    cold = await ask(sim, PATH, _body(temperature=-1))
    assert cold.json == {
        "type": "error",
        "error": {
            "type": "BadRequestError",
            "message": "temperature must be non-negative, got -1.0. (parameter=temperature, "
            "value=-1.0)",
        },
    }
    nothing = await ask(sim, PATH, _body(max_tokens=0))
    assert nothing.json["error"] == {
        "message": "1 validation error:\n  {'type': 'value_error', 'loc': 'body.max_tokens', "
        "'msg': 'Value error, max_tokens must be positive', 'input': '0', 'ctx': {'error': "
        "ValueError('max_tokens must be positive')}}",
        "type": "Bad Request",
        "param": "body.max_tokens",
        "code": 400,
    }
    tool = _body(tools=[_WEATHER], tool_choice={"type": "tool", "name": "nope"})
    missing = await ask(sim, PATH, tool)
    assert missing.json["error"]["message"] == (
        "The tool with name 'nope' is not found in the tools list."
    )


async def test_a_late_refusal_is_the_only_event(sim: Sim) -> None:
    """vLLM trips over its own error: the text is pydantic's."""
    form = {"format": {"type": "json_schema", "schema": {"type": "nope"}}}
    answer = await ask(sim, PATH, _body(stream=True, output_config=form))
    ((name, event),) = answer.named
    assert (answer.ended, name, event["error"]["type"]) == ("complete", "error", "internal_error")
    shown = "input_value={'error': {'message': 'Gr...am': None, 'code': 400}}, input_type=dict]"
    url = "https://errors.pydantic.dev/2.14/v/missing"
    parts = [
        f"\n{field}\n  Field required [type=missing, {shown}\n    For further information visit "
        f"{url}"
        for field in ("model", "choices")
    ]
    assert event["error"]["message"] == (
        "2 validation errors for ChatCompletionStreamResponse" + "".join(parts)
    )


async def test_leaving_aborts() -> None:
    async with Sim(SimOptions(ttft_s=3600)) as sim:
        async with connect(sim) as client:
            client.send(PATH, _body(stream=True))
            await sim.wait_for(lambda: sim.running == 1)
        await sim.wait_for(lambda: sim.aborted == 1 and sim.running == 0)

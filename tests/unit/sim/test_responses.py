"""``/v1/responses`` on the wire, and with OpenAI's client. Bytes are a running vLLM 0.32.0's."""

import json
from typing import Any

import openai
import pytest

from gateway.sim import Sim, SimOptions

from .client import Answer, ask, connect

PATH = "/v1/responses"
_WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
_OBJECT = (
    '"metadata":null,"model":"demo","object":"response","output":{output},'
    '"parallel_tool_calls":true,"temperature":0.0,"tool_choice":"none","tools":[],"top_p":1.0,'
    '"background":false,"max_output_tokens":2,"max_tool_calls":null,"previous_response_id":null,'
    '"prompt":null,"reasoning":null,"service_tier":"auto","status":"{status}","text":null,'
    '"top_logprobs":null,"truncation":"disabled","usage":{usage},"user":null,'
    '"presence_penalty":0.0,"frequency_penalty":0.0,"kv_transfer_params":null,'
    '"ec_transfer_params":null,"input_messages":null,"output_messages":null}'
)


def _body(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "input": "Hello", **more}


def _object(incomplete: str, status: str, output: str, usage: str) -> str:
    head = f'{{"id":"r1","created_at":1,"incomplete_details":{incomplete},"instructions":null,'
    filled = _OBJECT.replace("{status}", status).replace("{output}", output)
    return head + filled.replace("{usage}", usage)


async def test_a_stream_has_vllm_bytes() -> None:
    """Preamble, one item, ``response.completed`` though it was cut short; no [DONE]."""
    body = _body(max_output_tokens=2, temperature=0, stream=True, request_id="r1")
    async with Sim(SimOptions(frozen_time=1.0)) as sim:
        answer = await ask(sim, PATH, body)
    started = _object("null", "in_progress", "[]", "null")
    text = answer.named[-1][1]["response"]["output"][0]["content"][0]["text"]
    item = answer.named[2][1]["item"]["id"]
    first, second = (event["delta"] for name, event in answer.named if name.endswith("delta"))
    place = f'"item_id":"{item}",'
    content = f'{{"annotations":[],"text":"{text}","type":"output_text","logprobs":null}}'
    message = (
        f'{{"id":"{item}","content":[{content}],"role":"assistant","status":"completed",'
        '"type":"message","phase":null}'
    )
    usage = (
        '{"input_tokens":5,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0,'
        '"input_tokens_per_turn":[],"cached_tokens_per_turn":[]},"output_tokens":2,'
        '"output_tokens_details":{"reasoning_tokens":0,"tool_output_tokens":0,'
        '"output_tokens_per_turn":[],"tool_output_tokens_per_turn":[]},"total_tokens":7}'
    )
    ended = _object('{"reason":"max_output_tokens"}', "incomplete", f"[{message}]", usage)
    expected = [
        ("response.created", f'{{"response":{started},"sequence_number":0'),
        ("response.in_progress", f'{{"response":{started},"sequence_number":1'),
        (
            "response.output_item.added",
            (
                f'{{"item":{{"id":"{item}","content":[],"role":"assistant","status":"in_progress",'
                '"type":"message","phase":null},"output_index":0,"sequence_number":2'
            ),
        ),
        (
            "response.content_part.added",
            (
                f'{{"content_index":0,{place}"output_index":0,"part":{{"annotations":[],"text":"",'
                '"type":"output_text","logprobs":[]},"sequence_number":3'
            ),
        ),
        (
            "response.output_text.delta",
            (
                f'{{"content_index":0,"delta":"{first}",{place}"logprobs":[],"output_index":0,'
                '"sequence_number":4'
            ),
        ),
        (
            "response.output_text.delta",
            (
                f'{{"content_index":0,"delta":"{second}",{place}"logprobs":[],"output_index":0,'
                '"sequence_number":5'
            ),
        ),
        (
            "response.output_text.done",
            (
                f'{{"content_index":0,{place}"logprobs":[],"output_index":0,"sequence_number":6,'
                f'"text":"{text}"'
            ),
        ),
        (
            "response.content_part.done",
            f'{{"content_index":0,{place}"output_index":0,"part":{content},"sequence_number":7',
        ),
        (
            "response.output_item.done",
            f'{{"item":{message},"output_index":0,"sequence_number":8',
        ),
        ("response.completed", f'{{"response":{ended},"sequence_number":9'),
    ]
    events = [f'event: {name}\ndata: {data},"type":"{name}"}}\n\n' for name, data in expected]
    assert answer.body.decode() == "".join(events)
    assert [chunk.decode() for chunk in answer.chunks if chunk] == events
    assert answer.ended == "complete"


async def test_whole_is_what_the_stream_ends_with(sim: Sim) -> None:
    whole = (await ask(sim, PATH, _body(max_output_tokens=9, request_id="a"))).json
    stream = await ask(sim, PATH, _body(max_output_tokens=9, request_id="a", stream=True))
    ended = stream.named[-1][1]["response"]
    for value in (whole, ended):
        del value["created_at"]
        value.pop("usage")
    assert whole == ended
    assert (whole["id"], whole["status"]) == ("a", "incomplete")


async def test_openais_client_streams_and_parses(client: openai.AsyncOpenAI) -> None:
    text = ""
    async with client.responses.stream(model="demo", input="Hello") as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
        final = await stream.get_final_response()
    assert final.output_text == text
    assert final.status == "completed"
    whole = await client.responses.create(model="demo", input="Hello")
    assert whole.output_text == text
    assert whole.usage is not None
    assert whole.usage.output_tokens > 30
    assert whole.id.startswith("resp_")


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_then_calls(sim: Sim, stream: bool) -> None:
    body = _body(tools=[_WEATHER], reasoning={"effort": "low"}, stream=stream)
    answer = await ask(sim, PATH, body)
    value = answer.named[-1][1]["response"] if stream else answer.json
    thoughts, call = value["output"]
    assert (thoughts["type"], thoughts["status"]) == ("reasoning", "completed" if stream else None)
    assert thoughts["content"][0]["type"] == "reasoning_text"
    assert list(call) == [
        "arguments", "call_id", "name", "type", "id", "async", "caller", "namespace", "status",
    ]  # fmt: skip
    assert list(json.loads(call["arguments"])) == ["city"]
    assert value["usage"]["output_tokens_details"]["reasoning_tokens"] > 5
    assert value["tool_choice"] == "auto"
    if stream:
        kinds = [name for name, _ in answer.named]
        assert "response.reasoning_text.delta" in kinds
        deltas = [e["delta"] for n, e in answer.named if n.endswith("arguments.delta")]
        assert "".join(deltas) == call["arguments"]
        numbers = [event["sequence_number"] for _, event in answer.named]
        assert numbers == list(range(len(numbers)))


async def test_two_calls_are_two_items_unless_they_may_not_be(sim: Sim) -> None:
    tools = [_WEATHER, {"type": "function", "name": "clock", "parameters": {"type": "object"}}]
    both = await ask(sim, PATH, _body(tools=tools, tool_choice="required"))
    assert [item["name"] for item in both.json["output"]] == ["get_weather", "clock"]
    one = await ask(sim, PATH, _body(tools=tools, parallel_tool_calls=False))
    assert [item["name"] for item in one.json["output"]] == ["get_weather"]
    named = {"type": "function", "name": "clock"}
    chosen = await ask(sim, PATH, _body(tools=tools, tool_choice=named))
    assert [item["name"] for item in chosen.json["output"]] == ["clock"]


async def test_an_answered_call_is_answered_with_text(sim: Sim) -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "Rain."},
    ]
    answer = await ask(sim, PATH, _body(input=items, tools=[_WEATHER], instructions="Be kind."))
    assert [item["type"] for item in answer.json["output"]] == ["message"]
    assert answer.json["instructions"] == "Be kind."


async def test_json_schema_and_logprobs(sim: Sim) -> None:
    schema = {"type": "object", "properties": {"name": {"enum": ["a"]}}}
    form = {"type": "json_schema", "name": "x", "schema": schema}
    answer = await ask(sim, PATH, _body(text={"format": form}))
    assert answer.json["output"][0]["content"][0]["text"] == '{"name": "a"}'
    assert answer.json["text"]["format"]["strict"] is None
    include = ["message.output_text.logprobs"]
    wanted = _body(include=include, top_logprobs=1, max_output_tokens=1)
    (entry,) = (await ask(sim, PATH, wanted)).json["output"][0]["content"][0]["logprobs"]
    assert list(entry) == ["token", "bytes", "logprob", "top_logprobs"]


async def test_raw_messages_when_asked_for(sim: Sim) -> None:
    answer = await ask(sim, PATH, _body(max_output_tokens=3, enable_response_messages=True))
    ((read,), (wrote,)) = answer.json["input_messages"], answer.json["output_messages"]
    assert read["message"] == "<|user|>Hello\n<|assistant|>"
    assert wrote["message"] == answer.json["output"][0]["content"][0]["text"]
    assert len(wrote["tokens"]) == 3


async def test_prompts_are_cached(sim: Sim) -> None:
    body = _body(input="word " * 200, max_output_tokens=1)
    first, second = [(await ask(sim, PATH, body)).json["usage"] for _ in range(2)]
    assert first["input_tokens_details"]["cached_tokens"] == 0
    assert second["input_tokens_details"]["cached_tokens"] > 100


def _error(message: str, kind: str, param: str | None, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _not_found(name: str) -> dict[str, Any]:
    text = f"Response with id '{name}' not found."
    return _error(text, "invalid_request_error", "response_id", 404)


async def test_refusals(sim: Sim) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (
            _body(model="nope"),
            _error(
                "The model `nope` does not exist. Valid aliases: demo.",
                "NotFoundError",
                "model",
                404,
            ),
        ),
        (_body(previous_response_id="resp_nope"), _not_found("resp_nope")),
        (
            _body(background=True, store=False),
            _error(
                "background can only be used when `store` is true (parameter=background)",
                "BadRequestError",
                "background",
                400,
            ),
        ),
        (
            _body(tools=[_WEATHER], tool_choice={"type": "function", "name": "nope"}),
            _error(
                "Tool choice 'function' not found in 'tools' parameter. (parameter=tool_choice)",
                "BadRequestError",
                "tool_choice",
                400,
            ),
        ),
        (
            {"model": "demo"},
            _error(
                "1 validation error:\n  {'type': 'missing', 'loc': 'body.input', 'msg': "
                "'Field required', 'input': '<dict of 2 items>'}",
                "Bad Request",
                "body.input",
                400,
            ),
        ),
    ]
    for body, expected in cases:
        answer = await ask(sim, PATH, body)
        assert (answer.status, answer.json) == (expected["error"]["code"], expected)
    background = await ask(sim, PATH, _body(background=True))
    assert background.status == 400
    assert "VLLM_ENABLE_RESPONSES_API_STORE=1" in background.json["error"]["message"]


async def test_a_late_refusal_breaks_the_stream(sim: Sim) -> None:
    """vLLM does not tell: after the preamble the connection is closed."""
    late = {"logit_bias": {"1000000000": 1}}
    stream = await ask(sim, PATH, _body(stream=True, **late))
    assert (stream.status, stream.ended) == (200, "eof")
    assert [name for name, _ in stream.named] == ["response.created", "response.in_progress"]
    whole = await ask(sim, PATH, _body(**late))
    assert (whole.status, whole.json["error"]["param"]) == (400, "logit_bias")


async def _stored(**more: Any) -> tuple[Answer, Answer]:
    async with Sim(SimOptions(responses_store=2)) as sim:
        made = await ask(sim, PATH, _body(max_output_tokens=3, request_id="one", **more))
        return made, await ask(sim, f"{PATH}/one")


async def test_stored_responses_can_be_asked_for() -> None:
    made, got = await _stored()
    assert got.json == made.json
    streamed, got = await _stored(stream=True)
    assert got.json == streamed.named[-1][1]["response"]
    for answer in (await _stored(store=False))[1], await _get_without_store():
        assert (answer.status, answer.json) == (404, _not_found("one"))


async def _get_without_store() -> Answer:
    async with Sim(SimOptions()) as sim:
        await ask(sim, PATH, _body(max_output_tokens=3, request_id="one"))
        return await ask(sim, f"{PATH}/one")


async def test_the_store_is_bounded() -> None:
    async with Sim(SimOptions(responses_store=2)) as sim:
        for name in ("a", "b", "c"):
            await ask(sim, PATH, _body(max_output_tokens=1, request_id=name))
        statuses = [(await ask(sim, f"{PATH}/{name}")).status for name in ("a", "b", "c")]
    assert statuses == [404, 200, 200]


async def test_previous_response_goes_on() -> None:
    """The earlier turn is in the prompt, its instructions are not."""
    async with Sim(SimOptions(responses_store=9)) as sim:
        first = _body(max_output_tokens=5, request_id="one", instructions="Be very kind.")
        await ask(sim, PATH, first)
        second = await ask(sim, PATH, _body(input="And?", previous_response_id="one"))
        text = (await ask(sim, f"{PATH}/one")).json["output"][0]["content"][0]["text"]
        roles = [("user", "Hello"), ("assistant", text), ("user", "And?")]
        messages = [{"role": role, "content": content} for role, content in roles]
        count = (await ask(sim, "/tokenize", {"messages": messages})).json["count"]
    assert second.json["usage"]["input_tokens"] == count
    assert second.json["previous_response_id"] == "one"


async def test_background_is_queued_then_there() -> None:
    async with Sim(SimOptions(responses_store=9)) as sim:
        made = await ask(sim, PATH, _body(background=True, request_id="bg"))
        assert (made.json["status"], made.json["output"]) == ("queued", [])
        await sim.wait_for(lambda: sim.finished == 1)
        got = await ask(sim, f"{PATH}/bg")
        assert (got.json["status"], got.json["background"]) == ("completed", True)
        again = await ask(sim, f"{PATH}/bg/cancel", {})
        assert again.json == _error(
            "Cannot cancel a synchronous response.", "invalid_request_error", "response_id", 400
        )


async def test_a_background_stream_outlives_its_client() -> None:
    async with Sim(SimOptions(responses_store=9, ttft_s=0.02)) as sim:
        async with connect(sim) as client:
            client.send(PATH, _body(background=True, stream=True, request_id="bg"))
            await client.read_events(2)
        await sim.wait_for(lambda: sim.finished == 1)
        assert sim.aborted == 0
        whole = await ask(sim, f"{PATH}/bg?stream=true")
        assert whole.named[-1][0] == "response.completed"
        rest = await ask(sim, f"{PATH}/bg?stream=true&starting_after=3")
        assert rest.named == whole.named[4:]
        wrong = await ask(sim, f"{PATH}/bg?stream=true&starting_after=x")
        assert (wrong.status, wrong.json["error"]["param"]) == (400, "query.starting_after")


async def test_cancel_stops_the_engine() -> None:
    async with Sim(SimOptions(responses_store=9, ttft_s=3600)) as sim:
        await ask(sim, PATH, _body(background=True, request_id="bg"))
        assert sim.running == 1
        answer = await ask(sim, f"{PATH}/bg/cancel", {})
        assert answer.json["status"] == "cancelled"
        assert (sim.running, sim.aborted) == (0, 1)
        assert (await ask(sim, f"{PATH}/bg")).json["status"] == "cancelled"
        unknown = await ask(sim, f"{PATH}/nope/cancel", {})
        assert (unknown.status, unknown.json) == (404, _not_found("nope"))


async def test_the_stream_of_what_was_no_background_breaks() -> None:
    async with Sim(SimOptions(responses_store=9)) as sim:
        await ask(sim, PATH, _body(max_output_tokens=1, request_id="one"))
        answer = await ask(sim, f"{PATH}/one?stream=true")
    assert (answer.status, answer.body, answer.ended) == (200, b"", "eof")


async def test_a_stream_that_was_left_is_not_stored() -> None:
    async with Sim(SimOptions(responses_store=9, ttft_s=3600)) as sim:
        async with connect(sim) as client:
            client.send(PATH, _body(stream=True, request_id="one"))
            await client.read_events(2)
        await sim.wait_for(lambda: sim.aborted == 1)
        assert (await ask(sim, f"{PATH}/one")).status == 404

"""chat/completions on the wire. Expected bytes are those of a running vLLM 0.32.0."""

from gateway.sim import Sim, SimOptions

from .client import CHAT, USER, ask, chat

_NAME = {"x-request-id": "abc"}
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}
_CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}


async def test_a_stream_has_vllm_bytes() -> None:
    """Head, role event, text events, finish event, [DONE]: each event a chunk of its own."""
    async with Sim(SimOptions(frozen_time=1_795_162_799)) as sim:
        answer = await ask(sim, CHAT, chat(stream=True, max_tokens=2), headers=_NAME)
    start = (
        '{"id":"chatcmpl-abc","object":"chat.completion.chunk","created":1795162799,'
        '"model":"demo","choices":[{"index":0,"delta":'
    )
    first, second = (e["choices"][0]["delta"]["content"] for e in answer.events[1:])
    fingerprint = answer.events[2]["system_fingerprint"]
    assert fingerprint.startswith("vllm-0.32.0-")
    assert answer.data == [
        (
            f'{start}{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}],'
            '"prompt_token_ids":null,"prompt_text":null}'
        ),
        f'{start}{{"content":"{first}"}},"logprobs":null,"finish_reason":null,"token_ids":null}}]}}',
        (
            f'{start}{{"content":"{second}"}},"logprobs":null,"finish_reason":"length",'
            f'"stop_reason":null,"token_ids":null}}],"system_fingerprint":"{fingerprint}"}}'
        ),
        "[DONE]",
    ]
    assert answer.raw.startswith(
        b"HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 08:19:59 GMT\r\nserver: uvicorn\r\n"
        b"content-type: text/event-stream; charset=utf-8\r\nvary: Origin\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    assert [c.endswith(b"\n\n") and c.count(b"data: ") for c in answer.chunks if c] == [1] * 4
    assert answer.raw.endswith(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


async def test_whole_answer_has_all_fields_in_order(sim: Sim) -> None:
    answer = await ask(sim, CHAT, chat(max_tokens=3), headers=_NAME)
    assert list(answer.headers) == ["date", "server", "content-length", "content-type", "vary"]
    value = answer.json
    assert list(value) == [
        "id", "object", "created", "model", "choices", "service_tier", "system_fingerprint",
        "usage", "prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params",
        "ec_transfer_params", "metrics",
    ]  # fmt: skip
    assert value["id"] == "chatcmpl-abc"
    (choice,) = value["choices"]
    assert list(choice) == [
        "index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids",
        "routed_experts",
    ]  # fmt: skip
    assert list(choice["message"]) == [
        "role", "content", "refusal", "annotations", "audio", "function_call", "reasoning",
    ]  # fmt: skip
    usage = value["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    assert usage["prompt_tokens_details"] == {
        "cached_tokens": 0,
        "created_cache_tokens": 0,
        "multimodal_tokens": None,
    }
    assert usage["completion_tokens_details"] is None


async def test_natural_end_is_an_empty_piece_with_stop(sim: Sim) -> None:
    answer = await ask(sim, CHAT, chat(stream=True))
    last = answer.events[-1]["choices"][0]
    assert (last["delta"], last["finish_reason"]) == ({"content": ""}, "stop")
    assert 40 <= len(answer.events) <= 130


async def test_usage_event_comes_only_when_asked_for(sim: Sim) -> None:
    without = await ask(sim, CHAT, chat(stream=True, max_tokens=3))
    assert all("usage" not in event for event in without.events)
    body = chat(stream=True, max_tokens=3, stream_options={"include_usage": True})
    usage = (await ask(sim, CHAT, body)).events[-1]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert usage["usage"]["prompt_tokens_details"] == {
        "cached_tokens": 0,
        "created_cache_tokens": 0,
    }


async def test_continuous_usage_counts_up(sim: Sim) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = await ask(sim, CHAT, chat(stream=True, max_tokens=3, stream_options=options))
    assert [e["usage"]["completion_tokens"] for e in answer.events] == [0, 1, 2, 3, 3]


async def test_same_prompt_same_text_and_seed_changes_it(sim: Sim) -> None:
    texts = [
        (await ask(sim, CHAT, chat(stream=True, max_tokens=20, **more))).text
        for more in ({}, {}, {"seed": 1}, {"messages": [{"role": "user", "content": "Other"}]})
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


async def test_whole_and_stream_say_the_same(sim: Sim) -> None:
    stream = await ask(sim, CHAT, chat(stream=True))
    whole = await ask(sim, CHAT, chat())
    assert stream.text == whole.json["choices"][0]["message"]["content"]


async def test_min_tokens_and_ignore_eos_lengthen(sim: Sim) -> None:
    long = await ask(sim, CHAT, chat(max_tokens=400, min_tokens=300))
    usage = long.json["usage"]
    assert (usage["completion_tokens"], long.json["choices"][0]["finish_reason"]) == (301, "stop")
    endless = await ask(sim, CHAT, chat(max_tokens=400, ignore_eos=True))
    assert endless.json["usage"]["completion_tokens"] == 400
    assert endless.json["choices"][0]["finish_reason"] == "length"


async def test_max_completion_tokens_wins(sim: Sim) -> None:
    answer = await ask(sim, CHAT, chat(max_tokens=9, max_completion_tokens=4))
    assert answer.json["usage"]["completion_tokens"] == 4


async def test_stop_text_is_cut_and_told(sim: Sim) -> None:
    text = (await ask(sim, CHAT, chat())).json["choices"][0]["message"]["content"]
    stop = text[30:36]
    expected = text[: text.index(stop)]
    for stream in (False, True):
        for wanted in (stop, [stop, "never there"]):
            answer = await ask(sim, CHAT, chat(stop=wanted, stream=stream))
            choice = answer.events[-1]["choices"][0] if stream else answer.json["choices"][0]
            shown = answer.text if stream else choice["message"]["content"]
            assert (shown, choice["finish_reason"], choice["stop_reason"]) == (
                expected,
                "stop",
                stop,
            )


async def test_stop_text_may_be_included(sim: Sim) -> None:
    text = (await ask(sim, CHAT, chat())).json["choices"][0]["message"]["content"]
    body = chat(stop=text[30:36], include_stop_str_in_output=True, stream=True)
    assert (await ask(sim, CHAT, body)).text == text[: text.index(text[30:36]) + 6]


async def test_choices_are_separate_and_all_roles_come_first(sim: Sim) -> None:
    answer = await ask(sim, CHAT, chat(stream=True, n=3, max_tokens=4))
    assert [e["choices"][0]["delta"].get("role") for e in answer.events[:3]] == ["assistant"] * 3
    finished = [e["choices"][0]["index"] for e in answer.events if e["choices"][0]["finish_reason"]]
    assert sorted(finished) == [0, 1, 2]
    whole = await ask(sim, CHAT, chat(n=3, max_tokens=4))
    texts = [c["message"]["content"] for c in whole.json["choices"]]
    assert len(set(texts)) == 3
    assert whole.json["usage"]["completion_tokens"] == 12


async def test_logprobs(sim: Sim) -> None:
    answer = await ask(sim, CHAT, chat(max_tokens=2, logprobs=True, top_logprobs=2, stream=True))
    (entry,) = answer.events[1]["choices"][0]["logprobs"]["content"]
    assert list(entry) == ["token", "logprob", "bytes", "top_logprobs"]
    assert bytes(entry["bytes"]).decode() == entry["token"]
    assert len(entry["top_logprobs"]) == 2
    assert entry["top_logprobs"][0]["token"] == entry["token"]
    whole = await ask(sim, CHAT, chat(max_tokens=2, logprobs=True))
    content = whole.json["choices"][0]["logprobs"]["content"]
    assert content[0]["token"] == entry["token"]
    assert content[0]["top_logprobs"] == []


async def test_token_ids(sim: Sim) -> None:
    answer = await ask(sim, CHAT, chat(max_tokens=3, return_token_ids=True, stream=True))
    assert answer.events[0]["prompt_token_ids"]
    ids = [e["choices"][0]["token_ids"][0] for e in answer.events[1:]]
    text = await ask(sim, "/detokenize", {"tokens": ids})
    assert text.json["prompt"] == answer.text


async def test_named_tool_call(sim: Sim) -> None:
    """Name first with the id, then argument pieces; a named tool ends with "stop"."""
    choice = {"type": "function", "function": {"name": "get_weather"}}
    body = chat(tools=[_CLOCK, _WEATHER], tool_choice=choice, stream=True)
    answer = await ask(sim, CHAT, body, headers=_NAME)
    deltas = [e["choices"][0]["delta"] for e in answer.events]
    first = deltas[1]
    assert list(first) == ["content", "tool_calls"]
    (call,) = first["tool_calls"]
    assert call["id"].startswith("chatcmpl-tool-")
    assert (call["type"], call["index"], call["function"]) == (
        "function",
        0,
        {"name": "get_weather"},
    )
    pieces = [d["tool_calls"][0]["function"]["arguments"] for d in deltas[2:-1]]
    assert len(pieces) > 2
    assert deltas[-1] == {}
    assert answer.events[-1]["choices"][0]["finish_reason"] == "stop"
    whole = await ask(sim, CHAT, {**body, "stream": False}, headers=_NAME)
    message = whole.json["choices"][0]["message"]
    assert message["content"] == ""
    assert message["tool_calls"] == [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": "get_weather", "arguments": "".join(pieces)},
        }
    ]


async def test_auto_calls_tools_until_one_has_answered(sim: Sim) -> None:
    body = chat(tools=[_WEATHER, _CLOCK])
    answer = await ask(sim, CHAT, body)
    choice = answer.json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    names = [call["function"]["name"] for call in choice["message"]["tool_calls"]]
    assert names == ["get_weather", "get_time"]
    after = [*USER, choice["message"], {"role": "tool", "tool_call_id": "x", "content": "rain"}]
    final = await ask(sim, CHAT, {**body, "messages": after})
    assert final.json["choices"][0]["finish_reason"] == "stop"
    assert final.json["choices"][0]["message"]["content"]


async def test_one_call_when_parallel_calls_are_off(sim: Sim) -> None:
    body = chat(tools=[_WEATHER, _CLOCK], tool_choice="required", parallel_tool_calls=False)
    message = (await ask(sim, CHAT, body)).json["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1
    assert (await ask(sim, CHAT, chat(tools=[_WEATHER], tool_choice="none"))).text == ""


async def test_reasoning_comes_first_and_is_counted(sim: Sim) -> None:
    for more in (
        {"reasoning_effort": "low"},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ):
        body = chat(stream=True, stream_options={"include_usage": True}, **more)
        answer = await ask(sim, CHAT, body)
        deltas = [e["choices"][0]["delta"] for e in answer.events[1:-1]]
        kinds = [next(iter(delta)) for delta in deltas]
        thoughts = kinds.count("reasoning")
        assert thoughts > 5
        assert kinds == ["reasoning"] * thoughts + ["content"] * (len(kinds) - thoughts)
        details = answer.events[-1]["usage"]["completion_tokens_details"]
        assert details == {"reasoning_tokens": thoughts}


async def test_json_schema_is_followed(sim: Sim) -> None:
    schema = {"type": "object", "properties": {"name": {"enum": ["a"]}, "n": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = await ask(sim, CHAT, chat(response_format=form, stream=True))
    assert '"name": "a"' in answer.text


async def test_request_id_from_the_body_and_made_up(sim: Sim) -> None:
    named = await ask(sim, CHAT, chat(max_tokens=1, request_id="mine"))
    assert named.json["id"] == "chatcmpl-mine"
    other = await ask(sim, CHAT, chat(max_tokens=1))
    assert other.json["id"].removeprefix("chatcmpl-") != "mine"


async def test_frozen_time_repeats_every_byte() -> None:
    async with Sim(SimOptions(frozen_time=1.0, kv_blocks=4096, max_model_len=4096)) as sim:
        first = await ask(sim, CHAT, chat(stream=True), headers=_NAME)
        second = await ask(sim, CHAT, chat(stream=True), headers=_NAME)
    assert first.raw == second.raw


async def test_several_names_are_aliases_of_the_first() -> None:
    async with Sim(SimOptions(models=("one", "two"))) as sim:
        answer = await ask(sim, CHAT, chat(model="two", max_tokens=1))
        assert answer.json["model"] == "one"
        missing = await ask(sim, CHAT, chat(model="three"))
        assert missing.status == 404
        assert "Valid aliases: one, two." in missing.json["error"]["message"]

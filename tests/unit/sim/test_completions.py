"""completions, models, tokenize and the small routes on the wire."""

from gateway.sim import Sim, SimOptions

from .client import COMPLETIONS, ask, completion


async def test_stream_has_vllm_fields(sim: Sim) -> None:
    body = completion(stream=True, max_tokens=2)
    answer = await ask(sim, COMPLETIONS, body, headers={"x-request-id": "abc"})
    created = answer.events[0]["created"]
    first, second = (event["choices"][0]["text"] for event in answer.events)
    start = (
        f'{{"id":"cmpl-abc","object":"text_completion","created":{created},"model":"demo",'
        '"choices":[{"index":0,"text":'
    )
    fingerprint = answer.events[1]["system_fingerprint"]
    assert answer.data == [
        (
            f'{start}"{first}","logprobs":null,"finish_reason":null,"stop_reason":null,'
            '"prompt_token_ids":null,"token_ids":null}]}'
        ),
        (
            f'{start}"{second}","logprobs":null,"finish_reason":"length","stop_reason":null,'
            f'"prompt_token_ids":null,"token_ids":null}}],"system_fingerprint":"{fingerprint}"}}'
        ),
        "[DONE]",
    ]


async def test_usage_event(sim: Sim) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = completion(stream=True, max_tokens=2, stream_options=options)
    answer = await ask(sim, COMPLETIONS, body)
    assert [e["usage"]["completion_tokens"] for e in answer.events] == [1, 2, 2]
    assert answer.events[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_default_is_sixteen_tokens(sim: Sim) -> None:
    answer = await ask(sim, COMPLETIONS, completion())
    assert answer.json["usage"]["completion_tokens"] == 16
    assert list(answer.json["choices"][0]) == [
        "index", "text", "logprobs", "finish_reason", "stop_reason", "token_ids",
        "prompt_logprobs", "prompt_token_ids", "routed_experts",
    ]  # fmt: skip


async def test_all_forms_of_prompts(sim: Sim) -> None:
    for prompt, choices, tokens in (
        ("one two", 1, None),
        (["one", "two"], 2, None),
        ([70, 71, 72], 1, 3),
        ([[70, 71], [72]], 2, 3),
    ):
        for stream in (False, True):
            body = completion(prompt=prompt, max_tokens=2, stream=stream)
            if stream:
                body["stream_options"] = {"include_usage": True}
            answer = await ask(sim, COMPLETIONS, body)
            if stream:
                seen = {e["choices"][0]["index"] for e in answer.events if e["choices"]}
                usage = answer.events[-1]["usage"]
            else:
                seen = {c["index"] for c in answer.json["choices"]}
                usage = answer.json["usage"]
            assert seen == set(range(choices))
            assert usage["completion_tokens"] == 2 * choices
            if tokens is not None:
                assert usage["prompt_tokens"] == tokens


async def test_choices_are_numbered_over_prompts(sim: Sim) -> None:
    body = completion(prompt=["a", "b"], n=2, max_tokens=1, stream=True)
    answer = await ask(sim, COMPLETIONS, body)
    assert sorted(e["choices"][0]["index"] for e in answer.events) == [0, 1, 2, 3]


async def test_echo(sim: Sim) -> None:
    for stream in (False, True):
        body = completion(echo=True, max_tokens=2, stream=stream)
        answer = await ask(sim, COMPLETIONS, body)
        text = answer.text if stream else answer.json["choices"][0]["text"]
        assert text.startswith("Once upon a time")
        assert len(text) > len("Once upon a time")
    only = await ask(sim, COMPLETIONS, completion(echo=True, max_tokens=0))
    assert only.json["choices"][0]["text"] == "Once upon a time"


async def test_logprobs_with_echo_start_with_nothing(sim: Sim) -> None:
    answer = await ask(sim, COMPLETIONS, completion(echo=True, max_tokens=2, logprobs=1))
    choice = answer.json["choices"][0]
    logprobs = choice["logprobs"]
    assert list(logprobs) == ["text_offset", "token_logprobs", "tokens", "top_logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["token_logprobs"][0] is None
    assert all(value < 0 for value in logprobs["token_logprobs"][1:])
    assert len(logprobs["top_logprobs"][1]) == 2
    assert choice["prompt_logprobs"][0] is None


async def test_stop_token(sim: Sim) -> None:
    ids = await ask(sim, COMPLETIONS, completion(return_token_ids=True))
    third = ids.json["choices"][0]["token_ids"][2]
    answer = await ask(sim, COMPLETIONS, completion(stop_token_ids=[third], return_token_ids=True))
    choice = answer.json["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", third)
    assert choice["token_ids"][-1] == third


async def test_models(sim: Sim) -> None:
    (card,) = (await ask(sim, "/v1/models")).json["data"]
    assert list(card) == [
        "id", "object", "created", "owned_by", "root", "parent", "max_model_len", "permission",
    ]  # fmt: skip
    assert (card["id"], card["owned_by"], card["max_model_len"]) == ("demo", "vllm", 2048)


async def test_tokenize_and_back(sim: Sim) -> None:
    text = "A naïve test — 日本 🙂 of xyzzy and\n\nlines\t!"
    answer = await ask(sim, "/tokenize", {"prompt": text, "return_token_strs": True})
    value = answer.json
    assert list(value) == ["count", "max_model_len", "tokens", "token_strs"]
    assert value["count"] == len(value["tokens"])
    assert "".join(value["token_strs"]) == text
    back = await ask(sim, "/detokenize", {"model": "demo", "tokens": value["tokens"]})
    assert back.json == {"prompt": text}


async def test_tokenize_chat_counts_the_template(sim: Sim) -> None:
    messages = [{"role": "user", "content": "hi"}]
    counted = await ask(sim, "/tokenize", {"messages": messages})
    used = await ask(sim, "/v1/chat/completions", {"messages": messages, "max_tokens": 1})
    assert counted.json["count"] == used.json["usage"]["prompt_tokens"]


async def test_small_routes(sim: Sim) -> None:
    for path in ("/health", "/ping"):
        answer = await ask(sim, path)
        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert (await ask(sim, "/ping", b"")).status == 200
    assert (await ask(sim, "/version")).json == {"version": "0.32.0"}
    assert (await ask(sim, "/load")).json == {"server_load": 0}


async def test_api_key_guards_v1_only() -> None:
    async with Sim(SimOptions(api_keys=("secret",))) as sim:
        refused = await ask(sim, "/v1/models")
        assert (refused.status, refused.json) == (401, {"error": "Unauthorized"})
        assert "vary" not in refused.headers
        assert (await ask(sim, "/v1/nothing")).status == 401
        assert (await ask(sim, "/health")).status == 200
        good = await ask(sim, "/v1/models", headers={"authorization": "Bearer secret"})
        assert good.status == 200

"""Served names, LoRA adapters, and the routes that only operators may use."""

import pytest

from gateway.sim import Sim, SimOptions

from .client import CHAT, ask, chat, connect

_OPERATORS = [
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("GET", "/is_sleeping"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("GET", "/is_paused"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/reset_mm_cache"),
    ("POST", "/collective_rpc"),
    ("POST", "/abort_requests"),
    ("POST", "/start_profile"),
    ("POST", "/stop_profile"),
    ("POST", "/update_weights"),
    ("POST", "/scale_elastic_ep"),
    ("POST", "/invocations"),
    ("GET", "/server_info"),
]


async def test_adapters_are_listed_with_their_parent() -> None:
    async with Sim(SimOptions(models=("one", "two"), loras=("sql",))) as sim:
        cards = (await ask(sim, "/v1/models")).json["data"]
    shown = [(c["id"], c["root"], c["parent"], c["max_model_len"]) for c in cards]
    assert shown == [
        ("one", "one", None, 32_768),
        ("two", "one", None, 32_768),
        ("sql", "/adapters/sql", "one", None),
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(max_tokens=1)),
        ("/v1/completions", {"prompt": "x", "max_tokens": 1}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 1}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
        ("/v1/embeddings", {"input": "x"}),
        ("/rerank", {"query": "x", "documents": ["y"]}),
    ],
)
async def test_answers_carry_the_adapters_name_or_the_first(path: str, body: object) -> None:
    assert isinstance(body, dict)
    async with Sim(SimOptions(models=("one", "two"), loras=("sql",))) as sim:
        for asked, answered in (("two", "one"), ("sql", "sql")):
            answer = await ask(sim, path, {**body, "model": asked})
            assert answer.json["model"] == answered


async def test_adapters_do_not_share_the_prefix_cache() -> None:
    async with Sim(SimOptions(loras=("sql",))) as sim:
        messages = [{"role": "user", "content": "word " * 200}]
        cached = []
        for model in ("demo", "demo", "sql", "sql"):
            body = chat(model=model, messages=messages, max_tokens=1)
            usage = (await ask(sim, CHAT, body)).json["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"] > 0)
    assert cached == [False, True, False, True]


async def test_metrics_name_the_adapters_at_work() -> None:
    options = SimOptions(loras=("sql", "law"), ttft_s=3600, max_num_seqs=1, frozen_time=7.0)
    async with Sim(options) as sim, connect(sim) as one, connect(sim) as other:
        one.send(CHAT, chat(model="sql"))
        await sim.wait_for(lambda: sim.running == 1)
        other.send(CHAT, chat(model="law"))
        await sim.wait_for(lambda: sim.waiting == 1)
        text = (await ask(sim, "/metrics")).body.decode()
    assert text.endswith(
        'vllm:lora_requests_info{max_lora="1",running_lora_adapters="sql",'
        'waiting_lora_adapters="law"} 7.0\n'
    )


async def test_adapters_come_and_go(sim: Sim) -> None:
    body = {"lora_name": "sql", "lora_path": "/x"}
    loaded = await ask(sim, "/v1/load_lora_adapter", body)
    assert (loaded.status, loaded.body) == (
        200,
        b"Success: LoRA adapter 'sql' added successfully.",
    )
    assert (await ask(sim, CHAT, chat(model="sql", max_tokens=1))).status == 200
    twice = await ask(sim, "/v1/load_lora_adapter", body)
    assert (twice.status, twice.json["error"]["type"]) == (400, "InvalidUserInput")
    gone = await ask(sim, "/v1/unload_lora_adapter", {"lora_name": "sql"})
    assert gone.body == b"Success: LoRA adapter 'sql' removed successfully."
    assert (await ask(sim, CHAT, chat(model="sql"))).status == 404
    missing = await ask(sim, "/v1/unload_lora_adapter", {"lora_name": "sql"})
    assert missing.json["error"]["message"] == "The lora adapter 'sql' cannot be found."


@pytest.mark.parametrize(("method", "path"), _OPERATORS)
async def test_operators_routes_count_their_calls(sim: Sim, method: str, path: str) -> None:
    assert sim.operator_calls == {}
    answer = await ask(sim, path, {} if method == "POST" else None, method=method)
    assert answer.status == 200
    assert sim.operator_calls == {path: 1}


async def test_a_paused_engine_is_silent_and_goes_on(sim: Sim) -> None:
    await ask(sim, "/pause", {})
    assert (await ask(sim, "/is_paused")).json == {"is_paused": True}
    assert (await ask(sim, "/health")).status == 200
    await ask(sim, "/resume", {})
    assert (await ask(sim, CHAT, chat(max_tokens=1))).status == 200


@pytest.mark.parametrize(
    ("task", "there", "missing"),
    [
        ("generate", "/v1/messages", "/v1/embeddings"),
        ("pooling", "/v1/embeddings", CHAT),
        ("transcription", "/v1/audio/transcriptions", CHAT),
        ("speech", "/v1/audio/speech", "/v1/audio/transcriptions"),
        ("image", "/v1/images/edits", "/v1/audio/speech"),
    ],
)
async def test_a_task_serves_its_own_surfaces(task: str, there: str, missing: str) -> None:
    async with Sim(SimOptions(task=task)) as sim:
        assert (await ask(sim, there, {})).status == 400
        answer = await ask(sim, missing, {})
        assert (answer.status, answer.json) == (404, {"detail": "Not Found"})
        assert (await ask(sim, "/v1/models")).status == 200

"""/metrics: vLLM's names, valid text, true numbers."""

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.sim import Sim, SimOptions

from .client import CHAT, ask, chat, connect


async def _scrape(sim: Sim) -> dict[str, Metric]:
    answer = await ask(sim, "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
    return {m.name: m for m in text_string_to_metric_families(answer.body.decode())}


def _value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    (value,) = (
        s.value
        for family in families.values()
        for s in family.samples
        if s.name == sample and labels.items() <= s.labels.items()
    )
    return value


async def test_names_and_edges_are_vllms(sim: Sim) -> None:
    families = await _scrape(sim)
    assert families.keys() >= {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:num_requests_waiting_by_reason",
        "vllm:kv_cache_usage_perc",
        "vllm:num_preemptions",
        "vllm:prefix_cache_queries",
        "vllm:prefix_cache_hits",
        "vllm:engine_sleep_state",
        "vllm:cache_config_info",
        "vllm:request_success",
        "vllm:prompt_tokens",
        "vllm:generation_tokens",
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:request_time_per_output_token_seconds",
        "vllm:e2e_request_latency_seconds",
    }
    edges = [
        s.labels["le"]
        for s in families["vllm:inter_token_latency_seconds"].samples
        if s.name.endswith("_bucket")
    ]
    assert edges == [
        "0.01", "0.025", "0.05", "0.075", "0.1", "0.15", "0.2", "0.3", "0.4", "0.5", "0.75",
        "1.0", "2.5", "5.0", "7.5", "10.0", "20.0", "40.0", "80.0", "+Inf",
    ]  # fmt: skip
    info = families["vllm:cache_config_info"].samples[0].labels
    assert (info["block_size"], info["num_gpu_blocks"], info["engine"]) == ("32", "8192", "0")


async def test_counters_follow_the_answers(sim: Sim) -> None:
    body = chat(messages=[{"role": "user", "content": "word " * 100}], max_tokens=5)
    usages = [(await ask(sim, CHAT, body)).json["usage"] for _ in range(3)]
    await ask(sim, CHAT, chat())
    families = await _scrape(sim)
    prompt = sum(u["prompt_tokens"] for u in usages)
    cached = sum(u["prompt_tokens_details"]["cached_tokens"] for u in usages)
    assert cached > 0
    assert _value(families, "vllm:request_success_total", finished_reason="length") == 3
    assert _value(families, "vllm:request_success_total", finished_reason="stop") == 1
    assert _value(families, "vllm:prompt_tokens_total") > prompt
    assert _value(families, "vllm:prefix_cache_hits_total") == cached
    assert _value(families, "vllm:prompt_tokens_cached_total") == cached
    assert _value(families, "vllm:generation_tokens_total") > 15
    assert _value(families, "vllm:time_to_first_token_seconds_count") == 4
    assert _value(families, "vllm:e2e_request_latency_seconds_count") == 4
    tokens = _value(families, "vllm:generation_tokens_total")
    assert _value(families, "vllm:inter_token_latency_seconds_count") == tokens - 4
    assert _value(families, "vllm:num_requests_running") == 0


async def test_gauges_move_with_the_engine() -> None:
    async with Sim(SimOptions(ttft_s=3600, max_num_seqs=1)) as sim:
        async with connect(sim) as one, connect(sim) as two:
            one.send(CHAT, chat())
            two.send(CHAT, chat())
            await sim.wait_for(lambda: sim.running == 1 and sim.waiting == 1)
            families = await _scrape(sim)
            assert _value(families, "vllm:num_requests_running") == 1
            assert _value(families, "vllm:num_requests_waiting") == 1
            assert _value(families, "vllm:kv_cache_usage_perc") > 0
        await sim.wait_for(lambda: sim.aborted == 2)
        families = await _scrape(sim)
        assert _value(families, "vllm:num_requests_running") == 0
        assert _value(families, "vllm:request_success_total", finished_reason="abort") == 0
        assert _value(families, "vllm:kv_cache_usage_perc") == 0


async def test_model_names_are_escaped() -> None:
    async with Sim(SimOptions(models=('a"b\\c',))) as sim:
        families = await _scrape(sim)
        sample = families["vllm:num_requests_running"].samples[0]
        assert sample.labels["model_name"] == 'a"b\\c'

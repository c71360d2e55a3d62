"""What a worker says of itself in `/metrics`, as far as the gateway reads it."""

import pytest

from tests.conformance.answers import read_stream
from tests.conformance.bodies import CHAT, chat
from tests.conformance.samples import scrape, total
from tests.conformance.targets import Target

WORKER = {"engine": "0", "model_name": "tiny"}

TTFT_EDGES_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
ITL_EDGES_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
E2E_EDGES_S = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("vllm:num_requests_running", {}),
        ("vllm:num_requests_waiting", {}),
        ("vllm:num_requests_waiting_by_reason", {"reason": "capacity"}),
        ("vllm:num_requests_waiting_by_reason", {"reason": "deferred"}),
        ("vllm:kv_cache_usage_perc", {}),
        ("vllm:num_preemptions_total", {}),
        ("vllm:prefix_cache_queries_total", {}),
        ("vllm:prefix_cache_hits_total", {}),
        ("vllm:prompt_tokens_total", {}),
        ("vllm:generation_tokens_total", {}),
        ("vllm:engine_sleep_state", {"sleep_state": "awake"}),
        ("vllm:engine_sleep_state", {"sleep_state": "weights_offloaded"}),
        ("vllm:engine_sleep_state", {"sleep_state": "discard_all"}),
        ("vllm:request_success_total", {"finished_reason": "stop"}),
        ("vllm:request_success_total", {"finished_reason": "length"}),
        ("vllm:request_success_total", {"finished_reason": "abort"}),
    ],
)
def test_sample_and_labels(worker_target: Target, name: str, labels: dict[str, str]) -> None:
    """The sample is there once, with these labels and no others."""
    found = [each for each, _ in scrape(worker_target.url, name)]
    assert found.count({**WORKER, **labels}) == 1


def test_cache_configuration(worker_target: Target) -> None:
    """The size of the key-value cache is in the labels of one sample; it has no model."""
    [(labels, value)] = scrape(worker_target.url, "vllm:cache_config_info")
    assert value == 1
    assert labels["engine"] == "0"
    assert "model_name" not in labels
    assert int(labels["block_size"]) > 0
    assert int(labels["num_gpu_blocks"]) > 0


@pytest.mark.parametrize(
    ("name", "edges_s"),
    [
        ("vllm:time_to_first_token_seconds", TTFT_EDGES_S),
        ("vllm:inter_token_latency_seconds", ITL_EDGES_S),
        ("vllm:request_time_per_output_token_seconds", ITL_EDGES_S),
        ("vllm:e2e_request_latency_seconds", E2E_EDGES_S),
    ],
)
def test_edges_of_histograms(worker_target: Target, name: str, edges_s: tuple[float, ...]) -> None:
    """Latency histograms have these edges."""
    found = [float(labels["le"]) for labels, _ in scrape(worker_target.url, f"{name}_bucket")]
    assert tuple(found) == (*edges_s, float("inf"))


def test_tokens_and_requests_are_counted(worker_target: Target) -> None:
    """A request adds its tokens and one finished request, by its reason to finish."""
    url = worker_target.url
    names = ["vllm:prompt_tokens_total", "vllm:generation_tokens_total"]
    finished = "vllm:request_success_total"
    before = [total(url, name) for name in names]
    before_finished = total(url, finished, finished_reason="length")
    body = chat(max_tokens=9, stream_options={"include_usage": True})
    used = read_stream(worker_target.client, CHAT, body).usages[0]
    after = [total(url, name) for name in names]
    assert after[0] - before[0] == used["prompt_tokens"]
    assert after[1] - before[1] == 9
    assert total(url, finished, finished_reason="length") - before_finished == 1


def test_awake(worker_target: Target) -> None:
    """A worker that was not sent to sleep is awake."""
    assert total(worker_target.url, "vllm:engine_sleep_state", sleep_state="awake") == 1

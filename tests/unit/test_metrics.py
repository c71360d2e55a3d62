"""What `/metrics` tells."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import Gateway
from gateway.config import load
from gateway.telemetry.metrics import Histogram, Metrics
from gateway.telemetry.record import Record
from gateway.telemetry.timing import TOKEN_EDGES_S
from gateway.terms import Model, Outcome, Usage

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

WORKER = "http://10.0.0.7:8000"


def record(model: str = "m", outcome: Outcome = Outcome.OK, **more: Any) -> Record:
    """A stream of three token events, 0.25 s apart, the first after half a second."""
    done = Record("chat", started_at_s=100.0, model=model, worker=WORKER, outcome=outcome)
    done.ended_at_s = 101.0
    for at_s in (100.5, 100.75, 101.0):
        done.times.add(1, at_s)
    done.usage = Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=2)
    for name, value in more.items():
        setattr(done, name, value)
    return done


async def families(metrics: Metrics) -> dict[str, Metric]:
    text = (await metrics.render()).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


async def samples(metrics: Metrics, family: str) -> dict[tuple[str, ...], float]:
    """Name's suffix and label values, in the order of the labels' names → value."""
    found = (await families(metrics))["vllm_gateway_" + family]
    return {
        (sample.name.removeprefix(found.name), *dict(sorted(sample.labels.items())).values()): (
            sample.value
        )
        for sample in found.samples
    }


async def test_the_text_is_prometheus_format() -> None:
    """It parses, each family once, with help and type."""
    metrics = Metrics()
    metrics.observe(record())
    metrics.gauge("requests_in_flight", "Requests under way.", lambda: 3)
    text = (await metrics.render()).decode()
    parsed = list(text_string_to_metric_families(text))
    assert max(Counter(family.name for family in parsed).values()) == 1
    ours = [family for family in parsed if family.name.startswith("vllm_gateway_")]
    assert all(family.documentation and family.type != "unknown" for family in ours)
    assert "vllm_gateway_requests_in_flight 3.0\n" in text


@pytest.mark.parametrize("outcome", Outcome)
async def test_each_request_is_counted_once(outcome: Outcome) -> None:
    """However it ended."""
    metrics = Metrics()
    metrics.observe(record(outcome=outcome))
    assert await samples(metrics, "requests") == {
        ("_total", "chat", "m", outcome.value, WORKER): 1.0
    }


async def test_the_figures_of_a_stream() -> None:
    """TTFT 0.5 s, one TPOT of 0.25 s, two gaps of 0.25 s, E2E 1 s."""
    metrics = Metrics()
    metrics.observe(record())
    for family, count, total in (
        ("time_to_first_token_seconds", 1, 0.5),
        ("time_per_output_token_seconds", 1, 0.25),
        ("inter_token_latency_seconds", 2, 0.5),
        ("request_duration_seconds", 1, 1.0),
        ("queue_duration_seconds", 1, 0.0),
        ("overhead_seconds", 1, 0.0),
    ):
        found = await samples(metrics, family)
        assert (family, found["_count", "m"], found["_sum", "m"]) == (family, count, total)


async def test_tpot_is_for_one_choice_and_two_tokens() -> None:
    """Interleaved choices, or a single token, have none; ITL is counted all the same."""
    metrics = Metrics()
    metrics.observe(record(choices=2))
    metrics.observe(record(usage=Usage(5, 1)))
    metrics.observe(record(usage=None))
    assert (await samples(metrics, "time_per_output_token_seconds"))["_count", "m"] == 0
    assert (await samples(metrics, "inter_token_latency_seconds"))["_count", "m"] == 6


async def test_tokens_are_exact_or_estimated() -> None:
    """A stream cut short counts what was relayed, and says so."""
    metrics = Metrics()
    metrics.observe(record())
    metrics.observe(record(usage=Usage(completion_tokens=9, exact=False)))
    assert await samples(metrics, "tokens") == {
        ("_total", "exact", "prompt", "m"): 5.0,
        ("_total", "exact", "completion", "m"): 3.0,
        ("_total", "exact", "cached_prompt", "m"): 2.0,
        ("_total", "estimated", "completion", "m"): 9.0,
    }


async def test_retries_are_counted_by_worker_asked() -> None:
    """Two further workers are two retries."""
    metrics = Metrics()
    metrics.observe(record(retries=2))
    metrics.observe(record(retries=0))
    assert await samples(metrics, "retries") == {("_total", "chat", "m"): 2.0}


async def test_a_request_without_a_known_model_has_no_figures() -> None:
    """It is counted; there is no series to put its times in."""
    metrics = Metrics()
    metrics.observe(record(model="", outcome=Outcome.INVALID, worker=""))
    assert ("_total", "chat", "", "invalid", "") in await samples(metrics, "requests")
    assert await samples(metrics, "request_duration_seconds") == {}


async def test_label_sets_are_closed() -> None:
    """Fine histograms carry the model alone, never a worker or a key."""
    metrics = Metrics()
    metrics.observe(record(retries=1, audio_bytes=9))
    metrics.worker_gauge("worker_leases", "Leases.", lambda: [(WORKER, 1.0)])
    labels = {
        family.name.removeprefix("vllm_gateway_"): {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in (await families(metrics)).values()
        if family.name.startswith("vllm_gateway_")
    }
    assert labels == {
        "build_info": {"version", "python"},
        "requests": {"endpoint", "model", "worker", "outcome"},
        "tokens": {"model", "kind", "exactness"},
        "audio_bytes": {"model"},
        "retries": {"model", "endpoint"},
        "time_to_first_token_seconds": {"model"},
        "time_per_output_token_seconds": {"model"},
        "inter_token_latency_seconds": {"model"},
        "request_duration_seconds": {"model"},
        "queue_duration_seconds": {"model"},
        "overhead_seconds": {"model"},
        "event_loop_lag_seconds": set(),
        "worker_leases": {"worker"},
    }


async def test_a_workers_gauge_goes_with_the_worker() -> None:
    """Series of a worker that left are not told for ever."""
    metrics = Metrics()
    workers = {WORKER: 1.0}
    metrics.worker_gauge("worker_leases", "Leases.", workers.items)
    assert await samples(metrics, "worker_leases") == {("", WORKER): 1.0}
    workers.clear()
    assert await samples(metrics, "worker_leases") == {}


async def test_odd_names_are_escaped() -> None:
    """A model's name is its operator's, and may hold anything."""
    metrics = Metrics()
    name = 'a"b\\c\nd'
    metrics.observe(record(model=name))
    assert ("_total", "chat", name, "ok", WORKER) in await samples(metrics, "requests")


_values = st.lists(st.floats(0, 100), max_size=30)


@given(values=_values)
@settings(deadline=None, max_examples=100)
def test_a_histogram_counts_what_prometheus_says(values: list[float]) -> None:
    """A bucket holds the samples up to and including its upper edge."""
    histogram = Histogram(TOKEN_EDGES_S)
    for value in values:
        histogram.observe(value)
    assert histogram.buckets() == [
        *[(str(edge), sum(v <= edge for v in values)) for edge in TOKEN_EDGES_S],
        ("+Inf", len(values)),
    ]


@given(one=_values, two=_values)
@settings(deadline=None, max_examples=100)
def test_merging_is_observing_each(one: list[float], two: list[float]) -> None:
    """One merge per request stands for its many samples."""
    all_, first, second = (Histogram(TOKEN_EDGES_S) for _ in range(3))
    for histogram, values in ((all_, [*one, *two]), (first, one), (second, two)):
        for value in values:
            histogram.observe(value)
    first.merge(second.counts, second.sum)
    assert first.counts == all_.counts
    assert first.sum == pytest.approx(all_.sum)


async def ask(gateway: Gateway, model: str) -> tuple[int, bytes]:
    """One request to the ASGI application, with no server around it."""
    body = json.dumps({"model": model, "messages": []}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.Event().wait()  # the client stays

    async def send(message: Any) -> None:
        sent.append(message)

    path = "/v1/chat/completions"
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    await gateway(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def test_text_from_a_client_never_becomes_a_label() -> None:
    """Else anyone could fill the memory with series."""
    gateway = Gateway(load({"workers": [WORKER], "log.requests": False}, None, {}))
    gateway.registry.learnt(gateway.registry.workers[0], [Model("m")])
    for number in range(3):
        status, body = await ask(gateway, f"made-up-{number}")
        assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
    text = (await gateway.metrics.render()).decode()
    assert "made-up" not in text
    assert await samples(gateway.metrics, "requests") == {
        ("_total", "chat", "", "invalid", ""): 3.0
    }

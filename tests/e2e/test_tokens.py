"""The gateway counts the tokens that its workers report, on every surface."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.conformance.answers import wait_until
from tests.conformance.bodies import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    chat,
    completion,
    message,
    response,
)
from tests.conformance.samples import total
from tests.conformance.targets import Gateway

TOKENS = "vllm_gateway_tokens_total"
REQUESTS = "vllm_gateway_requests_total"
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
LONG = "fox " * 300


def last_object(text: str) -> dict[str, Any]:
    """The whole answer, or the last event of a stream that has usage."""
    if text.startswith("{"):
        found: dict[str, Any] = json.loads(text)
        return found
    data = [line.removeprefix("data: ") for line in text.splitlines() if '"usage":{' in line]
    last: dict[str, Any] = json.loads(data[-1])
    return last


def of_chat(answer: dict[str, Any]) -> tuple[int, int]:
    """Prompt and completion, as chats and completions tell them."""
    return answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]


def of_response(answer: dict[str, Any]) -> tuple[int, int]:
    """The same of responses, and of the last event of their streams."""
    usage = answer.get("response", answer)["usage"]
    return usage["input_tokens"], usage["output_tokens"]


def of_message(answer: dict[str, Any]) -> tuple[int, int]:
    """The same of messages: cached tokens stand beside the `input_tokens`."""
    usage = answer["usage"]
    prompt = sum(number for name, number in usage.items() if name.endswith("input_tokens"))
    return prompt, usage["output_tokens"]


def counted(gateway: Gateway, model: str) -> tuple[int, int]:
    """What the gateway has counted so far."""
    kinds = ("prompt", "completion")
    found = [total(gateway.admin_url, TOKENS, kind=kind, model=model) for kind in kinds]
    return int(found[0]), int(found[1])


def assert_counted(
    gateway: Gateway,
    path: str,
    body: dict[str, Any],
    used: Callable[[dict[str, Any]], tuple[int, int]],
) -> None:
    """One request more adds what its answer says, and nothing else."""
    before = counted(gateway, "tiny")
    requests = total(gateway.admin_url, REQUESTS)
    answer = httpx.post(f"{gateway.url}{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    wait_until(lambda: total(gateway.admin_url, REQUESTS) > requests, "the request is recorded")
    prompt, completion_ = used(last_object(answer.text))
    assert prompt > 0
    after = counted(gateway, "tiny")
    assert (after[0] - before[0], after[1] - before[1]) == (prompt, completion_)


@pytest.fixture(scope="module", params=["sim", pytest.param("vllm", marks=pytest.mark.vllm)])
def counting(request: pytest.FixtureRequest) -> Gateway:
    """In front of simulators, or of engines."""
    name = "sim_gateway" if request.param == "sim" else "gateway"
    found: Gateway = request.getfixturevalue(name)
    return found


@STREAM
@pytest.mark.parametrize(
    ("path", "body", "used"),
    [
        (CHAT, chat(messages=[{"role": "user", "content": LONG}]), of_chat),
        (COMPLETIONS, completion(prompt=LONG), of_chat),
        (RESPONSES, response(input=LONG), of_response),
        (MESSAGES, message(messages=[{"role": "user", "content": LONG}]), of_message),
    ],
    ids=["chat", "completions", "responses", "messages"],
)
def test_generated_tokens(
    counting: Gateway,
    path: str,
    body: dict[str, Any],
    used: Callable[[dict[str, Any]], tuple[int, int]],
    stream: bool,
) -> None:
    """Prompt and completion are counted as the answer tells them, also where the prompt is cached.

    Three times, so that the prompt has been seen by one of two workers at least.
    """
    asked = {**body, "stream": stream}
    if stream and used is of_chat:
        asked["stream_options"] = {"include_usage": True}
    for _ in range(3):
        assert_counted(counting, path, asked, used)


@pytest.mark.vllm
def test_embedded_tokens(pooling_gateway: Gateway) -> None:
    """Embeddings have a prompt alone, whatever the form of their answer."""
    for encoding in ("float", "base64"):
        body = {"model": "tiny", "input": ["Hello", "weather"], "encoding_format": encoding}
        assert_counted(pooling_gateway, EMBEDDINGS, body, of_chat)

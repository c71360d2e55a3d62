"""Whole chat answers."""

from typing import Any

import pytest

from tests.conformance.answers import Each, Matches, OneOf, differences
from tests.conformance.bodies import CHAT, MADE_UP_ID, chat, usage
from tests.conformance.targets import Target

CHOICE: dict[str, Any] = {
    "index": 0,
    "message": {
        "role": "assistant",
        "content": str,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    },
    "logprobs": None,
    "finish_reason": "length",
    "stop_reason": None,
    "token_ids": None,
    "routed_experts": None,
}
ANSWER: dict[str, Any] = {
    "id": Matches(f"chatcmpl-{MADE_UP_ID}"),
    "object": "chat.completion",
    "created": int,
    "model": "tiny",
    "choices": [CHOICE],
    "service_tier": None,
    "system_fingerprint": str,
    "usage": usage(int, 4, int),
    "prompt_logprobs": None,
    "prompt_token_ids": None,
    "prompt_text": None,
    "kv_transfer_params": None,
    "ec_transfer_params": None,
    "metrics": None,
}
LOGPROB = {"token": str, "logprob": float, "bytes": OneOf(Each(int), [])}


def test_answer_has_all_fields_in_order(target: Target) -> None:
    """A whole answer names every field, also those without a value."""
    answer = target.client.post(CHAT, json=chat())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert differences(ANSWER, answer.json()) == []


def test_usage_adds_up(target: Target) -> None:
    """The total is the prompt and what was generated, of all choices."""
    used = target.client.post(CHAT, json=chat(n=3, temperature=1)).json()["usage"]
    assert used["completion_tokens"] == 12
    assert used["total_tokens"] == used["prompt_tokens"] + 12


def test_request_id_becomes_the_id(target: Target) -> None:
    """The client's `X-Request-Id` is found in the answer's id."""
    answer = target.client.post(CHAT, json=chat(), headers={"X-Request-Id": "abc"})
    assert answer.json()["id"] == "chatcmpl-abc"


def test_each_choice_has_its_index(target: Target) -> None:
    """`n` gives as many choices, in order."""
    answer = target.client.post(CHAT, json=chat(n=2, temperature=1)).json()
    choices = [{**CHOICE, "index": index} for index in range(2)]
    assert differences({**ANSWER, "choices": choices, "usage": usage(int, 8, int)}, answer) == []


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_length_ends_the_answer(target: Target, field: str) -> None:
    """Both names of the limit are obeyed, and the reason to finish is `length`."""
    body = chat(**{"max_tokens": None, field: 7})
    answer = target.client.post(CHAT, json=body).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 7


def test_same_request_same_answer(target: Target) -> None:
    """At temperature 0 the same request has the same text."""
    first, second = (
        target.client.post(CHAT, json=chat()).json()["choices"][0]["message"]["content"]
        for _ in range(2)
    )
    assert first == second


def test_logprobs(target: Target) -> None:
    """`logprobs` lists each token with as many alternatives as were asked for."""
    answer = target.client.post(CHAT, json=chat(logprobs=True, top_logprobs=2)).json()
    token = {**LOGPROB, "top_logprobs": [LOGPROB, LOGPROB]}
    assert differences({"content": [token] * 4}, answer["choices"][0]["logprobs"]) == []


def test_unknown_fields_are_ignored(target: Target) -> None:
    """A field that nobody knows does not hinder."""
    answer = target.client.post(CHAT, json=chat(frobnicate={"a": [1]}))
    assert differences(ANSWER, answer.json()) == []


def test_roles_and_parts_are_taken(target: Target) -> None:
    """System, tool and assistant messages are taken, and content in parts."""
    call = {
        "id": "call-1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": "{}"},
    }
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is the weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call-1", "content": "sunny"},
    ]
    answer = target.client.post(CHAT, json=chat(messages=messages))
    assert answer.status_code == 200, answer.text
    assert differences(ANSWER, answer.json()) == []

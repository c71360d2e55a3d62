"""Completions, whole and streamed."""

from typing import Any

import pytest

from tests.conformance.answers import Each, Matches, OneOf, differences, read_stream
from tests.conformance.bodies import COMPLETIONS, MADE_UP_ID, completion, fingerprint, usage
from tests.conformance.targets import Target

CHOICE: dict[str, Any] = {
    "index": 0,
    "text": str,
    "logprobs": None,
    "finish_reason": "length",
    "stop_reason": None,
    "token_ids": None,
    "prompt_logprobs": None,
    "prompt_token_ids": None,
    "routed_experts": None,
}
ANSWER: dict[str, Any] = {
    "id": Matches(f"cmpl-{MADE_UP_ID}"),
    "object": "text_completion",
    "created": int,
    "model": "tiny",
    "choices": [CHOICE],
    "service_tier": None,
    "system_fingerprint": str,
    "usage": usage(int, 4, int),
    "kv_transfer_params": None,
    "ec_transfer_params": None,
    "metrics": None,
}
HEAD: dict[str, Any] = {
    "id": Matches(f"cmpl-{MADE_UP_ID}"),
    "object": "text_completion",
    "created": int,
    "model": "tiny",
}
USAGE_EVENT = {
    **HEAD,
    "choices": [],
    "usage": {
        "prompt_tokens": int,
        "total_tokens": int,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": int},
    },
    "system_fingerprint": str,
}


def event(reason: str | None, *, echoed: bool = False, **last: Any) -> dict[str, Any]:
    """One event of a stream; the one that echoes the prompt names its tokens."""
    choice = {
        "index": 0,
        "text": str,
        "logprobs": None,
        "finish_reason": reason,
        "stop_reason": None,
        "prompt_token_ids": Each(int) if echoed else None,
        "token_ids": None,
    }
    return {**HEAD, "choices": [choice], **last}


def test_answer_has_all_fields_in_order(target: Target) -> None:
    """A whole answer names every field, also those without a value."""
    answer = target.client.post(COMPLETIONS, json=completion())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert differences(ANSWER, answer.json()) == []


def test_request_id_becomes_the_id(target: Target) -> None:
    """The client's `X-Request-Id` is found in the id, of an answer and of each event."""
    headers = {"X-Request-Id": "abc"}
    answer = target.client.post(COMPLETIONS, json=completion(), headers=headers)
    assert answer.json()["id"] == "cmpl-abc"
    stream = read_stream(target.client, COMPLETIONS, completion(), headers=headers)
    assert {event["id"] for event in stream.events} == {"cmpl-abc"}


def test_events_in_order(target: Target) -> None:
    """Events of text, at most one per token, the last with the reason to finish; no usage."""
    stream = read_stream(target.client, COMPLETIONS, completion())
    last = event("length", **fingerprint(target, usage_asked=False))
    middle = [event(None)] * (len(stream.events) - 1)
    assert len(middle) <= 3
    assert differences([*middle, last], stream.events) == []


def test_usage_event_when_asked(target: Target) -> None:
    """Usage comes when it is asked for: in an event of its own, with no choices, at the end."""
    body = completion(stream_options={"include_usage": True})
    stream = read_stream(target.client, COMPLETIONS, body)
    middle = [event(None)] * (len(stream.events) - 2)
    assert differences([*middle, event("length"), USAGE_EVENT], stream.events) == []
    used = stream.usages[0]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]


def test_stream_says_what_the_whole_answer_says(target: Target) -> None:
    """The text of the stream is the text of the whole answer."""
    whole = target.client.post(COMPLETIONS, json=completion(max_tokens=30)).json()
    stream = read_stream(target.client, COMPLETIONS, completion(max_tokens=30))
    assert stream.text() == whole["choices"][0]["text"]
    assert stream.finish_reasons() == ["length"]


def test_sixteen_tokens_by_default(target: Target) -> None:
    """Without `max_tokens` a completion has sixteen."""
    answer = target.client.post(COMPLETIONS, json=completion(max_tokens=None)).json()
    assert answer["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [
        ("Hello", 1),
        (["Hello", "The quick"], 2),
        ([10, 20, 30], 1),
        ([[10, 20, 30], [40]], 2),
    ],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
def test_forms_of_a_prompt(target: Target, prompt: Any, choices: int) -> None:
    """A prompt is a text or a list of tokens, or a list of either: then there is a choice each."""
    answer = target.client.post(COMPLETIONS, json=completion(prompt=prompt)).json()
    expected = {
        **ANSWER,
        "choices": [{**CHOICE, "index": index} for index in range(choices)],
        "usage": usage(int, 4 * choices, int),
    }
    assert differences(expected, answer) == []


@pytest.mark.parametrize(("prompt", "tokens"), [([10, 20, 30], 3), ([[10, 20, 30], [40]], 4)])
def test_prompt_tokens_are_counted(target: Target, prompt: Any, tokens: int) -> None:
    """Of a prompt given in tokens, each counts."""
    used = target.client.post(COMPLETIONS, json=completion(prompt=prompt)).json()["usage"]
    assert used["prompt_tokens"] == tokens
    assert used["total_tokens"] == tokens + used["completion_tokens"]


def test_prompts_times_choices(target: Target) -> None:
    """Two prompts with two choices each make four, numbered through, each with its own end."""
    options = {"include_usage": True}
    body = completion(prompt=["Hello", "The quick"], n=2, temperature=1, stream_options=options)
    stream = read_stream(target.client, COMPLETIONS, body)
    assert [stream.finish_reasons(index) for index in range(4)] == [["length"]] * 4
    assert stream.usages[0]["completion_tokens"] == 16


def test_echo_begins_with_the_prompt(target: Target) -> None:
    """`echo` gives the prompt back before the text, and does not count it as generated."""
    plain = target.client.post(COMPLETIONS, json=completion()).json()
    echoed = target.client.post(COMPLETIONS, json=completion(echo=True)).json()
    assert echoed["choices"][0]["text"] == "Hello" + plain["choices"][0]["text"]
    assert echoed["usage"]["completion_tokens"] == 4


def test_echo_is_in_the_first_event(target: Target) -> None:
    """A stream with `echo` has the prompt, and its tokens, in the first event."""
    stream = read_stream(target.client, COMPLETIONS, completion(echo=True, max_tokens=30))
    last = event("length", **fingerprint(target, usage_asked=False))
    middle = [event(None)] * (len(stream.events) - 2)
    assert differences([event(None, echoed=True), *middle, last], stream.events) == []
    assert stream.events[0]["choices"][0]["text"].startswith("Hello")


def test_logprobs(target: Target) -> None:
    """`logprobs` has four lists with an element for each token."""
    answer = target.client.post(COMPLETIONS, json=completion(logprobs=2)).json()
    logprobs = answer["choices"][0]["logprobs"]
    expected = {
        "text_offset": [int] * 4,
        "token_logprobs": [float] * 4,
        "tokens": [str] * 4,
        "top_logprobs": [dict] * 4,
    }
    assert differences(expected, logprobs) == []
    assert logprobs["text_offset"][0] == 0


def test_logprobs_beside_the_text(target: Target) -> None:
    """Each event of a stream has the logprobs of its own tokens; offsets go on growing."""
    stream = read_stream(target.client, COMPLETIONS, completion(logprobs=1))
    logprobs = [event["choices"][0]["logprobs"] for event in stream.events]
    one = {
        "text_offset": Each(int),
        "token_logprobs": Each(float),
        "tokens": Each(str),
        "top_logprobs": Each(dict),
    }
    assert differences(Each(one), logprobs) == []
    offsets = [offset for each in logprobs for offset in each["text_offset"]]
    assert offsets[0] == 0
    assert offsets == sorted(offsets)


def test_second_equal_prompt_is_cached(target: Target, fresh_prompt: str) -> None:
    """Of the second of two equal long prompts, whole blocks come from the prefix cache."""
    body = completion(prompt=fresh_prompt)
    used = [target.client.post(COMPLETIONS, json=body).json()["usage"] for _ in range(2)]
    cached = [each["prompt_tokens_details"]["cached_tokens"] for each in used]
    assert cached[0] == 0
    assert cached[1] % 32 == 0
    assert used[1]["prompt_tokens"] - cached[1] <= 32
    details = {
        "cached_tokens": cached[1],
        "created_cache_tokens": OneOf(int, None),
        "multimodal_tokens": None,
    }
    assert differences(usage(int, 4, int, details), used[1]) == []

"""Chat streams, event by event."""

from typing import Any

import pytest

from tests.conformance.answers import Each, Matches, OneOf, differences, read_stream
from tests.conformance.bodies import CHAT, MADE_UP_ID, chat, fingerprint
from tests.conformance.targets import Target

HEAD: dict[str, Any] = {
    "id": Matches(f"chatcmpl-{MADE_UP_ID}"),
    "object": "chat.completion.chunk",
    "created": int,
    "model": "tiny",
}
USAGE = {
    "prompt_tokens": int,
    "total_tokens": int,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": int, "created_cache_tokens": int},
}
USAGE_SO_FAR = {
    "prompt_tokens": int,
    "total_tokens": int,
    "completion_tokens": int,
    "completion_tokens_details": None,
}
USAGE_EVENT = {**HEAD, "choices": [], "usage": USAGE, "system_fingerprint": str}
LOGPROB = {"token": str, "logprob": float, "bytes": OneOf(Each(int), [])}


def role(index: int = 0, usage: dict[str, Any] | None = None) -> dict[str, Any]:
    """The first event of a choice."""
    delta = {"role": "assistant", "content": ""}
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    asked = {"usage": usage} if usage else {}
    return {**HEAD, "choices": [choice], **asked, "prompt_token_ids": None, "prompt_text": None}


def content(index: int = 0, logprobs: Any = None, **asked: Any) -> dict[str, Any]:
    """An event in the middle."""
    choice = {
        "index": index,
        "delta": {"content": str},
        "logprobs": logprobs,
        "finish_reason": None,
        "token_ids": None,
    }
    return {**HEAD, "choices": [choice], **asked}


def finish(
    index: int = 0, reason: str = "length", logprobs: Any = None, **last: Any
) -> dict[str, Any]:
    """The last event of a choice: with text, or without where the last token gave none."""
    choice = {
        "index": index,
        "delta": OneOf({"content": str}, {}),
        "logprobs": logprobs,
        "finish_reason": reason,
        "stop_reason": None,
        "token_ids": None,
    }
    return {**HEAD, "choices": [choice], **last}


def test_events_in_order(target: Target) -> None:
    """First the role, then the text, with the last of it the reason to finish; no usage."""
    stream = read_stream(target.client, CHAT, chat())
    last = fingerprint(target, usage_asked=False)
    middle = [content()] * (len(stream.events) - 2)
    assert len(middle) <= 3
    assert differences([role(), *middle, finish(**last)], stream.events) == []


def test_usage_event_when_asked(target: Target) -> None:
    """Usage comes when it is asked for: in an event of its own, with no choices, at the end."""
    body = chat(stream_options={"include_usage": True})
    stream = read_stream(target.client, CHAT, body)
    middle = [content()] * (len(stream.events) - 3)
    assert differences([role(), *middle, finish(), USAGE_EVENT], stream.events) == []
    used = stream.usages[0]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]


@pytest.mark.parametrize(
    "stream_options",
    [
        None,
        {},
        {"include_usage": False},
        {"continuous_usage_stats": True},
        {"include_usage": False, "continuous_usage_stats": True},
    ],
    ids=["null", "empty", "declined", "continuous alone", "declined but continuous"],
)
def test_no_usage_unless_asked(target: Target, stream_options: dict[str, bool] | None) -> None:
    """No event has usage unless `include_usage` is true, whatever else the options say."""
    stream = read_stream(target.client, CHAT, chat(stream_options=stream_options))
    assert stream.usages == []
    assert all(event["choices"] for event in stream.events)


def test_usage_so_far_in_every_event(target: Target) -> None:
    """With `continuous_usage_stats` each event says what was used so far, and it only grows."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = read_stream(target.client, CHAT, chat(stream_options=options))
    middle = [content(usage=USAGE_SO_FAR)] * (len(stream.events) - 3)
    expected = [role(usage=USAGE_SO_FAR), *middle, finish(usage=USAGE_SO_FAR), USAGE_EVENT]
    assert differences(expected, stream.events) == []
    counts = [used["completion_tokens"] for used in stream.usages]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-2:] == [4, 4]


def test_stream_says_what_the_whole_answer_says(target: Target) -> None:
    """The text of the stream is the text of the whole answer."""
    whole = target.client.post(CHAT, json=chat(max_tokens=30)).json()
    stream = read_stream(target.client, CHAT, chat(max_tokens=30))
    assert stream.text() == whole["choices"][0]["message"]["content"]
    assert stream.finish_reasons() == [whole["choices"][0]["finish_reason"]]


def test_all_events_have_one_id(target: Target) -> None:
    """Each event has the same id, made of the client's `X-Request-Id`."""
    stream = read_stream(target.client, CHAT, chat(), headers={"X-Request-Id": "abc"})
    assert {event["id"] for event in stream.events} == {"chatcmpl-abc"}
    assert len({event["created"] for event in stream.events}) == 1


def test_choices_side_by_side(target: Target) -> None:
    """With `n` all roles come first; then each choice has its own text and its own end."""
    body = chat(n=2, temperature=1, stream_options={"include_usage": True})
    stream = read_stream(target.client, CHAT, body)
    assert differences([role(0), role(1)], stream.events[:2]) == []
    assert [stream.finish_reasons(index) for index in range(2)] == [["length"], ["length"]]
    assert stream.usages[0]["completion_tokens"] == 8


def test_logprobs_beside_the_text(target: Target) -> None:
    """Each event of text has the logprobs of its own tokens."""
    stream = read_stream(target.client, CHAT, chat(logprobs=True, top_logprobs=1))
    token = {**LOGPROB, "top_logprobs": [LOGPROB]}
    logprobs = {"content": Each(token)}
    last = fingerprint(target, usage_asked=False)
    middle = [content(logprobs=logprobs)] * (len(stream.events) - 2)
    expected = [role(), *middle, finish(logprobs=logprobs, **last)]
    assert differences(expected, stream.events) == []

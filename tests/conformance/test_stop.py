"""Why an answer ends."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.answers import read_stream
from tests.conformance.bodies import PATHS_AND_BODIES, completion
from tests.conformance.targets import Target

BOTH = pytest.mark.parametrize(("path", "body"), PATHS_AND_BODIES, ids=["chat", "completions"])
Body = Callable[..., dict[str, Any]]


def text_of(answer: dict[str, Any]) -> str:
    """The text of the first choice of a whole answer."""
    choice = answer["choices"][0]
    text: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return text


def stop_within(text: str) -> str:
    """Two letters of the text, not at its beginning."""
    pairs = [text[at : at + 2] for at in range(2, len(text) - 1)]
    return next(
        pair for pair in pairs if pair.isascii() and pair.isalpha() and text.index(pair) > 1
    )


@BOTH
def test_stop_string_ends_the_answer(target: Target, path: str, body: Body) -> None:
    """The answer ends before the stop string, and says which one it was."""
    text = text_of(target.client.post(path, json=body(max_tokens=40)).json())
    stop = stop_within(text)
    answer = target.client.post(path, json=body(max_tokens=40, stop=["@@@@", stop])).json()
    assert text_of(answer) == text[: text.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["stop_reason"] == stop
    assert answer["usage"]["completion_tokens"] < 40


@BOTH
def test_stop_string_ends_the_stream(target: Target, path: str, body: Body) -> None:
    """No part of the stop string is in the stream, though it comes in several tokens."""
    text = text_of(target.client.post(path, json=body(max_tokens=40)).json())
    stop = stop_within(text)
    stream = read_stream(target.client, path, body(max_tokens=40, stop=stop))
    assert stream.text() == text[: text.index(stop)]
    assert stream.finish_reasons() == ["stop"]
    assert stream.events[-1]["choices"][0]["stop_reason"] == stop


@BOTH
def test_ignore_eos_gives_the_length_asked_for(target: Target, path: str, body: Body) -> None:
    """With `ignore_eos` a stream has as many tokens as it may have."""
    options = {"include_usage": True}
    stream = read_stream(target.client, path, body(max_tokens=200, stream_options=options))
    assert stream.finish_reasons() == ["length"]
    assert stream.usages[0]["completion_tokens"] == 200


def test_one_token(target: Target) -> None:
    """One token is the least that can be asked for."""
    answer = target.client.post("/v1/completions", json=completion(max_tokens=1)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 1

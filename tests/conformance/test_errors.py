"""Refusals: which status, and what the body says."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.conformance.answers import OneOf, differences
from tests.conformance.bodies import CHAT, COMPLETIONS, PATHS_AND_BODIES, chat, completion
from tests.conformance.targets import Target
from tests.support.engine import MAX_MODEL_LEN

BOTH = pytest.mark.parametrize(("path", "body"), PATHS_AND_BODIES, ids=["chat", "completions"])
Body = Callable[..., dict[str, Any]]

# What vLLM calls a request that it could not decode, and one that it decoded and refused.
UNDECODED = "Bad Request"
REFUSED = "BadRequestError"


def error(type_: str, param: Any, code: Any) -> dict[str, Any]:
    """The body of every refusal, OpenAI's shape."""
    return {"error": {"message": str, "type": type_, "param": param, "code": code}}


def assert_refused(answer: httpx.Response, status: int, body: dict[str, Any]) -> None:
    """The answer is JSON with that status, and like `body`."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert differences(body, answer.json()) == []


def post(target: Target, path: str, content: str, **headers: str) -> httpx.Response:
    """POST bytes as they are, as JSON unless `headers` say otherwise."""
    return target.client.post(
        path, content=content, headers={"content-type": "application/json", **headers}
    )


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_unknown_model(target: Target, path: str, body: Body, stream: bool) -> None:
    """A model that nobody serves is a 404, of a stream too."""
    answer = target.client.post(path, json=body(model="nope", stream=stream))
    # The gateway answers itself: no worker has the model.
    expected = (
        error("invalid_request_error", "model", "model_not_found")
        if target.is_gateway
        else error("NotFoundError", "model", 404)
    )
    assert_refused(answer, 404, expected)
    assert "nope" in answer.json()["error"]["message"]


@BOTH
def test_no_model(target: Target, path: str, body: Body) -> None:
    """A worker serves its one model unasked; the gateway has many, and needs to be told."""
    answer = target.client.post(
        path, json={key: value for key, value in body().items() if key != "model"}
    )
    if target.is_gateway:
        assert_refused(answer, 400, error("invalid_request_error", "model", "invalid_value"))
    else:
        assert answer.json()["model"] == "tiny"


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": MAX_MODEL_LEN + 1}, "max_tokens"),
        ({"n": 0}, None),
    ],
    ids=["temperature", "top_p", "no tokens", "too many tokens", "no choices"],
)
def test_value_out_of_range(
    target: Target, path: str, body: Body, stream: bool, fields: dict[str, Any], param: str | None
) -> None:
    """A value that cannot be is a 400 that names the field, and no stream has begun."""
    answer = target.client.post(path, json=body(**fields, stream=stream))
    assert_refused(answer, 400, error(REFUSED, param, 400))


@BOTH
def test_value_of_a_wrong_type(target: Target, path: str, body: Body) -> None:
    """A value of a wrong type is a 400 that says where it is."""
    answer = target.client.post(path, json=body(temperature="hot"))
    assert_refused(answer, 400, error(UNDECODED, "body.temperature", 400))


@pytest.mark.parametrize(
    ("path", "fields", "type_", "param"),
    [
        (CHAT, {"messages": "Hello"}, UNDECODED, "body.messages"),
        (CHAT, {"messages": []}, REFUSED, None),
        (CHAT, {}, UNDECODED, "body.messages"),
        (COMPLETIONS, {}, REFUSED, "prompt"),
        (COMPLETIONS, {"prompt": ""}, REFUSED, "prompt"),
        (COMPLETIONS, {"prompt": []}, REFUSED, None),
        (CHAT, {**chat(), "top_logprobs": 2}, REFUSED, "top_logprobs"),
        (CHAT, {**chat(), "logprobs": True, "top_logprobs": 100}, REFUSED, "logprobs"),
    ],
    ids=[
        "messages of a wrong type",
        "empty messages",
        "no messages",
        "no prompt",
        "empty prompt",
        "no prompts",
        "top_logprobs without logprobs",
        "too many logprobs",
    ],
)
def test_wrong_request(
    target: Target, path: str, fields: dict[str, Any], type_: str, param: str | None
) -> None:
    """What is missing or does not fit is a 400."""
    answer = target.client.post(path, json={"model": "tiny", **fields})
    assert_refused(answer, 400, error(type_, param, 400))


@BOTH
def test_stream_options_without_stream(target: Target, path: str, body: Body) -> None:
    """`stream_options` are for streams only."""
    answer = target.client.post(path, json=body(stream_options={"include_usage": True}))
    assert_refused(answer, 400, error(REFUSED, "stream_options", 400))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(messages=[{"role": "user", "content": "fox " * MAX_MODEL_LEN}])),
        (COMPLETIONS, completion(prompt="fox " * MAX_MODEL_LEN)),
        (COMPLETIONS, completion(prompt=[7] * (MAX_MODEL_LEN + 1))),
    ],
    ids=["chat", "text", "tokens"],
)
def test_prompt_too_long(target: Target, path: str, body: dict[str, Any], stream: bool) -> None:
    """A prompt longer than the model can hold is a 400, before any stream."""
    answer = target.client.post(path, json={**body, "stream": stream})
    assert_refused(answer, 400, error(REFUSED, "input_tokens", 400))
    assert str(MAX_MODEL_LEN) in answer.json()["error"]["message"]


def test_token_out_of_vocabulary(target: Target) -> None:
    """A token that the model does not have is a 400."""
    answer = target.client.post(COMPLETIONS, json=completion(prompt=[4_000_000_000]))
    assert_refused(answer, 400, error(REFUSED, None, 400))


def test_late_refusal_of_a_stream(target: Target) -> None:
    """A worker refuses some streams late, as an event of a 200; the gateway makes it a status."""
    body = completion(prompt=[4_000_000_000], stream=True)
    answer = target.client.post(COMPLETIONS, json=body)
    if target.is_gateway:
        assert_refused(answer, 400, error(REFUSED, None, 400))
        return
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text == (
        'data: {"error": {"message": "Token id 4000000000 is out of vocabulary", '
        '"type": "BadRequestError", "param": null, "code": 400}}\n\ndata: [DONE]\n\n'
    )


@BOTH
@pytest.mark.parametrize(
    ("content", "param"),
    [('{"model":', OneOf("body.9", None)), ("[]", OneOf("body", None)), ("", OneOf("body", None))],
    ids=["cut off", "no object", "empty"],
)
def test_not_a_json_object(
    target: Target, path: str, body: Body, content: str, param: OneOf
) -> None:
    """What is not a JSON object is a 400."""
    answer = post(target, path, content)
    # The gateway has to read the body to find the model, and answers itself.
    expected = (
        error("invalid_request_error", None, OneOf("invalid_json", "invalid_value"))
        if target.is_gateway
        else error(UNDECODED, param.templates[0], 400)
    )
    assert_refused(answer, 400, expected)


@BOTH
def test_other_content_type(target: Target, path: str, body: Body) -> None:
    """JSON has to be called JSON."""
    request = httpx.Request("POST", "http://x", json=body())
    answer = post(target, path, request.content.decode(), **{"content-type": "text/plain"})
    assert_refused(answer, 400, error(UNDECODED, None, 400))


def test_content_type_with_a_charset(target: Target) -> None:
    """A charset beside the type does not hinder."""
    request = httpx.Request("POST", "http://x", json=chat())
    kind = "application/json; charset=utf-8"
    answer = post(target, CHAT, request.content.decode(), **{"content-type": kind})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", CHAT, "POST"), ("DELETE", COMPLETIONS, "POST"), ("POST", "/v1/models", "GET")],
)
def test_wrong_method(target: Target, method: str, path: str, allowed: str) -> None:
    """A method that a path does not have is a 405, with the one that it has."""
    answer = target.client.request(method, path)
    expected = (
        error("invalid_request_error", None, "method_not_allowed")
        if target.is_gateway
        else {"detail": "Method Not Allowed"}
    )
    assert_refused(answer, 405, expected)
    assert allowed in answer.headers["allow"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_path(target: Target, method: str) -> None:
    """A path that nobody has is a 404; the gateway says so in OpenAI's shape."""
    answer = target.client.request(method, "/v1/nope")
    expected = (
        error("invalid_request_error", None, "not_found")
        if target.is_gateway
        else {"detail": "Not Found"}
    )
    assert_refused(answer, 404, expected)

"""What vLLM refuses, and in which words. Bodies were taken from a running vLLM 0.32.0."""

import json
from typing import Any

import pytest

from gateway.sim import Sim

from .client import CHAT, COMPLETIONS, ask, chat, completion


def _bad(message: str, param: str | None = None, kind: str = "BadRequestError") -> bytes:
    error = {"message": message, "type": kind, "param": param, "code": 400}
    return json.dumps({"error": error}, separators=(",", ":"), ensure_ascii=False).encode()


_TOOL = {"type": "function", "function": {"name": "f"}}

VALUES: list[tuple[str, dict[str, Any], bytes]] = [
    (
        CHAT,
        chat(stream_options={"include_usage": True}),
        _bad(
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
            "stream_options",
        ),
    ),
    (
        CHAT,
        chat(temperature=3),
        _bad(
            "temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)",
            "temperature",
        ),
    ),
    (
        CHAT,
        chat(max_tokens=0),
        _bad("max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)", "max_tokens"),
    ),
    (
        CHAT,
        chat(max_completion_tokens=5000),
        _bad(
            "max_completion_tokens=5000 cannot be greater than max_model_len=2048. Please request "
            "fewer output tokens. (parameter=max_completion_tokens, value=5000)",
            "max_completion_tokens",
        ),
    ),
    (CHAT, chat(n=0), _bad("n must be at least 1, got 0.")),
    (
        CHAT,
        chat(n=2, temperature=0),
        _bad("n must be 1 when using greedy sampling, got 2."),
    ),
    (CHAT, chat(stop=""), _bad("stop cannot contain an empty string.")),
    (
        CHAT,
        chat(min_tokens=5, max_tokens=2),
        _bad("min_tokens must be less than or equal to max_tokens=2, got 5."),
    ),
    (
        CHAT,
        chat(messages=[]),
        _bad("Cannot apply chat template to an empty conversation. Provide at least one message."),
    ),
    (
        CHAT,
        chat(tools=[]),
        _bad(
            "`tools` must not be an empty array. Either provide at least one tool or omit the "
            "field entirely. (parameter=tools)",
            "tools",
        ),
    ),
    (
        CHAT,
        chat(tool_choice="auto"),
        _bad(
            "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)", "tool_choice"
        ),
    ),
    (
        CHAT,
        chat(tools=[_TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
        _bad(
            "The tool specified in `tool_choice` does not match any of the specified `tools` "
            "(parameter=tool_choice)",
            "tool_choice",
        ),
    ),
    (
        CHAT,
        chat(logprobs=True, top_logprobs=50),
        _bad(
            "Requested sample logprobs of 50, which is greater than max allowed: 20 "
            "(parameter=logprobs, value=50)",
            "logprobs",
        ),
    ),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": "zq " * 3000}]),
        _bad(
            "This model's maximum context length is 2048 tokens. However, your prompt contains at "
            "least 2049 input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt. (parameter=input_tokens, value=2049)",
            "input_tokens",
        ),
    ),
    (
        COMPLETIONS,
        completion(prompt=[70] * 2050),
        _bad(
            "This model's maximum context length is 2048 tokens. However, your prompt contains "
            "2050 input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt. (parameter=input_tokens, value=2050)",
            "input_tokens",
        ),
    ),
    (
        COMPLETIONS,
        {"model": "demo"},
        _bad(
            "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
            "prompt",
        ),
    ),
    (
        COMPLETIONS,
        completion(suffix="x"),
        _bad("suffix is only supported for models with FIM completion rendering", "suffix"),
    ),
]


@pytest.mark.parametrize(("path", "body", "expected"), VALUES)
async def test_wrong_values(sim: Sim, path: str, body: dict[str, Any], expected: bytes) -> None:
    answer = await ask(sim, path, body)
    assert (answer.status, answer.body) == (400, expected)


def _entry(kind: str, loc: str, message: str, shown: str) -> str:
    return f"\n  {{'type': '{kind}', 'loc': '{loc}', 'msg': '{message}', 'input': '{shown}'"


TYPES: list[tuple[dict[str, Any], str, str]] = [
    (
        {"model": "demo"},
        "1 validation error:"
        + _entry("missing", "body.messages", "Field required", "<dict of 1 items>")
        + "}",
        "body.messages",
    ),
    (
        chat(max_tokens="x"),
        "1 validation error:"
        + _entry(
            "int_parsing",
            "body.max_tokens",
            "Input should be a valid integer, unable to parse string as an integer",
            "x",
        )
        + "}",
        "body.max_tokens",
    ),
    (
        chat(stream="maybe"),
        "1 validation error:"
        + _entry(
            "bool_parsing",
            "body.stream",
            "Input should be a valid boolean, unable to interpret input",
            "maybe",
        )
        + "}",
        "body.stream",
    ),
    (
        chat(stop=["a", "b", "c", "d", "e"]),
        "2 validation errors:"
        + _entry("string_type", "body.stop", "Input should be a valid string", "<list of 5 items>")
        + "}"
        + _entry(
            "too_long",
            "body.stop",
            "List should have at most 4 items after validation, not 5",
            "<list of 5 items>",
        )
        + ", 'ctx': {'field_type': 'List', 'max_length': 4, 'actual_length': 5}}",
        "body.stop",
    ),
]


@pytest.mark.parametrize(("body", "message", "param"), TYPES)
async def test_wrong_types(sim: Sim, body: dict[str, Any], message: str, param: str) -> None:
    answer = await ask(sim, CHAT, body)
    assert (answer.status, answer.body) == (400, _bad(message, param, "Bad Request"))


@pytest.mark.parametrize(
    ("raw", "position", "problem"),
    [
        (b'{"a":', 5, "'Expecting value'"),
        (b'{"a" 1}', 5, "\"Expecting ':' delimiter\""),
        (b'{"a":1} x', 8, "'Extra data'"),
    ],
)
async def test_broken_json(sim: Sim, raw: bytes, position: int, problem: str) -> None:
    answer = await ask(sim, CHAT, raw)
    entry = _entry("json_invalid", f"body.{position}", "JSON decode error", "<dict of 0 items>")
    message = f"1 validation error:{entry}, 'ctx': {{'error': {problem}}}}}"
    assert answer.body == _bad(message, f"body.{position}", "Bad Request")


async def test_body_that_is_no_object_or_no_text(sim: Sim) -> None:
    assert (await ask(sim, CHAT, b"")).json["error"]["param"] == "body"
    assert (await ask(sim, CHAT, b"[1]")).json["error"]["param"] == "body"
    bad = await ask(sim, CHAT, b'{"model":"\xff"}')
    assert (bad.status, bad.json) == (400, {"detail": "There was an error parsing the body"})


async def test_content_type_must_be_json(sim: Sim) -> None:
    for kind, status in (
        ("text/plain", 400),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
    ):
        answer = await ask(sim, CHAT, chat(max_tokens=1), headers={"content-type": kind})
        assert answer.status == status


async def test_unknown_model_path_and_method(sim: Sim) -> None:
    answer = await ask(sim, CHAT, chat(model="nope"))
    assert answer.status == 404
    assert answer.json["error"] == {
        "message": "The model `nope` does not exist. Valid aliases: demo.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }
    missing = await ask(sim, "/v1/nope")
    assert (missing.status, missing.body) == (404, b'{"detail":"Not Found"}')
    wrong = await ask(sim, CHAT)
    assert (wrong.status, wrong.body) == (405, b'{"detail":"Method Not Allowed"}')
    assert wrong.headers["allow"] == "POST"
    moved = await ask(sim, "/v1/models/")
    assert (moved.status, moved.headers["location"]) == (307, "http://sim/v1/models")


async def test_late_refusal_is_the_first_event_of_a_200(sim: Sim) -> None:
    """The engine checks after the head has gone out; vLLM writes this event with spaces."""
    answer = await ask(sim, CHAT, chat(stream=True, logprobs=True, top_logprobs=50))
    assert answer.status == 200
    assert answer.body == (
        b'data: {"error": {"message": "Requested sample logprobs of 50, which is greater than max '
        b'allowed: 20 (parameter=logprobs, value=50)", "type": "BadRequestError", "param": '
        b'"logprobs", "code": 400}}\n\ndata: [DONE]\n\n'
    )
    body = completion(prompt=[10**9], stream=True)
    late = await ask(sim, COMPLETIONS, body)
    assert late.events[0]["error"]["message"] == "Token id 1000000000 is out of vocabulary"

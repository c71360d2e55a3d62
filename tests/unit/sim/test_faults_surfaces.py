"""Faults on every surface: broken, refused, without usage, without an end."""

from typing import Any

import pytest

from gateway.sim import Sim, SimOptions
from gateway.sim.faults import INFERENCE_PATHS

from .client import CHAT, ask, connect, faulty

RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
_USER = [{"role": "user", "content": "Hello"}]
_BODIES: dict[str, dict[str, Any]] = {
    RESPONSES: {"input": "Hello", "max_output_tokens": 4, "stream": True},
    MESSAGES: {"model": "demo", "messages": _USER, "max_tokens": 4, "stream": True},
}
_NAMED = pytest.mark.parametrize("path", [RESPONSES, MESSAGES])


@_NAMED
@pytest.mark.parametrize(("name", "end"), [("reset", "reset"), ("eof", "eof")])
async def test_cut_off_after_events(sim: Sim, path: str, name: str, end: str) -> None:
    answer = await faulty(sim, f"{name}@3", _BODIES[path], path)
    assert (answer.ended, len(answer.named)) == (end, 3)
    await sim.wait_for(lambda: sim.running == 0)


@_NAMED
async def test_no_terminal_event(sim: Sim, path: str) -> None:
    whole = await ask(sim, path, _BODIES[path])
    for fault in ("no-done", "truncate@4"):
        answer = await faulty(sim, fault, _BODIES[path], path)
        assert answer.ended == "complete"
        assert answer.named[-1][0] not in ("response.completed", "message_stop")
    assert whole.named[-1][0] in ("response.completed", "message_stop")


@_NAMED
async def test_error_events_in_the_surfaces_own_form(sim: Sim, path: str) -> None:
    for fault, events in (("error@3=500", 3), ("error-first=500", 0)):
        answer = await faulty(sim, fault, _BODIES[path], path)
        name, event = answer.named[-1]
        assert (answer.ended, len(answer.named), name) == ("complete", events + 1, "error")
        message = event["message"] if path == RESPONSES else event["error"]["message"]
        assert (event["type"], message) == ("error", "Internal server error")


@_NAMED
async def test_usage_of_zero_or_none(sim: Sim, path: str) -> None:
    def usage(events: list[tuple[str, Any]]) -> Any:
        if path == RESPONSES:
            return events[-1][1]["response"]["usage"]
        return events[-2][1].get("usage")

    zero = usage((await faulty(sim, "zero-usage", _BODIES[path], path)).named)
    assert (zero["input_tokens"], zero["output_tokens"]) == (0, 0)
    assert usage((await faulty(sim, "no-usage", _BODIES[path], path)).named) is None


@_NAMED
async def test_refusals_in_the_surfaces_own_form(sim: Sim, path: str) -> None:
    answer = await faulty(sim, "status=503", _BODIES[path], path)
    assert (answer.status, sim.started) == (503, 0)
    assert answer.json["error"]["type"] == "Service Unavailable"
    assert ("type" in answer.json) == (path == MESSAGES)


@_NAMED
async def test_framing_does_not_change_the_events(path: str) -> None:
    async with Sim(SimOptions(frozen_time=1.0)) as sim:
        headers = {"x-request-id": "abc"}
        clean = await ask(sim, path, _BODIES[path], headers=headers)
        for fault in ("rechunk=7", "chunk-ext", "trailers", "merge=3", "cut", "content-length"):
            wrong = {**headers, "x-sim-fault": fault}
            answer = await ask(sim, path, _BODIES[path], headers=wrong)
            assert (fault, answer.body) == (fault, clean.body)


@_NAMED
async def test_hanging_and_leaving(sim: Sim, path: str) -> None:
    async with connect(sim) as client:
        client.send(path, _BODIES[path], headers={"x-sim-fault": "hang@3"})
        await client.read_events(3)
        await sim.wait_for(lambda: sim.running == 1)
    await sim.wait_for(lambda: sim.aborted == 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "x"}),
        ("/pooling", {"input": "x"}),
        ("/score", {"text_1": "x", "text_2": "x"}),
        ("/v1/images/generations", {"prompt": "x"}),
        ("/v1/messages/count_tokens", {"model": "demo", "messages": _USER}),
    ],
)
async def test_whole_answers(sim: Sim, path: str, body: dict[str, Any]) -> None:
    assert (await faulty(sim, "reset@0", body, path)).ended == "reset"
    half = await faulty(sim, "eof@1", body, path)
    assert (half.ended, half.status) == ("eof", 200)
    assert 0 < len(half.body) < int(half.headers["content-length"])
    assert (await faulty(sim, "status=429", body, path)).status == 429


async def test_usage_of_vectors(sim: Sim) -> None:
    zero = await faulty(sim, "zero-usage", {"input": "x"}, "/v1/embeddings")
    assert zero.json["usage"]["prompt_tokens"] == 0
    none = await faulty(sim, "no-usage", {"input": "x"}, "/v1/embeddings")
    assert "usage" not in none.json


async def test_bytes_break_between_vectors(sim: Sim) -> None:
    body = {"input": ["a", "b", "c"], "encoding_format": "bytes_only"}
    answer = await faulty(sim, "eof@2", body, "/v1/embeddings")
    assert (answer.ended, len(answer.body)) == ("eof", 2 * 64 * 4)


async def test_start_flags_meet_every_path_that_runs_the_model() -> None:
    async with Sim(SimOptions(faults=("status=500",))) as sim:
        for path in sorted(INFERENCE_PATHS):
            assert (await ask(sim, path, {})).status == 500, path
        assert (await ask(sim, "/v1/models")).status == 200
    async with Sim(SimOptions(faults=("status=500,path=/v1/messages",))) as sim:
        assert (await ask(sim, MESSAGES, {})).status == 500
        assert (await ask(sim, CHAT, {})).status == 400

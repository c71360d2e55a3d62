"""Responses that are kept: read again, cancelled, continued, made in the background.

vLLM keeps them with VLLM_ENABLE_RESPONSES_API_STORE=1, in the memory of the one worker.
"""

import json
from typing import Any

import httpx
import pytest

from tests.conformance.answers import (
    OneOf,
    differences,
    named_stream,
    read_named_stream,
    wait_until,
)
from tests.conformance.bodies import RESPONSES, response
from tests.conformance.samples import total
from tests.conformance.targets import Target
from tests.conformance.test_responses import DELTA, RESPONSE_ID, like

LONG = 6000
RUNNING = "vllm:num_requests_running"
QUEUED = like(incomplete_details=None, output=[], status="queued", usage=None, background=True)


def create(target: Target, **fields: Any) -> dict[str, Any]:
    """Make a response, and return it."""
    answer = target.client.post(RESPONSES, json=response(**fields))
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def get(target: Target, response_id: str, **query: Any) -> httpx.Response:
    """Read a response again."""
    return target.client.get(f"{RESPONSES}/{response_id}", params=query)


def cancel(target: Target, response_id: str) -> httpx.Response:
    """Stop a response that is made in the background."""
    return target.client.post(f"{RESPONSES}/{response_id}/cancel")


def wait_until_ended(target: Target, response_id: str) -> dict[str, Any]:
    """Read a response again until it has ended."""
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(get(target, response_id).json())
        return found["status"] not in ("queued", "in_progress")

    wait_until(ended, f"{response_id} ends")
    return found


def assert_not_found(answer: httpx.Response) -> None:
    """It is a 404 in OpenAI's shape; the gateway's own where it knows no worker that has it."""
    assert answer.status_code == 404
    code = OneOf(404, "not_found")
    error = {"message": str, "type": "invalid_request_error", "param": str, "code": code}
    assert differences({"error": error}, answer.json()) == []


def test_id_of_the_clients_choice(target: Target) -> None:
    """A worker takes the client's `request_id` as the id; the gateway gives its own.

    Two clients could choose the same, and a response is read again from the worker that has it.
    """
    made = create(target, request_id="mine-1")
    assert differences(RESPONSE_ID if target.is_gateway else "mine-1", made["id"]) == []


def test_ids_differ(target: Target) -> None:
    """Each response has an id of its own."""
    ids = {create(target)["id"] for _ in range(3)}
    assert len(ids) == 3
    assert differences([RESPONSE_ID] * 3, list(ids)) == []


def test_whole_response_again(target: Target) -> None:
    """What is read again is what was made, byte for byte."""
    answer = target.client.post(RESPONSES, json=response())
    assert get(target, answer.json()["id"]).content == answer.content


def test_streamed_response_again(target: Target) -> None:
    """A stream can be read again whole, as its last event had it."""
    last = read_named_stream(target.client, RESPONSES, response()).events[-1]["response"]
    assert get(target, last["id"]).json() == last


def test_response_that_is_not_to_be_stored(target: Target) -> None:
    """`store: false` leaves nothing behind."""
    assert_not_found(get(target, create(target, store=False)["id"]))


@pytest.mark.parametrize("method", ["GET", "POST"], ids=["read", "cancel"])
def test_unknown_id(target: Target, method: str) -> None:
    """An id that nobody has is a 404."""
    path = f"{RESPONSES}/resp_nope" + ("/cancel" if method == "POST" else "")
    assert_not_found(target.client.request(method, path))


def test_conversation_goes_on(target: Target) -> None:
    """With `previous_response_id` the earlier turns are part of the prompt."""
    first = create(target)
    second = create(target, previous_response_id=first["id"], input="And now?")
    alone = create(target, input="And now?")
    assert second["previous_response_id"] == first["id"]
    used = second["usage"]["input_tokens"]
    assert used > alone["usage"]["input_tokens"] + first["usage"]["input_tokens"] - 10
    body = response(previous_response_id=second["id"])
    third = read_named_stream(target.client, RESPONSES, body).events[-1]["response"]
    assert third["usage"]["input_tokens"] > used


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_unknown_previous_response(target: Target, stream: bool) -> None:
    """A conversation that nobody has cannot go on, and no stream has begun."""
    body = response(previous_response_id="resp_nope", stream=stream)
    assert_not_found(target.client.post(RESPONSES, json=body))


def test_background(target: Target) -> None:
    """In the background a response is queued at once, and ready later."""
    made = create(target, background=True)
    assert differences(QUEUED, made) == []
    ended = wait_until_ended(target, made["id"])
    assert differences(like(background=True), ended) == []
    assert ended["id"] == made["id"]


def test_background_needs_the_store(target: Target) -> None:
    """What is not kept cannot be made in the background."""
    answer = target.client.post(RESPONSES, json=response(background=True, store=False))
    assert answer.status_code == 400
    error = {"message": str, "type": "BadRequestError", "param": "background", "code": 400}
    assert differences({"error": error}, answer.json()) == []


def test_cancel(target: Target) -> None:
    """A response that is being made is stopped, and the engine is free."""
    made = create(target, background=True, max_output_tokens=LONG)
    wait_until(lambda: total(target.worker_url, RUNNING) > 0, "the engine has begun")
    answer = cancel(target, made["id"])
    assert answer.status_code == 200
    cancelled = {**QUEUED, "status": "cancelled", "max_output_tokens": LONG, "id": made["id"]}
    assert differences(cancelled, answer.json()) == []
    wait_until(lambda: total(target.worker_url, RUNNING) == 0, "the engine is free")
    assert get(target, made["id"]).json()["status"] == "cancelled"


@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
def test_cancel_what_has_ended(target: Target, background: bool) -> None:
    """What has ended cannot be stopped any more."""
    made = create(target, background=background)
    wait_until_ended(target, made["id"])
    answer = cancel(target, made["id"])
    assert answer.status_code == 400
    error = {
        "message": "Cannot cancel a synchronous response.",
        "type": "invalid_request_error",
        "param": "response_id",
        "code": 400,
    }
    assert answer.json() == {"error": error}


def test_background_stream(target: Target) -> None:
    """A background stream has the events of any other, and can be read again from any event."""
    answer = target.client.post(RESPONSES, json=response(background=True, stream=True))
    stream = named_stream(answer)
    assert stream.names[-1] == "response.completed"
    response_id = stream.events[0]["response"]["id"]
    assert get(target, response_id, stream="true").content == stream.raw
    rest = named_stream(get(target, response_id, stream="true", starting_after=3))
    assert rest.events == stream.events[4:]
    assert differences(like(background=True), get(target, response_id).json()) == []


def test_leaving_a_background_stream(target: Target) -> None:
    """A client that leaves a background stream does not stop it; it can be read on."""
    whole = create(target, max_output_tokens=300)
    body = response(background=True, stream=True, max_output_tokens=300)
    with target.client.stream("POST", RESPONSES, json=body) as left:
        lines = left.iter_lines()
        assert next(lines) == "event: response.created"
        created = json.loads(next(lines).removeprefix("data: "))
        next(line for line in lines if line == f"event: {DELTA}")
    response_id = created["response"]["id"]
    ended = wait_until_ended(target, response_id)
    assert ended["usage"]["output_tokens"] == whole["usage"]["output_tokens"] > 30
    again = named_stream(get(target, response_id, stream="true"))
    assert again.names[-1] == "response.completed"

"""OpenAI's SDK and the Responses API, in front of two engines.

A worker keeps its responses in its own memory: whatever is asked of one has to reach that worker.
"""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseCompletedEvent, ResponseFunctionToolCall

from tests.conformance.answers import wait_until
from tests.conformance.bodies import WEATHER_ARGUMENTS, tool_response
from tests.conformance.samples import total
from tests.conformance.targets import Gateway
from tests.conformance.test_responses import NAMED
from tests.e2e.conftest import API_KEY, OTHER_API_KEY
from tests.support.engine import Engine

pytestmark = pytest.mark.vllm

ASKED: dict[str, Any] = {"model": "tiny", "input": "Hello", "temperature": 0}
MANY = 16
LONG = 6000
RUNNING = "vllm:num_requests_running"
GENERATED = "vllm:generation_tokens_total"


def used(response: Response) -> int:
    """The tokens of its prompt."""
    assert response.usage is not None
    return response.usage.input_tokens


def test_whole_response(client: openai.OpenAI) -> None:
    """A response has its text, its usage, and why it is not whole."""
    response = client.responses.create(**ASKED, max_output_tokens=8)
    assert response.output_text
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 8
    assert response.usage.total_tokens == response.usage.input_tokens + 8
    assert response._request_id


def test_stream_is_the_whole_response(client: openai.OpenAI) -> None:
    """The pieces of a stream make the text of the whole response."""
    whole = client.responses.create(**ASKED, max_output_tokens=40)
    with client.responses.create(**ASKED, max_output_tokens=40, stream=True) as stream:
        events = list(stream)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == text


def test_stream_helper(client: openai.OpenAI) -> None:
    """The SDK's own accumulator puts a streamed call together."""
    asked = tool_response(NAMED)
    asked["extra_body"] = {"logit_bias": asked.pop("logit_bias")}
    with client.responses.stream(**asked) as stream:
        for _ in stream:
            pass
        response = stream.get_final_response()
    [call] = response.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert json.loads(call.arguments) == WEATHER_ARGUMENTS


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_read_again_and_continued(
    async_client: openai.AsyncOpenAI, engines: tuple[Engine, Engine], stream: bool
) -> None:
    """Many responses, made side by side on both engines, are each found and continued."""
    before = [total(engine.url, GENERATED) for engine in engines]

    async def create(text: str, **fields: Any) -> Response:
        asked = {**ASKED, "input": text, "max_output_tokens": 8, **fields}
        if not stream:
            made = await async_client.responses.create(**asked)
            assert isinstance(made, Response)
            return made
        async with await async_client.responses.create(**asked, stream=True) as events:
            *_, last = [event async for event in events]
        assert isinstance(last, ResponseCompletedEvent)
        return last.response

    async def one(number: int) -> str:
        first = await create(f"Number {number}")
        again = await async_client.responses.retrieve(first.id)
        assert again.to_dict() == first.to_dict()
        second = await create("And then?", previous_response_id=first.id)
        third = await create("And then?", previous_response_id=second.id)
        assert used(first) < used(second) < used(third)
        return first.id

    ids = await asyncio.gather(*(one(number) for number in range(MANY)))
    assert len(set(ids)) == MANY
    after = [total(engine.url, GENERATED) for engine in engines]
    assert all(late > early for early, late in zip(before, after, strict=True))


async def test_background_and_cancelled(
    async_client: openai.AsyncOpenAI, engines: tuple[Engine, Engine]
) -> None:
    """What runs in the background is stopped, on whichever engine it runs."""

    async def one() -> Response:
        made = await async_client.responses.create(**ASKED, max_output_tokens=LONG, background=True)
        assert isinstance(made, Response)
        assert made.status == "queued"
        return made

    made = await asyncio.gather(*(one() for _ in range(MANY)))
    wait_until(
        lambda: all(total(engine.url, RUNNING) > 0 for engine in engines), "both engines have some"
    )
    cancelled = [await async_client.responses.cancel(each.id) for each in made]
    assert [(each.id, each.status) for each in cancelled] == [
        (each.id, "cancelled") for each in made
    ]
    wait_until(
        lambda: all(total(engine.url, RUNNING) == 0 for engine in engines), "nothing runs any more"
    )


def test_background_stream_read_on(client: openai.OpenAI) -> None:
    """A background stream that was left is read on from the event that was seen last."""
    asked = {**ASKED, "max_output_tokens": 40, "background": True}
    with client.responses.create(**asked, stream=True) as stream:
        created = next(stream)
        assert created.type == "response.created"
        seen = [created, *(next(stream) for _ in range(4))]
    response_id = created.response.id
    with client.responses.retrieve(
        response_id, stream=True, starting_after=seen[-1].sequence_number
    ) as rest:
        seen += list(rest)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"


def test_unknown_response_is_not_found(client: openai.OpenAI) -> None:
    """A response that nobody has raises `NotFoundError`, whatever is asked of it."""
    for ask in (client.responses.retrieve, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            ask("resp_nope")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(**ASKED, previous_response_id="resp_nope")


def test_response_of_another_key_is_not_found(guarded_gateway: Gateway) -> None:
    """A response is for the key that made it: for another it is not there."""
    base_url = f"{guarded_gateway.url}/v1"
    with (
        openai.OpenAI(base_url=base_url, api_key=API_KEY) as owner,
        openai.OpenAI(base_url=base_url, api_key=OTHER_API_KEY) as other,
    ):
        made = owner.responses.create(**ASKED, max_output_tokens=LONG, background=True)
        with pytest.raises(openai.NotFoundError):
            other.responses.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            other.responses.cancel(made.id)
        with pytest.raises(openai.NotFoundError):
            other.responses.create(**ASKED, previous_response_id=made.id)
        assert owner.responses.retrieve(made.id).status == "queued"
        assert owner.responses.cancel(made.id).status == "cancelled"


def test_late_refusal_harms_no_engine(client: openai.OpenAI) -> None:
    """A stream that vLLM breaks off, to refuse it late, is one error; the engines serve on.

    To the gateway it looks as if a worker had died. It asks one other, and then no more; nor does
    the SDK ask again.
    """
    bias = {"logit_bias": {"999999999": 1}}
    for _ in range(6):
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.create(**ASKED, stream=True, extra_body=bias)
        assert caught.value.status_code == 502
        assert caught.value.code == "worker_failed"
        assert client.responses.create(**ASKED, max_output_tokens=1).output_text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_errors(client: openai.OpenAI, stream: bool) -> None:
    """Errors of the gateway, and of the engine, raise what they are, with a request id."""
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="nope", input="Hello", stream=stream)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="temperature must be non-negative") as refused:
        client.responses.create(model="tiny", input="Hello", temperature=-1, stream=stream)
    assert unknown.value.request_id
    assert refused.value.request_id

"""What the gateway itself refuses, on every surface and in the surface's own words; nothing of it
reaches a worker."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.integration.test_surfaces_faults import TWO_MODELS, check_is_error, check_is_good
from tests.support.gateway import SinkName, run_gateway, until
from tests.support.raw import CLIENT_KEY, ask, dial
from tests.support.scripted import scripted
from tests.support.surfaces import CASES, FORMS, Case

KEYS: dict[str, Any] = {"api_keys": CLIENT_KEY}
OWNER = hashlib.sha256(CLIENT_KEY.encode()).digest()
ROWS = tuple({case.surface: case for case in CASES}.values())
NAMING = tuple(case for case in CASES if not case.pinned)


@pytest.fixture(params=ROWS, ids=lambda case: case.path)
def case(request: pytest.FixtureRequest) -> Case:
    """One case of each row: what is refused is refused before an answer has a form."""
    each: Case = request.param
    return each


@pytest.mark.parametrize("case", NAMING, ids=lambda case: case.name)
async def test_unknown_model_is_not_found(case: Case, sink: SinkName) -> None:
    """404, with the field at fault where the shape has a place for it."""
    body = case.body.replace(b'"demo"', b'"nope"').replace(b"\r\n\r\ndemo\r\n", b"\r\n\r\nnope\r\n")
    assert body != case.body
    async with (
        scripted(case.good, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        answer = await ask(gateway.port, case.request().replace(case.body, body))
        check_is_error(answer, case, 404, "model_not_found", "not_found_error")
        if not case.anthropic:
            assert answer.error["param"] == "model"
            assert answer.error["type"] == "invalid_request_error"
        assert answer.header("x-should-retry") == "false"
        assert worker.seen == []
        await gateway.told("invalid")


@pytest.mark.parametrize("case", FORMS, ids=lambda case: case.name)
async def test_a_form_without_a_model_is_told_so(case: Case, sink: SinkName) -> None:
    """Where there are several models; the file whose name is `model` is not the field."""
    model = b'--XBOUNDARYX\r\nContent-Disposition: form-data; name="model"\r\n\r\ndemo\r\n'
    body = case.body.replace(model, b"")
    request = case.request().replace(case.body, body)
    request = request.replace(
        b"Content-Length: %d" % len(case.body), b"Content-Length: %d" % len(body)
    )
    async with (
        scripted(case.good, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink) as gateway,
    ):
        answer = await ask(gateway.port, request)
        check_is_error(answer, case, 400, "invalid_value", "invalid_request_error")
        assert answer.error["param"] == "model"
        assert worker.seen == []
        await gateway.told("invalid")


@pytest.mark.parametrize("case", FORMS, ids=lambda case: case.name)
async def test_a_form_with_two_models_is_refused_however_it_comes(
    case: Case, sink: SinkName
) -> None:
    """In one read it is refused; it must not matter where it was cut."""
    second = b'--XBOUNDARYX\r\nContent-Disposition: form-data; name="model"\r\n\r\nother\r\n'
    body = case.body.replace(b"--XBOUNDARYX--\r\n", second + b"--XBOUNDARYX--\r\n")
    head = case.request().removesuffix(case.body)
    head = head.replace(b"%d" % len(case.body), b"%d" % len(body))
    async with (
        scripted(case.good, models=TWO_MODELS) as worker,
        run_gateway(worker.url, sink=sink, discovery_interval="1h") as gateway,
        dial(gateway.port) as client,
    ):
        await until(lambda: worker.open == 0)
        await client.send(head + body[: -len(second)])
        await until(lambda: worker.open == 1)
        await client.send(body[-len(second) :])
        assert (await client.answer()).status == 400


@pytest.mark.parametrize(
    "header",
    [
        "X-Nothing: here",
        "Authorization: Bearer wrong",
        "Authorization: Bearer ",
        f"Authorization: Basic {CLIENT_KEY}",
        "x-api-key: wrong",
        f"api-key: {CLIENT_KEY}",
    ],
)
async def test_without_its_key_nobody_is_served(header: str, sink: SinkName) -> None:
    """401 on every surface, in its own shape."""
    async with scripted(CASES[0].good) as worker, run_gateway(worker.url, sink=sink, **KEYS) as gw:
        for case in ROWS:
            answer = await ask(gw.port, case.request(worker.url, header, owner=OWNER))
            check_is_error(answer, case, 401, "invalid_api_key", "authentication_error")
            assert answer.header("www-authenticate") == "Bearer"
        assert worker.seen == []
        await gw.told(*["unauthorized"] * len(ROWS))


@pytest.mark.parametrize(
    "header", [f"Authorization: Bearer {CLIENT_KEY}", f"x-api-key: {CLIENT_KEY}"]
)
async def test_either_sdks_header_is_taken(case: Case, header: str, sink: SinkName) -> None:
    """OpenAI's or Anthropic's, on every surface; and neither goes up."""
    async with scripted(case.good) as worker, run_gateway(worker.url, sink=sink, **KEYS) as gateway:
        request = case.request(worker.url, header, owner=OWNER)
        check_is_good(await ask(gateway.port, request, most_head_bytes=2**20), case)
        assert CLIENT_KEY not in str(worker.seen)
        await gateway.told("ok")


async def test_another_method_is_refused(case: Case, sink: SinkName) -> None:
    """405, and which one it takes."""
    own = case.surface.method
    others = [each for each in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS") if each != own]
    async with scripted(case.good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        for method in others:
            target = case.target(worker.url)
            answer = await ask(gateway.port, case.sent_to(target, method=method))
            check_is_error(answer, case, 405, "method_not_allowed", "invalid_request_error")
            assert answer.header("allow") == own
        assert worker.seen == []
        await gateway.told(*["invalid"] * len(others))


async def test_a_compressed_body_is_refused(case: Case, sink: SinkName) -> None:
    """415: it could not be read."""
    async with scripted(case.good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        answer = await ask(gateway.port, case.request(worker.url, "Content-Encoding: gzip"))
        check_is_error(answer, case, 415, "unsupported_content_encoding", "invalid_request_error")
        assert worker.seen == []
        await gateway.told("invalid")


async def test_without_a_worker_the_client_is_told_to_come_back(case: Case, sink: SinkName) -> None:
    """503 with `Retry-After`: the model is known, its worker away; a response is where it was."""
    async with scripted(case.good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        worker.kill()
        await until(lambda: not gateway.gateway.registry.ready)
        answer = await ask(gateway.port, case.request(worker.url))
        check_is_error(answer, case, 503, "no_worker_available", "overloaded_error")
        assert answer.header("retry-after") == "2"
        assert answer.header("x-should-retry") == "true"
        await gateway.told("unavailable", standing=False)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"demo"', b'{"model":7}', b"{}"])
async def test_a_body_that_cannot_be_read_is_refused(body: bytes, sink: SinkName) -> None:
    """400 on every surface that reads JSON, in its own shape."""
    read = [case for case in ROWS if case.body.startswith(b"{")]
    async with scripted(CASES[0].good) as worker, run_gateway(worker.url, sink=sink) as gateway:
        for case in read:
            request = case.request().removesuffix(case.body) + body
            request = request.replace(
                b"Content-Length: %d" % len(case.body), b"Content-Length: %d" % len(body)
            )
            answer = await ask(gateway.port, request)
            assert answer.status == 400
            told = json.loads(answer.body)
            assert set(told) == ({"type", "error"} if case.anthropic else {"error"})
            if case.anthropic:
                assert told["error"]["type"] == "invalid_request_error"
        assert worker.seen == []
        await gateway.told(*["invalid"] * len(read))

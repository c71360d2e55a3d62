"""Plain HTTP clients against the gateway: curl and httpx."""

import json
import subprocess
from typing import Any

import httpx
import pytest

from tests.conformance.answers import read_stream
from tests.conformance.bodies import CHAT, chat
from tests.conformance.targets import Gateway

pytestmark = pytest.mark.vllm


def curl(url: str, *arguments: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """Run curl; return the status and the body. Raises where curl itself fails."""
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--write-out", "\n%{http_code}"]
    if body is not None:
        command += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
    done = subprocess.run(
        [*command, *arguments, url], capture_output=True, check=True, text=True, timeout=60
    )
    text, _, status = done.stdout.rpartition("\n")
    return int(status), text


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_curl_streams(gateway: Gateway, version: str) -> None:
    """curl reads a stream to its clean end, in old HTTP too."""
    status, text = curl(f"{gateway.url}{CHAT}", version, body=chat(stream=True))
    assert status == 200
    assert text.endswith("data: [DONE]\n\n")
    last = text.split("\n\n")[-3].removeprefix("data: ")
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"


def test_curl_reads_a_whole_answer(gateway: Gateway) -> None:
    """curl reads a whole answer."""
    status, text = curl(f"{gateway.url}{CHAT}", body=chat())
    assert status == 200
    assert json.loads(text)["usage"]["completion_tokens"] == 4


def test_curl_reads_an_error(gateway: Gateway) -> None:
    """curl reads an error."""
    status, text = curl(f"{gateway.url}{CHAT}", body=chat(model="nope"))
    assert status == 404
    assert json.loads(text)["error"]["code"] == "model_not_found"


def test_curl_sends_a_large_body(gateway: Gateway) -> None:
    """curl asks before it sends a large body (`Expect: 100-continue`), and is told to go on."""
    body = chat(padding="x" * 2_000_000)
    command = ["curl", "--silent", "--show-error", "--header", "Content-Type: application/json"]
    command += ["--header", "Expect: 100-continue", "--data-binary", "@-", f"{gateway.url}{CHAT}"]
    done = subprocess.run(
        command, input=json.dumps(body), capture_output=True, check=True, text=True, timeout=60
    )
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 4


def test_httpx_streams(gateway: Gateway) -> None:
    """httpx gets the same text twice over one connection, in as many events as it may be."""
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        streams = [read_stream(client, CHAT, chat(max_tokens=30)) for _ in range(2)]
    assert streams[0].text() == streams[1].text()
    assert [stream.finish_reasons() for stream in streams] == [["length"]] * 2


async def test_httpx_async_streams(gateway: Gateway) -> None:
    """Lines reach an asynchronous client one by one, up to the end."""
    body = chat(max_tokens=30, stream=True)
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=60) as client,
        client.stream("POST", CHAT, json=body) as answer,
    ):
        lines = [line async for line in answer.aiter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"

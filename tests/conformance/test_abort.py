"""A client that leaves frees the engine.

vLLM does not count these requests: `vllm:request_success_total{finished_reason="abort"}` stays as
it is when a client leaves. What shows the abort is that nothing runs any more, and that far fewer
tokens were generated than had been asked for.
"""

import json
import socket
import struct
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.conformance.answers import wait_until
from tests.conformance.bodies import (
    CHAT,
    MESSAGES,
    PATHS_AND_BODIES,
    RESPONSES,
    chat,
    message,
    response,
)
from tests.conformance.samples import total
from tests.conformance.targets import Target

# So many that they would take much longer than an abort, also on a busy machine.
TOKENS = 15_000
CHOICES = 4
GENERATED = "vllm:generation_tokens_total"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
Body = Callable[..., dict[str, Any]]


def send(url: str, path: str, body: dict[str, Any]) -> socket.socket:
    """Send a request and return its connection, with nothing of the answer read."""
    content = json.dumps(body).encode()
    where = httpx.URL(url)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {where.host}:{where.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection((where.host, where.port or 80), timeout=20)
    connection.sendall(head.encode() + content)
    return connection


def shut_down(connection: socket.socket) -> None:
    """Leave in an orderly way."""
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def reset(connection: socket.socket) -> None:
    """Leave with a reset, as a program does that is killed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize(("path", "body"), PATHS_AND_BODIES, ids=["chat", "completions"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("leave", [shut_down, reset])
def test_leaving_while_tokens_come(
    target: Target, path: str, body: Body, stream: bool, leave: Callable[[socket.socket], None]
) -> None:
    """When the client leaves, however it does, the engine stops long before the end."""
    url = target.worker_url
    before = total(url, GENERATED)
    asked = body(max_tokens=TOKENS, n=CHOICES, temperature=1, stream=stream)
    with send(target.url, path, asked) as connection:
        wait_until(lambda: total(url, GENERATED) > before, "the engine generates")
        leave(connection)
    wait_until(lambda: total(url, RUNNING) == 0, "nothing runs any more")
    assert total(url, WAITING) == 0
    assert total(url, GENERATED) < before + TOKENS * CHOICES


@pytest.mark.parametrize(
    ("path", "body"),
    [(RESPONSES, response(max_output_tokens=TOKENS)), (MESSAGES, message(max_tokens=TOKENS))],
    ids=["responses", "messages"],
)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_leaving_other_surfaces(
    target: Target, path: str, body: dict[str, Any], stream: bool
) -> None:
    """It is the same for responses and messages."""
    url = target.worker_url
    before = total(url, GENERATED)
    with send(target.url, path, {**body, "stream": stream}):
        wait_until(lambda: total(url, GENERATED) > before, "the engine generates")
    wait_until(lambda: total(url, RUNNING) == 0, "nothing runs any more")
    assert total(url, GENERATED) < before + TOKENS


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_leaving_after_a_large_body(target: Target, stream: bool) -> None:
    """A body so large that it comes in many reads does not hide that the client has left."""
    url = target.worker_url
    before = total(url, GENERATED)
    body = chat(max_tokens=TOKENS, stream=stream, padding="x" * 2_000_000)
    with send(target.url, CHAT, body) as connection:
        wait_until(lambda: total(url, GENERATED) > before, "the engine generates")
        shut_down(connection)
    wait_until(lambda: total(url, RUNNING) == 0, "nothing runs any more")
    assert total(url, GENERATED) < before + TOKENS


def test_one_of_two_leaves(target: Target) -> None:
    """The client that leaves takes nobody else's stream with it."""
    url = target.worker_url
    path, body = PATHS_AND_BODIES[0]
    stays_body = body(max_tokens=TOKENS // 30, stream=True)
    with target.client.stream("POST", path, json=stays_body) as stays:
        lines = stays.iter_lines()
        next(lines)
        with send(target.url, path, body(max_tokens=TOKENS, stream=True)) as leaves:
            leaves.recv(1)
        rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""]
    wait_until(lambda: total(url, RUNNING) == 0, "nothing runs any more")

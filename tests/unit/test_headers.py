"""Which headers pass, up and down."""

from __future__ import annotations

import pytest

from gateway.relay.headers import (
    HOP_BY_HOP,
    downstream_headers,
    find,
    upstream_head,
    upstream_headers,
    worker_head_lines,
)
from gateway.terms import Worker

Headers = list[tuple[bytes, bytes]]


def up(*headers: tuple[bytes, bytes], scheduling: bool = False) -> bytes:
    return upstream_headers(headers, scheduling=scheduling)


def down(*headers: tuple[bytes, bytes], stream: bool = False) -> Headers:
    return downstream_headers(list(headers), "r-1", stream=stream)


def test_what_the_client_sends_goes_up_in_its_order() -> None:
    """Known or not, twice or once."""
    assert up((b"b", b"2"), (b"a", b"1"), (b"b", b"3")) == b"b: 2\r\na: 1\r\nb: 3\r\n"


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_headers_do_not_pass(name: bytes) -> None:
    """RFC 9110, 7.6.1, up and down."""
    assert up((name, b"x"), (b"a", b"1")) == b"a: 1\r\n"
    assert down((name, b"x"), (b"a", b"1")) == [(b"a", b"1"), (b"x-request-id", b"r-1")]


@pytest.mark.parametrize(
    "name",
    [
        b"host", b"content-length", b"authorization", b"api-key", b"x-api-key", b"accept-encoding",
        b"expect", b"x-request-id",
    ],
)  # fmt: skip
def test_what_the_gateway_says_itself_does_not_go_up(name: bytes) -> None:
    """Above all the client's key, which the worker must not see."""
    assert up((name, b"x"), (b"a", b"1")) == b"a: 1\r\n"


@pytest.mark.parametrize(
    "connection",
    [
        [(b"connection", b"x-one, x-two")],
        [(b"connection", b"X-One ,\tX-TWO, close")],
        [(b"connection", b"x-one"), (b"connection", b"x-two")],
        [(b"connection", b"keep-alive, x-one"), (b"a", b"1"), (b"connection", b"x-two")],
    ],
)
def test_headers_that_connection_names_do_not_pass(connection: Headers) -> None:
    """In one line or several, before it or after it, in any case."""
    named = [(b"x-one", b"1"), *connection, (b"x-two", b"2"), (b"x-three", b"3")]
    assert b"x-one" not in up(*named)
    assert b"x-two" not in up(*named)
    assert up(*named).endswith(b"x-three: 3\r\n")
    names = [name for name, _ in down(*named)]
    assert b"x-one" not in names
    assert b"x-two" not in names
    assert b"x-three" in names


def test_connection_close_names_no_header() -> None:
    """`close` and `keep-alive` are options, not names."""
    assert up((b"connection", b"close"), (b"close", b"1")) == b"close: 1\r\n"


@pytest.mark.parametrize("name", [b"x-data-parallel-rank", b"x-vllm-priority"])
def test_what_schedules_goes_up_only_where_it_is_allowed(name: bytes) -> None:
    """It is the gateway's to say, unless a setting lets clients."""
    assert up((name, b"1")) == b""
    assert up((name, b"1"), scheduling=True) == name + b": 1\r\n"


def test_a_whole_head() -> None:
    """Request line, the worker's lines, the client's, and the gateway's own."""
    worker = Worker("http://a:1/x", "a", 1, b"/x", worker_head_lines("a", 1, "k"))
    head = upstream_head(b"POST", b"/v1/completions?q=1", worker, b"b: 2\r\n", "r-1", 9)
    assert head == (
        b"POST /x/v1/completions?q=1 HTTP/1.1\r\n"
        b"host: a:1\r\nauthorization: Bearer k\r\nb: 2\r\n"
        b"accept-encoding: identity\r\nx-request-id: r-1\r\ncontent-length: 9\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("host", "key", "lines"),
    [
        ("a", None, b"host: a:80\r\n"),
        ("::1", None, b"host: [::1]:80\r\n"),
        ("a", "k", b"host: a:80\r\nauthorization: Bearer k\r\n"),
    ],
)
def test_a_workers_own_lines(host: str, key: str | None, lines: bytes) -> None:
    """An IPv6 address in brackets; the key only where there is one."""
    assert worker_head_lines(host, 80, key) == lines


def test_a_stream_is_kept_from_caches_and_from_buffering_proxies() -> None:
    """Said once, whatever the worker says."""
    sent = down(
        (b"cache-control", b"public"),
        (b"content-length", b"9"),
        (b"content-type", b"text/event-stream"),
        (b"x-accel-buffering", b"yes"),
        stream=True,
    )
    assert sent == [
        (b"content-type", b"text/event-stream"),
        (b"x-request-id", b"r-1"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ]


def test_the_request_id_is_the_gateways() -> None:
    """The worker's echo of it would make two."""
    assert down((b"x-request-id", b"theirs")) == [(b"x-request-id", b"r-1")]


def test_downstream_headers_leave_the_workers_list_alone() -> None:
    """A retry, or the record, may still want it."""
    given = [(b"connection", b"a"), (b"a", b"1")]
    downstream_headers(given, "r-1", stream=True)
    assert given == [(b"connection", b"a"), (b"a", b"1")]


def test_find_gives_the_first_value_or_nothing() -> None:
    """Names are in lower case already."""
    headers = [(b"a", b"1"), (b"a", b"2")]
    assert (find(headers, b"a"), find(headers, b"b")) == (b"1", b"")

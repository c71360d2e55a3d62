"""Which headers pass, and which are the gateway's own to say. Pure.

Hop-by-hop: RFC 9110, 7.6.1. Names are in lower case, as bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.terms import Worker

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
SCHEDULING = frozenset({b"x-data-parallel-rank", b"x-vllm-priority"})
# Said anew on the way up: the worker's own key and authority, our body, and no compression, since
# compressed events could be neither counted nor passed on at once.
_NOT_UP = HOP_BY_HOP | {
    b"accept-encoding",
    b"authorization",
    b"api-key",
    b"x-api-key",
    b"content-length",
    b"expect",
    b"host",
    b"x-request-id",
}
_NOT_UP_UNSCHEDULED = _NOT_UP | SCHEDULING
_NOT_DOWN = HOP_BY_HOP | {b"content-length", b"x-request-id"}
_NOT_DOWN_STREAM = _NOT_DOWN | {b"cache-control", b"x-accel-buffering"}
_STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def upstream_headers(headers: Iterable[tuple[bytes, bytes]], *, scheduling: bool) -> bytes:
    """The client's headers that go to any worker, as bytes of a request head."""
    barred = _NOT_UP if scheduling else _NOT_UP_UNSCHEDULED
    named: frozenset[bytes] = frozenset()
    passed = []
    for header in headers:
        if header[0] not in barred:
            passed.append(header)
        elif header[0] == b"connection":
            named |= _named_by_connection(header[1])
    if named:
        passed = [header for header in passed if header[0] not in named]
    return b"".join([b"%b: %b\r\n" % header for header in passed])


def upstream_head(
    method: bytes,
    target: bytes,
    worker: Worker,
    passed: bytes,
    request_id: str,
    length: int | None,
) -> bytes:
    """A whole request head for one worker. `passed` comes from `upstream_headers`; without a
    `length` the body follows in chunks."""
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return (
        b"%b %b%b HTTP/1.1\r\n%b%baccept-encoding: identity\r\nx-request-id: %b\r\n%b\r\n\r\n"
    ) % (
        method,
        worker.path_prefix,
        target,
        worker.head_lines,
        passed,
        request_id.encode(),
        framing,
    )


def worker_head_lines(host: str, port: int, key: str | None) -> bytes:
    """`Host` (RFC 9112, 3.2) and `Authorization` of every request to one worker."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = b"host: %b\r\n" % authority.encode()
    return lines + b"authorization: Bearer %b\r\n" % key.encode() if key else lines


def downstream_headers(headers: Headers, request_id: str, *, stream: bool) -> Headers:
    """A worker's headers for the client, and what the gateway adds."""
    barred = _NOT_DOWN_STREAM if stream else _NOT_DOWN
    for name, value in headers:
        if name == b"connection":
            barred |= _named_by_connection(value)
    down = [header for header in headers if header[0] not in barred]
    down.append((b"x-request-id", request_id.encode()))
    if stream:
        down += _STREAM_HEADERS
    return down


def find(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first value of a header, or nothing."""
    for other, value in headers:
        if other == name:
            return value
    return b""


def content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """The announced length of a body, or None. One of too many digits is just enormous."""
    value = find(headers, b"content-length")
    if not value.isdigit():
        return None
    digits = value.lstrip(b"0")
    return int(digits or b"0") if len(digits) < 19 else 10**18


def _named_by_connection(value: bytes) -> frozenset[bytes]:
    tokens = frozenset(token.strip().lower() for token in value.split(b","))
    return tokens - {b"close", b"keep-alive"}

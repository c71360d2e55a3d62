"""A client of raw bytes, for what an HTTP library hides: framing, closes, resets, odd requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

PROMPT = "prompt-that-is-nobodys-business"
CLIENT_KEY = "sk-client-secret"
WORKER_KEY = "sk-worker-secret"
_PATIENCE_S = 15.0


def chat_body(*, stream: bool = True, **more: object) -> bytes:
    """The body of a chat request, whose prompt must never be logged."""
    body = {"model": "demo", "messages": [{"role": "user", "content": PROMPT}], **more}
    if stream:
        body["stream"] = True
    return json.dumps(body).encode()


def post(
    body: bytes, *headers: str, path: str = "/v1/chat/completions", version: str = "1.1"
) -> bytes:
    """A whole POST request."""
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: gateway",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def post_chunked(chunks: Iterable[bytes], *headers: str, trailers: str = "") -> bytes:
    """A whole chunked POST request."""
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: gateway",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        *headers,
    ]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return "\r\n".join([*lines, "", ""]).encode() + framed + f"0\r\n{trailers}\r\n".encode()


@dataclass
class RawAnswer:
    """One answer as it stood on the wire, without chunk framing."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    whole: bool = False
    """It ended as its own framing says: last chunk, length, or (where there is neither) close."""
    informational: list[int] = field(default_factory=list)
    """Statuses of 1xx heads before it."""

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def names(self) -> set[str]:
        """Names of all headers, in lower case."""
        return {name for name, _ in self.headers}

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a body in OpenAI's shape, or of the last event of a stream."""
        text = self.body
        if self.header("content-type") != "application/json":
            text = text.rstrip().rpartition(b"data: ")[2]
        error: dict[str, Any] = json.loads(text)["error"]
        return error


class RawClient:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> None:
        """Each part in a write of its own, with a turn of the loop between."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def head(self) -> RawAnswer:
        """The head of the next answer. IncompleteReadError where the connection ends before."""
        informational = []
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                text = await self.reader.readuntil(b"\r\n\r\n")
                line, *lines = text.decode("latin-1").split("\r\n")[:-2]
                assert line.startswith("HTTP/1.1 "), line
                status = int(line.split(" ")[1])
                if status >= 200:
                    break
                informational.append(status)
        pairs = [line.partition(":") for line in lines]
        headers = [(name.lower(), value.strip()) for name, _, value in pairs]
        return RawAnswer(status, headers, informational=informational)

    async def events(self, answer: RawAnswer, size: int) -> bytes:
        """Read at least `size` body bytes of a chunked answer."""
        async with asyncio.timeout(_PATIENCE_S):
            while len(answer.body) < size:
                answer.body += await self._chunk()
        return answer.body

    async def rest(self, answer: RawAnswer) -> RawAnswer:
        """The body, up to its end or the connection's."""
        parts = [answer.body]
        try:
            async with asyncio.timeout(_PATIENCE_S):
                length = answer.header("content-length")
                if answer.header("transfer-encoding") == "chunked":
                    while data := await self._chunk():
                        parts.append(data)
                    answer.whole = True
                elif length is not None:
                    missing = int(length) - len(answer.body)
                    while missing and (data := await self.reader.read(missing)):
                        parts.append(data)
                        missing -= len(data)
                    answer.whole = missing == 0
                else:
                    while data := await self.reader.read(2**16):
                        parts.append(data)
                    answer.whole = True
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            answer.body = b"".join(parts)
        return answer

    async def answer(self) -> RawAnswer:
        """The next answer, up to its end or the connection's."""
        return await self.rest(await self.head())

    async def closed(self) -> bytes:
        """Wait until the gateway closes; what came before that."""
        found = bytearray()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(_PATIENCE_S):
                while data := await self.reader.read(65536):
                    found += data
        return bytes(found)

    def widen(self) -> None:
        """Take what comes quickly again, after a small `receive_buffer`."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)

    def close(self) -> None:
        """Leave with FIN."""
        self.writer.close()

    def half_close(self) -> None:
        """Say no more, but go on listening."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Leave with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def _chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data


@contextlib.asynccontextmanager
async def dial(
    port: int, *, receive_buffer: int | None = None, most_head_bytes: int = 2**16
) -> AsyncIterator[RawClient]:
    """One connection to a port of this machine; closed at the end of the block."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=most_head_bytes)
    except OSError:
        sock.close()
        raise
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()


async def ask(port: int, request: bytes, *, most_head_bytes: int = 2**16) -> RawAnswer:
    """One request on a connection of its own."""
    async with dial(port, most_head_bytes=most_head_bytes) as client:
        await client.send(request)
        return await client.answer()

"""A worker of raw bytes on a real socket: each request is answered by a script.

The fake lives at the byte boundary, so that a test can say exactly which bytes arrive together,
where they are cut, and how the connection ends. What a real worker sends is held to the real
thing by the conformance suite; this one sends what real ones must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

MODELS = json.dumps(
    {"object": "list", "data": [{"id": "demo", "object": "model", "owned_by": "scripted"}]}
).encode()


@dataclass
class Seen:
    """One request as it arrived."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)


class Exchange:
    """One request and the hands to answer it, byte by byte."""

    def __init__(
        self, request: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.request = request
        self.reader = reader
        self._writer = writer

    @property
    def port(self) -> int:
        """The port of the worker that was asked."""
        return int(self._writer.get_extra_info("sockname")[1])

    async def send(self, *parts: bytes) -> None:
        """Each part in a write of its own, with a turn of the loop between."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def head(self, status: int = 200, content_type: str = "text/event-stream") -> None:
        """A chunked head."""
        await self.send(
            f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n"
            "transfer-encoding: chunked\r\n\r\n".encode()
        )

    async def chunks(self, *parts: bytes) -> None:
        """Each part as a chunk of its own."""
        for part in parts:
            await self.send(b"%x\r\n%b\r\n" % (len(part), part))

    async def last_chunk(self) -> None:
        """The end of a chunked body."""
        await self.send(b"0\r\n\r\n")

    async def stream(self, *events: bytes) -> None:
        """A whole event stream, an event a chunk."""
        await self.head()
        await self.chunks(*events)
        await self.last_chunk()

    async def whole(self, status: int, body: bytes, *headers: str) -> None:
        """A whole JSON answer."""
        lines = [
            f"HTTP/1.1 {status} X",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *headers,
        ]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def reset(self) -> None:
        """End the connection with RST."""
        _reset(self._writer)

    def close(self) -> None:
        """End the connection with FIN."""
        self._writer.close()

    async def gone(self) -> None:
        """Wait until the gateway has closed its side."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = Callable[[Exchange], Awaitable[None]]


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def in_turn(*scripts: Script) -> Script:
    """One script for several workers: the first request to any of them runs the first of
    `scripts`, the next the second, and so on; the last one stays."""
    left = list(scripts)

    async def script(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return script


@dataclass
class ScriptedWorker:
    """A worker that serves `demo` and answers each request by `script`."""

    script: Script
    models: bytes = MODELS
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    left: int = 0
    """Connections that the gateway closed while a script was still running."""
    failures: list[BaseException] = field(default_factory=list)
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    on_request: Callable[[], None] | None = None
    """Called when a request has come, before it is answered."""

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    def stop_listening(self) -> None:
        """Refuse new connections; those there are stay."""
        assert self.server is not None
        self.server.close()

    def kill(self) -> None:
        """Be gone as a killed process is: nobody listens, every connection is reset."""
        self.stop_listening()
        for writer in list(self.writers):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.writers.add(writer)
        try:
            while (request := await read_request(reader)) is not None:
                exchange = Exchange(request, reader, writer)
                if request.line == "GET /v1/models HTTP/1.1":
                    await exchange.whole(200, self.models)
                    continue
                self.seen.append(request)
                if self.on_request is not None:
                    self.on_request()
                await self.script(exchange)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left += 1
        except asyncio.CancelledError:
            pass
        except BaseException as failure:
            self.failures.append(failure)
            raise
        finally:
            self.open -= 1
            self.writers.discard(writer)
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> Seen | None:
    """One request, its body without chunk framing; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as cut:
        if cut.partial:
            raise
        return None
    line, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = [
        (name.lower(), value.strip()) for name, _, value in (x.partition(":") for x in lines)
    ]
    if ("transfer-encoding", "chunked") in headers:
        return Seen(line, headers, await _read_chunks(reader))
    length = next((int(value) for name, value in headers if name == "content-length"), 0)
    return Seen(line, headers, await reader.readexactly(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


@contextlib.asynccontextmanager
async def scripted(
    script: Script, *, port: int = 0, models: bytes = MODELS
) -> AsyncIterator[ScriptedWorker]:
    """Run a scripted worker for as long as the block lasts."""
    worker = ScriptedWorker(script, models)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(worker._serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port, limit=2**24)
    worker.server = server
    worker.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield worker
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert not worker.failures, worker.failures


def chat_event(content: str | None = None, **delta: object) -> bytes:
    """One chat event in vLLM's form."""
    if content is not None:
        delta["content"] = content
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "demo",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
    }
    return (
        b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
    )


ROLE = chat_event("", role="assistant")
DONE = b"data: [DONE]\n\n"


def usage_event(prompt: int = 5, completion: int = 3) -> bytes:
    """The usage event, as vLLM sends it last."""
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "demo",
        "choices": [],
        "usage": {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
        },
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def error_event(code: int, message: str = "refused") -> bytes:
    """An error event in vLLM's form."""
    error = {"message": message, "type": "BadRequestError", "param": None, "code": code}
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def answer_of(*words: str) -> tuple[bytes, ...]:
    """A whole chat stream that says `words`."""
    return (ROLE, *(chat_event(word) for word in words), usage_event(5, len(words)), DONE)


WHOLE = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"demo","choices":[{'
    b'"index":0,"message":{"role":"assistant","content":"one two"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":5,"total_tokens":8,"completion_tokens":3}}'
)


async def good(exchange: Exchange) -> None:
    """Answers as it should, streamed or whole as the request asks."""
    if b'"stream":true' in exchange.request.body.replace(b" ", b""):
        await exchange.stream(*answer_of("one", " two", "!"))
    else:
        await exchange.whole(200, WHOLE)


def good_body(*, stream: bool) -> bytes:
    """What a client that did not ask for usage receives of `good`."""
    if not stream:
        return WHOLE
    return b"".join([*answer_of("one", " two", "!")[:-2], DONE])


@contextlib.contextmanager
def deaf(port: int) -> Iterator[None]:
    """A port that takes no connection and refuses none: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield

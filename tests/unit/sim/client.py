"""A plain client for tests: sends bytes, keeps every byte and how the connection ended."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httptools

from gateway.sim import Sim

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
USER = [{"role": "user", "content": "Tell me about the sea."}]
TIMEOUT_S = 10.0


def chat(**more: Any) -> dict[str, Any]:
    """A body for chat/completions."""
    return {"model": "demo", "messages": USER, **more}


def completion(**more: Any) -> dict[str, Any]:
    """A body for completions."""
    return {"model": "demo", "prompt": "Once upon a time", **more}


@dataclass
class Answer:
    """One answer, parsed, beside its raw bytes."""

    raw: bytes = b""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    reads: list[bytes] = field(default_factory=list)
    ended: str = "open"
    """complete, eof, reset or bad (no HTTP)."""

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def data(self) -> list[str]:
        """The data of each event."""
        text = self.body.decode().replace("\r\n", "\n").replace("\r", "\n")
        lines = text.split("\n")
        return [line[len("data: ") :] for line in lines if line.startswith("data: ")]

    @property
    def events(self) -> list[Any]:
        """The events as JSON, without ``[DONE]``."""
        return [json.loads(data) for data in self.data if data != "[DONE]"]

    @property
    def named(self) -> list[tuple[str, Any]]:
        """The events that have names, as on responses and messages."""
        lines = self.body.decode().split("\n")
        names = [line[len("event: ") :] for line in lines if line.startswith("event: ")]
        return list(zip(names, self.events, strict=True))

    @property
    def text(self) -> str:
        """The text of the first choice of a stream."""
        choices = [c for one in self.events for c in one.get("choices", []) if c["index"] == 0]
        parts = [c.get("text") or c.get("delta", {}).get("content") or "" for c in choices]
        return "".join(parts)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body
        self.chunks[-1:] = [self.chunks[-1] + body] if self.chunks else [body]

    def on_chunk_header(self) -> None:
        self.chunks.append(b"")

    def on_message_complete(self) -> None:
        self.ended = "complete"


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Write one request; bytes and strings go as they are, the rest as JSON."""
        content = b"" if body is None else body
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        method = method or ("GET" if body is None else "POST")
        fields = {"host": "sim", "content-type": "application/json", **(headers or {})}
        if body is not None:
            fields["content-length"] = str(len(content))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        self.writer.write(head.encode() + b"\r\n" + content)

    async def answer(self, *, until_end: bool = False) -> Answer:
        """Read one answer; with ``until_end`` go on until the connection ends."""
        answer = Answer()
        parser = httptools.HttpResponseParser(answer)
        async with asyncio.timeout(TIMEOUT_S):
            while until_end or answer.ended == "open":
                try:
                    data = await self.reader.read(65_536)
                except ConnectionResetError:
                    answer.ended = "reset"
                    break
                if not data:
                    if answer.ended == "open":
                        answer.ended = "eof"
                    break
                answer.raw += data
                answer.reads.append(data)
                try:
                    parser.feed_data(data)
                except httptools.HttpParserError:
                    answer.ended = "bad"
                    break
        if answer.raw and answer.ended != "bad":
            answer.status = parser.get_status_code()
        return answer

    async def read_events(self, count: int) -> bytes:
        """Read until so many events have come."""
        seen = b""
        async with asyncio.timeout(TIMEOUT_S):
            while seen.count(b"data: ") < count:
                data = await self.reader.read(65_536)
                assert data, f"ended early: {seen!r}"
                seen += data
        return seen


@asynccontextmanager
async def connect(sim: Sim) -> AsyncIterator[Client]:
    """Open a connection, and close it in the end."""
    reader, writer = await asyncio.open_connection(sim.options.host, sim.port, limit=2**24)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask(
    sim: Sim,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own."""
    async with connect(sim) as client:
        client.send(path, body, method=method, headers=headers)
        return await client.answer()


async def faulty(sim: Sim, fault: str, body: Any = None, path: str = CHAT) -> Answer:
    """One request with a fault; a stream of chat unless told otherwise."""
    wanted = chat(stream=True, max_tokens=8) if body is None else body
    return await ask(sim, path, wanted, headers={"x-sim-fault": fault})

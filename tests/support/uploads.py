"""Uploads: forms of any size, a client that sends them piece by piece, a worker that takes them so.

Nothing here holds a whole body: a hash tells whether it arrived as it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tests.support.gateway import until
from tests.support.scripted import Exchange, Seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.raw import RawClient

MB = 1_000_000
PIECE = 64 * 1024
BOUNDARY = "a-boundary-of-27-characters"
TRANSCRIPTIONS = "/v1/audio/transcriptions"

Framing = Literal["length", "chunked"]

# Random, so that no two places in a body are alike: what is lost, doubled or moved shows.
_SOUND = random.Random(7).randbytes(2**20)  # noqa: S311 - no secret


def models_of(*names: str) -> bytes:
    """What `/v1/models` says of a worker that serves these."""
    data = [{"id": name, "object": "model", "owned_by": "scripted"} for name in names]
    return json.dumps({"object": "list", "data": data}).encode()


ONE_MODEL = models_of("demo")
TWO_MODELS = models_of("demo", "other")
"""So that a request's model must be read."""


@dataclass(frozen=True)
class Form:
    """A multipart body, made anew each time it is read."""

    before: tuple[tuple[str, str], ...] = ()
    """Fields before the file."""
    after: tuple[tuple[str, str], ...] = ()
    """Fields after it."""
    file_bytes: int = MB
    end: bytes = f"\r\n--{BOUNDARY}--\r\n".encode()

    def pieces(self) -> Iterator[bytes]:
        """The body, in pieces of 64 KiB at most."""
        head = "".join(_field(*each) for each in self.before)
        head += (
            f"--{BOUNDARY}\r\n"
            'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n'
            "Content-Type: audio/wav\r\n\r\n"
        )
        yield head.encode()
        for at in range(0, self.file_bytes, PIECE):
            start = at * 31 % (len(_SOUND) - PIECE)
            yield _SOUND[start : start + min(PIECE, self.file_bytes - at)]
        fields = "".join(_field(*each) for each in self.after)
        yield ("\r\n" + fields).encode().removesuffix(b"\r\n") + self.end

    @property
    def size(self) -> int:
        """Bytes of the whole body."""
        return sum(len(piece) for piece in self.pieces())

    @property
    def digest(self) -> str:
        """What a worker's hash of it must be."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()

    def head(
        self,
        framing: Framing = "length",
        *headers: str,
        path: str = TRANSCRIPTIONS,
        content_type: str = f"multipart/form-data; boundary={BOUNDARY}",
    ) -> bytes:
        """Head of the request that carries it."""
        length = f"Content-Length: {self.size}"
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: gateway",
            f"Content-Type: {content_type}",
            length if framing == "length" else "Transfer-Encoding: chunked",
            *headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode()


def _field(name: str, value: str) -> str:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    return f"--{BOUNDARY}\r\n{disposition}\r\n\r\n{value}\r\n"


def model_first(file_bytes: int = MB, *fields: tuple[str, str], model: str = "demo") -> Form:
    """The model is known before the file comes."""
    return Form(before=(("model", model), *fields), file_bytes=file_bytes)


def model_last(file_bytes: int = MB, *fields: tuple[str, str], model: str = "demo") -> Form:
    """The model is known only after the file, as curl and OpenAI's SDK may send it."""
    return Form(before=fields, after=(("model", model),), file_bytes=file_bytes)


class Sending:
    """One form on its way from a client, to be sent up to a point, and on from there."""

    def __init__(self, client: RawClient, form: Form, framing: Framing = "length") -> None:
        self._client = client
        self._pieces = form.pieces()
        self._framing = framing
        self.head = form.head(framing)
        self.sent = 0
        """Bytes of the body that the socket, or the buffer before it, has taken."""
        self.whole = False

    async def begin(self, *headers: str) -> Sending:
        """Send the head."""
        more = "".join(f"{header}\r\n" for header in headers).encode()
        await self._client.send(self.head.removesuffix(b"\r\n") + more + b"\r\n")
        return self

    async def up_to(self, size: int) -> None:
        """Send until this many bytes of the body are on their way."""
        while self.sent < size and not self.whole:
            piece = next(self._pieces, b"")
            self.sent += len(piece)
            self.whole = not piece
            if self._framing == "chunked":
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            await self._client.send(piece)

    async def rest(self) -> None:
        """Send all that is left."""
        while not self.whole:
            await self.up_to(self.sent + 1)


class Arriving(Exchange):
    """One request at its worker: its body comes in piece by piece, as the script asks for it."""

    def __init__(
        self, request: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(request, reader, writer)
        length = request.header("content-length")
        self._left = None if length is None else int(length)
        self._digest = hashlib.sha256()
        self.size = 0
        """Bytes of the body that have come."""
        self.taken = False
        """It has come to its end."""
        self.first = b""
        """Its first bytes."""

    @property
    def digest(self) -> str:
        """Hash of what has come."""
        return self._digest.hexdigest()

    async def piece(self) -> bytes:
        """The next bytes of the body; none after the last. IncompleteReadError where it is cut."""
        piece = await (self._chunk() if self._left is None else self._some(self._left))
        self.size += len(piece)
        self.taken = not piece
        self.first = self.first or piece
        self._digest.update(piece)
        return piece

    async def rest(self) -> None:
        """The body, to its end."""
        while not self.taken:
            await self.piece()

    async def _some(self, left: int) -> bytes:
        piece = await self.reader.read(min(left, PIECE))
        if left and not piece:
            raise asyncio.IncompleteReadError(b"", left)
        self._left = left - len(piece)
        return piece

    async def _chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        piece = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return piece


Taking = Callable[[Arriving], Awaitable[None]]
"""A script that takes in the body it answers."""


@dataclass
class UploadWorker:
    """A worker whose script takes each body in by itself."""

    script: Taking
    models: bytes
    url: str = ""
    asked: list[Arriving] = field(default_factory=list)
    """Requests, in order."""
    connections: int = 0
    """Connections that have carried one, or part of it."""
    left: int = 0
    """Connections that the gateway closed before the script was done with them."""
    failures: list[BaseException] = field(default_factory=list)
    server: asyncio.Server | None = None

    def stop_listening(self) -> None:
        """Refuse new connections; those there are stay."""
        assert self.server is not None
        self.server.close()

    async def has_taken(self, size: int) -> None:
        """Wait until this much of the first form has come."""
        await until(lambda: bool(self.asked) and self.asked[0].size >= size)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        carried = False
        try:
            while (request := await _read_head(reader)) is not None:
                arriving = Arriving(request, reader, writer)
                if request.line.startswith("GET "):
                    await arriving.whole(200, self.models)
                    continue
                self.connections += not carried
                carried = True
                self.asked.append(arriving)
                await self.script(arriving)
                # What is left of its body belongs to it, and never to the next request.
                await arriving.rest()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left += 1
        except asyncio.CancelledError:
            pass
        except BaseException as failure:
            self.failures.append(failure)
            raise
        finally:
            writer.close()


async def _read_head(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as cut:
        if cut.partial:
            raise
        return None
    line, *lines = head.decode("latin-1").split("\r\n")[:-2]
    pairs = (each.partition(":") for each in lines)
    return Seen(line, [(name.lower(), value.strip()) for name, _, value in pairs], b"")


@contextlib.asynccontextmanager
async def taking(script: Taking, *, models: bytes = ONE_MODEL) -> AsyncIterator[UploadWorker]:
    """Run an upload worker for as long as the block lasts."""
    worker = UploadWorker(script, models)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(worker.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # A small limit: what a worker has not asked for stays with who sends it.
    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=PIECE)
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


TEXT = b'{"text":"one two","usage":{"prompt_tokens":5,"total_tokens":8,"completion_tokens":3}}'


async def transcribes(arriving: Arriving) -> None:
    """Takes the whole form, then answers."""
    await arriving.rest()
    await arriving.whole(200, TEXT)

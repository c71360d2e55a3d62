"""Requests that go to a worker: read, checked, and handed to the pipeline. Raw ASGI.

Taken before FastAPI's middleware stack: one coroutine encloses everything up to the last byte.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from gateway.api.connection import EXTENSION
from gateway.api.reading import Incoming
from gateway.errors import GatewayError, Kind
from gateway.relay.answer import Answer
from gateway.relay.asgi_sink import AsgiSink
from gateway.relay.headers import find
from gateway.relay.upload import ClientLeft
from gateway.telemetry.record import Record
from gateway.terms import Outcome

if TYPE_CHECKING:
    from gateway.api.reading import RequestReader
    from gateway.api.surfaces import Surface
    from gateway.relay.pipeline import Pipeline

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class Relayed:
    """Serves the surfaces of the table."""

    def __init__(
        self,
        *,
        reader: RequestReader,
        pipeline: Pipeline,
        finish: Callable[[Record], None],
        write_stall_s: float,
    ) -> None:
        self._reader = reader
        self._pipeline = pipeline
        self._finish = finish
        self._write_stall_s = write_stall_s

    async def __call__(
        self, surface: Surface, response_id: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve one request, on whichever sink its server offers."""
        headers = scope["headers"]
        record = Record(surface.endpoint, request_id=request_id(headers))
        # Taken out, so that scope and sink do not hold each other when all is over.
        sink = scope.get("extensions", {}).pop(EXTENSION, None)
        replay = pump = None
        if sink is None:
            replay = _Replay(receive)
            receive = replay.body
            sink = pump = AsgiSink(replay.after_body, send, write_stall_s=self._write_stall_s)
        incoming = Incoming(
            surface, scope["method"], headers, scope["query_string"], response_id, receive, sink
        )
        if pump is None:
            await self._serve(incoming, record)
        else:
            await pump.run(self._serve(incoming, record))

    async def _serve(self, incoming: Incoming, record: Record) -> None:
        """One request, from its head to its one record."""
        sink = incoming.sink
        answer = Answer(sink, record, incoming.surface.format, self._is_draining)
        try:
            await self._answer(incoming, answer)
            if sink.flushing and not await sink.flushed():
                record.outcome = Outcome.CLIENT_CLOSED
        finally:
            record.ended_at_s = monotonic()
            self._finish(record)

    async def _answer(self, incoming: Incoming, answer: Answer) -> None:
        """Read, check, relay. Whatever goes wrong is told to the client."""
        record = answer.record
        try:
            request = await self._reader.read(incoming, record)
            incoming.sink.start()
            await self._pipeline.serve(request, answer)
        except GatewayError as error:
            record.outcome = error.rule.outcome
            answer.fail(error)
        except ClientLeft:
            record.outcome = Outcome.CLIENT_CLOSED
        except Exception:
            answer.fail(GatewayError(Kind.INTERNAL, "The gateway failed; its log says why."))
            raise
        finally:
            self._reader.release(incoming)

    def _is_draining(self) -> bool:
        return self._pipeline.draining


class _Replay:
    """Splits an ASGI `receive` in two: the body's messages, then what the sink listens for."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._body_over = asyncio.Event()

    async def body(self) -> Any:
        """The next message of the body."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_over.set()
        return message

    async def after_body(self) -> Any:
        """The next message after the body: the client's end."""
        await self._body_over.wait()
        return await self._receive()


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The client's `X-Request-Id` where it is sane, else a new one."""
    given = find(headers, b"x-request-id")
    if given and _SANE_ID.fullmatch(given):
        return given.decode()
    return f"{random.getrandbits(128):032x}"

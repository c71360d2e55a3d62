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

from gateway.api.body import read_facts
from gateway.api.connection import EXTENSION
from gateway.errors import GatewayError, Kind
from gateway.relay.answer import Answer
from gateway.relay.asgi_sink import AsgiSink
from gateway.relay.headers import find, upstream_headers
from gateway.relay.request import Request
from gateway.telemetry.record import Record
from gateway.terms import Outcome

if TYPE_CHECKING:
    from gateway.access.admission import Admission
    from gateway.access.keys import ClientKeys
    from gateway.api.surfaces import Surface
    from gateway.pool.registry import Registry
    from gateway.relay.headers import Headers
    from gateway.relay.pipeline import Pipeline
    from gateway.relay.sinks import Sink

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class ClientLeft(Exception):
    """The client closed the connection before its request was whole."""


class Relayed:
    """Serves the surfaces of the table."""

    def __init__(
        self,
        *,
        keys: ClientKeys,
        admission: Admission,
        registry: Registry,
        pipeline: Pipeline,
        finish: Callable[[Record], None],
        max_body_bytes: int,
        body_timeout_s: float,
        write_stall_s: float,
        allow_scheduling: bool,
    ) -> None:
        self._keys = keys
        self._admission = admission
        self._registry = registry
        self._pipeline = pipeline
        self._finish = finish
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._write_stall_s = write_stall_s
        self._allow_scheduling = allow_scheduling

    async def __call__(self, surface: Surface, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, on whichever sink its server offers."""
        record = Record(surface.endpoint, request_id=request_id(scope["headers"]))
        # Taken out, so that scope and sink do not hold each other when all is over.
        sink = scope.get("extensions", {}).pop(EXTENSION, None)
        if sink is not None:
            await self._serve(surface, scope, receive, sink, record)
            return
        reader = _Replay(receive)
        pump = AsgiSink(reader.after_body, send, write_stall_s=self._write_stall_s)
        await pump.run(self._serve(surface, scope, reader.body, pump, record))

    async def _serve(
        self, surface: Surface, scope: Scope, receive: Receive, sink: Sink, record: Record
    ) -> None:
        """One request, from its head to its one record."""
        answer = Answer(sink, record, surface.format, self._is_draining)
        try:
            await self._answer(surface, scope, receive, answer)
            if sink.flushing and not await sink.flushed():
                record.outcome = Outcome.CLIENT_CLOSED
        finally:
            record.ended_at_s = monotonic()
            self._finish(record)

    async def _answer(
        self, surface: Surface, scope: Scope, receive: Receive, answer: Answer
    ) -> None:
        """Read, check, relay. Whatever goes wrong is told to the client."""
        sink, record = answer.sink, answer.record
        reserved = 0
        try:
            headers = scope["headers"]
            self._check_head(surface, scope["method"], headers)
            body = sink.whole_body()
            if body is None:
                body = await self._read_body(receive, sink)
            if len(body) > self._max_body_bytes:
                raise self._too_large()
            sink.start()
            reserved = self._admission.reserve(len(body))
            record.started_at_s = sink.request_read_at_s or monotonic()
            facts = read_facts(body, allow_scheduling=self._allow_scheduling)
            if self._registry.pool(facts.model) is None:
                raise self._unknown_model(facts.model)
            record.model, record.stream, record.choices = facts.model, facts.stream, facts.choices
            query = scope["query_string"]
            request = Request(
                method=surface.method.encode(),
                target=surface.path + b"?" + query if query else surface.path,
                headers=upstream_headers(headers, scheduling=self._allow_scheduling),
                body=facts.body,
                model=facts.model,
                stream=facts.stream,
                hide_usage=facts.hide_usage,
                format=surface.format,
            )
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
            self._admission.release(reserved)

    def _check_head(self, surface: Surface, method: str, headers: Headers) -> None:
        """What a head alone can be refused for. GatewayError."""
        if method != surface.method:
            raise GatewayError(
                Kind.METHOD_NOT_ALLOWED,
                f"Send this request as {surface.method}.",
                allow=surface.method,
            )
        self._keys.check(headers)
        encoding = find(headers, b"content-encoding")
        if encoding and encoding != b"identity":
            raise GatewayError(Kind.UNSUPPORTED_ENCODING, "Send the body without Content-Encoding.")
        length = find(headers, b"content-length")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise self._too_large()

    async def _read_body(self, receive: Receive, sink: Sink) -> bytes:
        """The body, as it comes in. GatewayError, ClientLeft."""
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await self._next_part(receive, sink)
                part = message["body"]
                size += self._admission.reserve(len(part))
                parts.append(part)
                if size > self._max_body_bytes or not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            self._admission.release(size)

    async def _next_part(self, receive: Receive, sink: Sink) -> Any:
        try:
            async with asyncio.timeout(self._body_timeout_s):
                message = await receive()
        except TimeoutError:
            raise GatewayError(
                Kind.REQUEST_TIMEOUT,
                f"No byte of the request's body came for {self._body_timeout_s:g} s.",
            ) from None
        if message["type"] == "http.disconnect":
            raise sink.request_fault or ClientLeft
        return message

    def _too_large(self) -> GatewayError:
        return GatewayError(
            Kind.BODY_TOO_LARGE,
            f"The body is larger than {self._max_body_bytes} bytes (limits.max_body_bytes).",
        )

    def _unknown_model(self, model: str) -> GatewayError:
        if not self._registry.asked:
            return GatewayError(Kind.NO_WORKER, "No worker has answered yet; try again.")
        shown = model if len(model) <= 100 else model[:100] + "…"
        return GatewayError(
            Kind.MODEL_NOT_FOUND,
            f"There is no model `{shown}` here; GET /v1/models lists those there are.",
            param="model",
        )

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

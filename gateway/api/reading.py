"""From what a client sends to a `Request` that any worker of its pool can be sent.

One way per kind of body (`surfaces.Reads`): JSON is read whole and checked; a form is read only up
to its model, and passed on as it arrives; a response's id says all by itself.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from gateway.api.body import read_facts, with_request_id
from gateway.api.multipart import FormFields
from gateway.api.surfaces import Reads, Surface
from gateway.errors import GatewayError, Kind
from gateway.relay.headers import Headers, content_length, find, upstream_headers
from gateway.relay.request import Request
from gateway.relay.upload import ClientLeft, Upload, too_large
from gateway.routing.response_ids import make_id, tag_in, worker_tag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.access.admission import Admission
    from gateway.access.keys import ClientKeys
    from gateway.pool.registry import Registry
    from gateway.relay.sinks import Sink
    from gateway.telemetry.record import Record
    from gateway.terms import Worker


@dataclass(slots=True)
class Incoming:
    """One request as it comes in, and what is held for it until its end."""

    surface: Surface
    method: str
    headers: Headers
    query: bytes
    response_id: str
    receive: Callable[[], Awaitable[Any]]
    sink: Sink
    owner: bytes = b""
    """Hash of the client's key, if one is needed."""
    reserved_bytes: int = 0
    upload: Upload | None = None


class RequestReader:
    """Reads and checks requests. All of its methods raise GatewayError and ClientLeft."""

    def __init__(
        self,
        *,
        keys: ClientKeys,
        admission: Admission,
        registry: Registry,
        max_body_bytes: int,
        upload_memory_bytes: int,
        body_timeout_s: float,
        allow_scheduling: bool,
    ) -> None:
        self._keys = keys
        self._admission = admission
        self._registry = registry
        self._max_body_bytes = max_body_bytes
        self._upload_memory_bytes = upload_memory_bytes
        self._body_timeout_s = body_timeout_s
        self._allow_scheduling = allow_scheduling

    async def read(self, incoming: Incoming, record: Record) -> Request:
        """The request, checked. Its record learns what is known of it."""
        self._check_head(incoming)
        reads = incoming.surface.reads
        if reads is Reads.JSON:
            return await self._read_json(incoming, record)
        if reads is Reads.MULTIPART:
            return await self._read_multipart(incoming, record)
        return await self._read_response_id(incoming, record)

    def release(self, incoming: Incoming) -> None:
        """The request is over: what was held for it is free."""
        self._admission.release(incoming.reserved_bytes)
        if incoming.upload is not None:
            incoming.upload.close()

    def _check_head(self, incoming: Incoming) -> None:
        surface = incoming.surface
        if incoming.method != surface.method:
            raise GatewayError(
                Kind.METHOD_NOT_ALLOWED,
                f"Send this request as {surface.method}.",
                allow=surface.method,
            )
        incoming.owner = self._keys.check(incoming.headers)
        encoding = find(incoming.headers, b"content-encoding")
        if encoding and encoding != b"identity":
            raise GatewayError(Kind.UNSUPPORTED_ENCODING, "Send the body without Content-Encoding.")
        length = content_length(incoming.headers)
        if length is not None and length > self._max_body_bytes:
            raise too_large(self._max_body_bytes)

    # --- JSON ---

    async def _read_json(self, incoming: Incoming, record: Record) -> Request:
        surface, sink = incoming.surface, incoming.sink
        body = await self._whole_body(incoming)
        incoming.reserved_bytes = self._admission.reserve(len(body))
        record.started_at_s = sink.request_read_at_s or monotonic()
        facts = read_facts(
            body,
            allow_scheduling=self._allow_scheduling,
            asks_usage=surface.asks_usage,
            makes_response=surface.makes_response,
        )
        self._know(facts.model)
        record.model, record.stream, record.choices = facts.model, facts.stream, facts.choices
        tailor = pinned = None
        if surface.makes_response:
            tailor = _naming(facts.body, incoming.owner)
            if facts.previous_response_id:
                pinned = self._maker(
                    facts.previous_response_id, incoming.owner, "previous_response_id"
                )
        return Request(
            method=surface.method.encode(),
            target=_target(surface.path, incoming.query),
            headers=upstream_headers(incoming.headers, scheduling=self._allow_scheduling),
            body=facts.body,
            model=facts.model,
            stream=facts.stream,
            hide_usage=facts.hide_usage,
            format=surface.format,
            tailor=tailor,
            pinned=pinned,
            audio=surface.audio,
        )

    async def _whole_body(self, incoming: Incoming) -> bytes:
        """The body, read to its end."""
        body = incoming.sink.whole_body()
        if body is None:
            body = await self._incoming_body(incoming)
        if len(body) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        return body

    async def _incoming_body(self, incoming: Incoming) -> bytes:
        """The body, as it comes in; no more of it than may be."""
        parts: list[bytes] = []
        size = 0
        more = True
        try:
            while more and size <= self._max_body_bytes:
                part, more = await self._next_part(incoming)
                size += self._admission.reserve(len(part))
                parts.append(part)
        finally:
            self._admission.release(size)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _next_part(self, incoming: Incoming) -> tuple[bytes, bool]:
        try:
            async with asyncio.timeout(self._body_timeout_s):
                message = await incoming.receive()
        except TimeoutError:
            raise GatewayError(
                Kind.REQUEST_TIMEOUT,
                f"No byte of the request's body came for {self._body_timeout_s:g} s.",
            ) from None
        if message["type"] == "http.disconnect":
            raise incoming.sink.request_fault or ClientLeft
        more = message.get("more_body", False)
        if not more:
            incoming.sink.start()
        return message["body"], more

    # --- forms ---

    async def _read_multipart(self, incoming: Incoming, record: Record) -> Request:
        """Read on until the model is known: at once where there is but one."""
        surface = incoming.surface
        fields = FormFields(find(incoming.headers, b"content-type"))
        model = self._registry.only_model

        async def next_part() -> tuple[bytes, bool]:
            """What goes up is read along, so that it cannot name another model further on."""
            part, more = await self._next_part(incoming)
            fields.feed(part)
            if model is not None and fields.model not in (None, model):
                self._know(fields.model)
            return part, more

        upload = incoming.upload = Upload(
            next_part,
            length=content_length(incoming.headers),
            max_bytes=self._max_body_bytes,
            memory_bytes=self._upload_memory_bytes,
        )
        if model is None:
            model = await self._model_in(upload, fields, incoming)
        self._know(model)
        record.model, record.stream = model, fields.stream
        record.started_at_s = upload.read_at_s or monotonic()
        return Request(
            method=surface.method.encode(),
            target=_target(surface.path, incoming.query),
            headers=upstream_headers(incoming.headers, scheduling=self._allow_scheduling),
            body=b"",
            model=model,
            stream=fields.stream,
            hide_usage=False,
            format=surface.format,
            upload=upload,
        )

    async def _model_in(self, upload: Upload, fields: FormFields, incoming: Incoming) -> str:
        while fields.model is None:
            part = await upload.receive()
            if part is None:
                raise GatewayError(
                    Kind.INVALID_VALUE,
                    "The form has no field `model`: name a model, as GET /v1/models lists them.",
                    param="model",
                )
            self._admission.release(incoming.reserved_bytes)
            incoming.reserved_bytes = 0
            incoming.reserved_bytes = self._admission.reserve(upload.in_memory)
        return fields.model

    # --- what was made before ---

    async def _read_response_id(self, incoming: Incoming, record: Record) -> Request:
        surface = incoming.surface
        # It says nothing, but under any ASGI server the client's end is only seen after its body.
        await self._whole_body(incoming)
        response_id = incoming.response_id
        worker = self._maker(response_id, incoming.owner, "response_id")
        path = surface.path.replace(b"{id}", response_id.encode())
        streams = b"stream=true" in incoming.query.lower().split(b"&")
        record.started_at_s = incoming.sink.request_read_at_s or monotonic()
        record.stream = streams
        return Request(
            method=surface.method.encode(),
            target=_target(path, incoming.query),
            headers=upstream_headers(incoming.headers, scheduling=self._allow_scheduling),
            body=b"",
            model="",
            stream=streams,
            hide_usage=False,
            format=surface.format,
            pinned=worker,
        )

    def _maker(self, response_id: str, owner: bytes, param: str) -> Worker:
        """The worker that made a response, if it was made for this owner."""
        tag = tag_in(response_id, owner)
        worker = self._registry.worker_at(tag, worker_tag) if tag else None
        if worker is None:
            raise GatewayError(
                Kind.NOT_FOUND,
                f"Response with id '{response_id[:100]}' not found: its worker is gone, or it was "
                "made by another key, or never.",
                param=param,
            )
        return worker

    def _know(self, model: str) -> None:
        """The model is known here, or was."""
        if self._registry.pool(model) is not None:
            return
        if not self._registry.asked:
            why = "No worker has answered yet; try again."
            if not self._registry.workers:
                why = "This gateway has no workers; whoever runs it must name some."
            raise GatewayError(Kind.NO_WORKER, why)
        shown = model if len(model) <= 100 else model[:100] + "…"
        raise GatewayError(
            Kind.MODEL_NOT_FOUND,
            f"There is no model `{shown}` here; GET /v1/models lists those there are.",
            param="model",
        )


def _naming(body: bytes, owner: bytes) -> Callable[[Worker], bytes]:
    """Names the new response after the worker that is to make it."""
    nonce = random.getrandbits(96)

    def tailor(worker: Worker) -> bytes:
        return with_request_id(body, make_id(nonce, worker.url, owner))

    return tailor


def _target(path: bytes, query: bytes) -> bytes:
    return path + b"?" + query if query else path

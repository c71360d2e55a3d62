"""The simulated worker without its sockets: which surfaces it has, and who answers what."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import asdict
from email.utils import formatdate
from hashlib import blake2b
from uuid import uuid4

from gateway.sim.about import About
from gateway.sim.connection import Request
from gateway.sim.engine import Engine
from gateway.sim.exchange import Exchange, Route
from gateway.sim.machine import Machine
from gateway.sim.metrics import Metrics
from gateway.sim.operators import Operators
from gateway.sim.options import SimOptions
from gateway.sim.response import Response
from gateway.sim.schema import ApiError, BodyUnreadableError
from gateway.sim.surfaces import surfaces
from gateway.sim.wire import VERSION, encode

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
_PARAMETER = re.compile(r"\{\w+\}")


class Worker:
    """Answers requests like one vLLM server."""

    def __init__(self, options: SimOptions, changed: Callable[[], None]) -> None:
        self._options = options
        self.metrics = Metrics(options.max_model_len)
        self.engine = Engine(options, self.metrics, changed)
        self._loop = asyncio.get_running_loop()
        self._date = (0, b"")
        machine = self._machine = Machine(options, self.engine, self.metrics)
        self.operators = Operators(machine)
        fingerprint = _fingerprint(options)
        self._routes: dict[str, dict[str, Route]] = {}
        # Every route of the worker: the surfaces of its task, then what every task has.
        parts = [*surfaces(machine, fingerprint), About(machine), self.operators]
        for part in parts:
            for path, methods in part.routes().items():
                self._routes.setdefault(path, {}).update(methods)
        self._patterns = [
            (re.compile(_PARAMETER.sub("([^/]+)", path)), path)
            for path in self._routes
            if "{" in path
        ]

    def answer(self, request: Request, response: Response) -> None:
        """Answer now, or start what answers later."""
        if self._options.request_id_headers:
            name = request.header(b"x-request-id") or uuid4().hex
            response.extra = [(b"x-request-id", name.encode())]
        exchange = Exchange(request, response)
        if not self._authorized(request):
            body = encode({"error": "Unauthorized"})
            length = (b"content-length", b"%d" % len(body))
            response.whole(401, [length, (b"content-type", b"application/json")], body)
            return
        path, value = self._match(request.path)
        route = self._route(path, exchange)
        if route is None:
            return
        if value:
            exchange = Exchange(request, response, value)
        try:
            route(exchange)
        except ApiError as error:
            exchange.fail(error)
        except BodyUnreadableError as error:
            exchange.send(400, {"detail": str(error)})

    def date(self) -> bytes:
        """The ``date`` header, made once a second."""
        second = int(self._machine.now())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]

    def _authorized(self, request: Request) -> bool:
        keys = self._options.api_keys
        if not keys or request.method == "OPTIONS" or not request.path.startswith(_GUARDED):
            return True
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        return scheme.lower() == "bearer" and key in keys

    def _match(self, path: str) -> tuple[str, str]:
        """The route's own path, and what stands in its ``{…}``."""
        if path not in self._routes:
            for pattern, route in self._patterns:
                found = pattern.fullmatch(path)
                if found is not None:
                    return route, found[1]
        return path, ""

    def _route(self, path: str, exchange: Exchange) -> Route | None:
        request, response = exchange.request, exchange.response
        methods = self._routes.get(path)
        if methods is None and path.endswith("/") and path.rstrip("/") in self._routes:
            host = request.header(b"host") or ""
            location = f"http://{host}{path.rstrip('/')}".encode()
            headers = [(b"content-length", b"0"), (b"location", location), (b"vary", b"Origin")]
            response.whole(307, headers, b"")
            return None
        if methods is None:
            exchange.send(404, {"detail": "Not Found"})
            return None
        route = methods.get(request.method)
        if route is None:
            allow = next(iter(methods)).encode()
            exchange.send(405, {"detail": "Method Not Allowed"}, before=[(b"allow", allow)])
        return route


def _fingerprint(options: SimOptions) -> str:
    """vLLM's ``system_fingerprint``: its version and a digest of its configuration."""
    seen = repr(sorted(asdict(options).items(), key=lambda item: item[0]))
    if options.frozen_time is not None:
        seen = f"{options.models[0]}/{options.max_model_len}/{options.block_size}"
    return f"vllm-{VERSION}-{blake2b(seen.encode(), digest_size=4).hexdigest()}"

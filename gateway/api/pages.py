"""What FastAPI serves on the client port: models, health, and a helpful 404 for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from gateway.errors import GatewayError, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.access.keys import ClientKeys
    from gateway.pool.registry import Registry

RECORD = "vllm_gateway.record"
"""Key in the scope under which a page finds its request's record."""


def client_pages(
    *, registry: Registry, keys: ClientKeys, draining: Callable[[], bool], served: list[str]
) -> FastAPI:
    """The application behind the relayed surfaces. `served`: their paths, for the 404."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    @app.get("/health")
    async def health() -> Response:
        """The process lives, whatever its workers do."""
        return _json(b'{"status":"ok"}')

    @app.get("/ready")
    async def ready() -> Response:
        """A worker can serve, and the gateway is not draining."""
        if draining():
            return _json(b'{"status":"draining"}', 503)
        if not registry.ready:
            return _json(b'{"status":"no worker is available"}', 503)
        return _json(b'{"status":"ready"}')

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """The union over all workers, each entry as a worker wrote it."""
        keys.check(request.headers.raw)
        entries = b",".join(registry.models.values())
        return _json(b'{"object":"list","data":[' + entries + b"]}")

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        """One entry of that list."""
        keys.check(request.headers.raw)
        entry = registry.models.get(name)
        if entry is None:
            raise GatewayError(
                Kind.MODEL_NOT_FOUND,
                "There is no such model here now; GET /v1/models lists those there are.",
                param="model",
            )
        return _json(entry)

    @app.exception_handler(GatewayError)
    async def gateway_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError)  # noqa: S101 - Starlette's handlers are untyped
        return error_response(request, error)

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            refused = GatewayError(
                Kind.METHOD_NOT_ALLOWED,
                f"{request.url.path} does not take {request.method}.",
                allow="GET",
            )
            return error_response(request, refused)
        served_here = ", ".join(served)
        return error_response(
            request,
            GatewayError(
                Kind.NOT_FOUND,
                f"Nothing is served at this path. Served are {served_here}, GET /v1/models, "
                "GET /v1/models/{id}, /health and /ready.",
            ),
        )

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> Response:  # noqa: ARG001 - is logged
        failed = GatewayError(Kind.INTERNAL, "The gateway failed; its log says why.")
        return error_response(request, failed)

    return app


def error_response(request: Request, error: GatewayError) -> Response:
    """The gateway's error as a Starlette response, noted in the request's record."""
    record = request.scope[RECORD]
    record.error = error.kind.value
    response = Response(error.body(), error.rule.status)
    for name, value in error.headers():
        response.headers[name.decode()] = value.decode()
    response.headers["x-request-id"] = record.request_id
    return response


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")

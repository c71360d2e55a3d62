"""The admin port: for operators and Prometheus, not for clients."""

from __future__ import annotations

from fastapi import FastAPI, Response

from gateway.telemetry.metrics import CONTENT_TYPE, Metrics


def admin_pages(metrics: Metrics) -> FastAPI:
    """The application of the admin port."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/metrics")
    async def render() -> Response:
        """Prometheus' text format."""
        return Response(
            await metrics.render(), media_type=None, headers={"content-type": CONTENT_TYPE}
        )

    @app.get("/health")
    async def health() -> Response:
        """The process lives."""
        return Response(b'{"status":"ok"}', media_type="application/json")

    return app

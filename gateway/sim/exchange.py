"""One request and its answer, with what FastAPI and vLLM's own wrappers do for every handler."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from gateway.sim.connection import Request
from gateway.sim.multipart import Form
from gateway.sim.response import Headers, Response
from gateway.sim.schema import ApiError, BodyUnreadableError, Json, decode, invalid
from gateway.sim.wire import encode

VARY = (b"vary", b"Origin")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a handler gets. It raises ``ApiError`` and ``BodyUnreadableError``."""

    request: Request
    response: Response
    path_value: str = ""
    """What stands in the place of ``{…}`` in the route."""

    def body(self) -> Json:
        """The JSON object of the body; the content type must say that it is one."""
        kind = (self.request.header(b"content-type") or "").lower().split(";", 1)[0]
        if kind != "application/json":
            raise invalid(["Unsupported Media Type: Only 'application/json' is allowed"])
        return decode(self.request.body)

    def form(self) -> Form:
        """The form of the body; a body of another type is a form without fields."""
        form = self.request.form or Form()
        if form.error is not None:
            raise BodyUnreadableError(form.error)
        return form

    def query(self) -> dict[str, str]:
        """The query; the last of a name wins."""
        return dict(parse_qsl(self.request.target.partition("?")[2], keep_blank_values=True))

    def send(self, status: int, value: Any, *, before: Headers | None = None) -> None:
        """Answer with JSON."""
        self.send_bytes(status, encode(value), b"application/json", before)

    def send_bytes(
        self, status: int, body: bytes, kind: bytes, before: Headers | None = None
    ) -> None:
        """Answer with a body of this content type."""
        headers = [*(before or ()), (b"content-length", b"%d" % len(body))]
        self.response.whole(status, [*headers, (b"content-type", kind), VARY], body)

    def send_nothing(self) -> None:
        """200 without a body."""
        self.response.whole(200, [(b"content-length", b"0"), VARY], b"")

    def fail(self, error: ApiError) -> None:
        """Answer with an error, in the surface's shape."""
        self.send(error.status, self.response.dialect.body(error))


Route = Callable[[Exchange], None]
Routes = Mapping[str, Mapping[str, Route]]
"""Path (with at most one ``{name}``) to method to handler."""

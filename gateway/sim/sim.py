"""A simulated worker on a socket, inside the caller's event loop."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Self

from gateway.sim.connection import Connection, Request
from gateway.sim.faults import Fault, FaultPlan, parse
from gateway.sim.options import SimOptions
from gateway.sim.response import Response
from gateway.sim.worker import Worker

_BACKLOG = 2048


class Sim:
    """``async with Sim(SimOptions()) as sim``: listens from enter to exit.

    Raises ``ValueError`` for a wrong fault specification, ``OSError`` when it cannot listen.
    """

    def __init__(self, options: SimOptions | None = None) -> None:
        self.options = options or SimOptions()
        self.keep_alive_s = self.options.keep_alive_s
        self.requests: deque[Request] = deque(maxlen=self.options.record)
        """The last requests: raw head, headers, body."""
        self.requests_total = 0
        self.connections_total = 0
        self._plan = FaultPlan(self.options.faults, Random(self.options.seed))  # noqa: S311
        self._connections: set[Connection] = set()
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._server: asyncio.Server | None = None
        self._worker: Worker | None = None
        self._port = self.options.port

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. After ``stop`` it may be started again, on the same port."""
        options = self.options
        context = None
        if options.tls_cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(options.tls_cert, options.tls_key)
        self._worker = Worker(options, self._changed)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self),
            options.host,
            self._port,
            ssl=context,
            backlog=_BACKLOG,
            reuse_address=True,
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop at once: idle connections are closed, those with an answer under way are reset."""
        if self._server is None or self._worker is None:
            return
        self._server.close()
        self._worker.engine.close()
        for connection in tuple(self._connections):
            connection.shut()
        await self.wait_for(lambda: not self._connections)
        self._server = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """Base URL, without ``/v1`` and without a slash at the end."""
        scheme = "http" if self.options.tls_cert is None else "https"
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"{scheme}://{host}:{self._port}"

    @property
    def worker(self) -> Worker:
        """Routes, engine and metrics behind the socket."""
        if self._worker is None:
            raise RuntimeError("the worker has not been started")
        return self._worker

    @property
    def started(self) -> int:
        """API requests that reached the engine."""
        return self.worker.engine.started

    @property
    def finished(self) -> int:
        """API requests whose last token was made."""
        return self.worker.engine.finished

    @property
    def aborted(self) -> int:
        """API requests whose client left first."""
        return self.worker.engine.aborted

    @property
    def running(self) -> int:
        """Sequences in prefill or decode."""
        return self.worker.engine.running

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return self.worker.engine.waiting

    @property
    def operator_calls(self) -> dict[str, int]:
        """Path to number of calls, for the routes that no client may reach."""
        return dict(self.worker.operators.calls)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    def sleep(self) -> None:
        """Fall asleep as vLLM's ``/sleep``: healthy, silent."""
        self.worker.engine.sleep()

    def wake(self) -> None:
        """Wake up."""
        self.worker.engine.wake()

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Until ``condition`` holds; it is looked at whenever a counter has changed.

        Raises ``TimeoutError``.
        """
        if condition():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((condition, future))
        async with asyncio.timeout(timeout_s):
            await future

    # gateway.sim.connection.Owner

    def fault(self, request: Request) -> Fault | None:
        """The header's fault, else one of the start flags."""
        self.requests_total += 1
        self.requests.append(request)
        self._changed()
        spec = request.header(b"x-sim-fault")
        return parse(spec) if spec else self._plan.choose(request.path)

    def answer(self, request: Request, response: Response) -> None:
        """Answer, now or later."""
        self.worker.answer(request, response)

    def joined(self, connection: Connection) -> None:
        """A client has connected."""
        self.connections_total += 1
        self._connections.add(connection)
        self._changed()

    def left(self, connection: Connection) -> None:
        """A client has gone."""
        self._connections.discard(connection)
        self._changed()

    def date(self) -> bytes:
        """The value of the ``date`` header."""
        return self.worker.date()

    def _changed(self) -> None:
        if not self._waiters:
            return
        waiting = [(c, f) for c, f in self._waiters if not f.done()]
        self._waiters = [(c, f) for c, f in waiting if not c()]
        for pair in waiting:
            if pair not in self._waiters:
                pair[1].set_result(None)

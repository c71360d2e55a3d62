"""The path of a request: admission → routing → a worker → bytes down, observed → one record.

Read this file and you have read the gateway. `api` has read and checked the request before;
`telemetry` tells the record afterwards. One coroutine encloses it all, so that whatever happens,
the place, the lease and the connection are given back where they were taken.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from gateway.errors import GatewayError, Kind
from gateway.relay import faults
from gateway.relay.answer import shutting_down
from gateway.relay.attempt import Attempt, Refusal, Result, Waits
from gateway.relay.connections import Connections, Unreachable
from gateway.relay.faults import Fault
from gateway.relay.headers import upstream_head
from gateway.relay.upload import ClientLeft
from gateway.terms import Lease, Outcome, Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.access.admission import Admission
    from gateway.pool.registry import Registry
    from gateway.relay.answer import Answer
    from gateway.relay.request import Request
    from gateway.relay.upload import Upload
    from gateway.relay.upstream import UpstreamConnection
    from gateway.telemetry.record import Record

_log = logging.getLogger("gateway.relay")

# A request that has been sent whole goes to at most one further worker.
_MOST_SENDS = 2


class Policy(Protocol):
    """The rule that picks a worker from a pool."""

    def pick(self, workers: Sequence[Worker]) -> Worker:
        """One of `workers`, of which there is at least one."""


class Pipeline:
    """Serves requests. Holds what they share; everything of one request lives in its coroutine."""

    def __init__(
        self,
        *,
        admission: Admission,
        registry: Registry,
        policy: Policy,
        connections: Connections,
        waits: Waits,
        max_event_bytes: int,
    ) -> None:
        self._admission = admission
        self._registry = registry
        self._policy = policy
        self._connections = connections
        self._waits = waits
        self._max_event_bytes = max_event_bytes
        self._running: set[asyncio.Task[object]] = set()
        self.draining = False
        """Each answer is the last on its connection."""

    @property
    def running(self) -> int:
        """Requests under way (a gauge)."""
        return len(self._running)

    async def finished(self) -> None:
        """Wait until no request is under way."""
        while self._running:
            await asyncio.wait(set(self._running))

    def cut_all(self) -> None:
        """The deadline of the drain: whatever still runs is told so, and ends."""
        for task in self._running:
            task.cancel()

    async def serve(self, request: Request, answer: Answer) -> None:
        """Answer one request, and note in `answer.record` how it went. Raises nothing but what is
        a defect of the gateway."""
        sink, record = answer.sink, answer.record
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in a task
        self._running.add(task)
        # The client leaving cancels whatever runs: waiting, connecting, the worker's answer.
        sink.on_gone = task.cancel
        try:
            if sink.gone:
                raise asyncio.CancelledError
            record.queue_s = await self._admission.enter()
            try:
                await self._relay(request, answer, record)
            finally:
                self._admission.leave()
        except GatewayError as error:
            record.outcome = error.rule.outcome
            answer.fail(error)
        except ClientLeft:
            record.outcome = Outcome.CLIENT_CLOSED
        except asyncio.CancelledError:
            if sink.gone:
                record.outcome = Outcome.CLIENT_CLOSED
            else:
                record.outcome = Outcome.UNAVAILABLE
                answer.fail(shutting_down())
            task.uncancel()
        finally:
            sink.on_gone = None
            self._running.discard(task)

    async def _relay(self, request: Request, answer: Answer, record: Record) -> None:
        """Ask one worker after another until the client has an answer. GatewayError if none has."""
        tried: list[Worker] = []
        sends = 0
        refusal: Refusal | None = None
        fault = Fault.UNREACHABLE
        since_s = record.started_at_s + record.queue_s
        while sends < _MOST_SENDS:
            candidates = self._candidates(request, tried)
            if not candidates:
                break
            worker = self._policy.pick(candidates)
            tried.append(worker)
            record.worker = worker.url
            record.retries = len(tried) - 1
            lease = Lease(worker)
            try:
                last = len(candidates) == 1 or sends + 1 == _MOST_SENDS or not request.repeatable
                result = await self._ask(worker, request, answer, since_s, may_retry=not last)
            finally:
                lease.close()
            if result.fault is None:
                return
            fault, refusal = result.fault, result.refusal or refusal
            rule = faults.TABLE[fault]
            sends += rule.sent
            if not rule.retry or not request.repeatable:
                break
            _log.info(
                "request %s: worker %s %s (%s)", record.request_id, worker.url, rule.why, fault
            )
            since_s = monotonic()
        self._give_up(answer, record, tried, refusal, fault, poison=sends == _MOST_SENDS)

    def _candidates(self, request: Request, tried: Sequence[Worker]) -> Sequence[Worker]:
        if request.pinned is not None:
            return [request.pinned] if request.pinned.reachable and not tried else ()
        workers = self._registry.pool(request.model) or ()
        return [worker for worker in workers if worker not in tried] if tried else workers

    async def _ask(
        self,
        worker: Worker,
        request: Request,
        answer: Answer,
        since_s: float,
        *,
        may_retry: bool,
    ) -> Result:
        """Send the request to one worker and relay what it answers."""
        record = answer.record
        # An upload can be sent only once: not on a connection that may be closed already.
        connection = self._connections.take(worker) if request.upload is None else None
        stale = False
        while True:
            connect_s = 0.0
            if connection is None:
                began_s = monotonic()
                try:
                    connection = await self._connections.connect(worker)
                except Unreachable as error:
                    _log.info("request %s: worker %s: %s", record.request_id, worker.url, error)
                    # It had taken the request before, on a kept connection: it may have died of it.
                    return Result(Fault.LOST if stale else Fault.UNREACHABLE)
                connect_s = monotonic() - began_s
            attempt = Attempt(
                request,
                answer,
                connection,
                self._waits,
                max_event_bytes=self._max_event_bytes,
                may_retry=may_retry,
            )
            try:
                self._send(worker, request, attempt, record.request_id, connection)
                record.overhead_s += monotonic() - since_s - connect_s
                if request.upload is not None:
                    await self._send_upload(request.upload, connection, attempt, record)
                result = await attempt.done
            finally:
                attempt.abandon()
                self._connections.give_back(worker, connection)
            if result.fault is not Fault.STALE:
                return result
            # The worker closed a kept connection just then: that says nothing about it.
            stale, connection = True, None
            since_s = monotonic()

    def _send(
        self,
        worker: Worker,
        request: Request,
        attempt: Attempt,
        request_id: str,
        connection: UpstreamConnection,
    ) -> None:
        body = request.body_for(worker)
        length = len(body) if request.upload is None else request.upload.length
        head = upstream_head(
            request.method, request.target, worker, request.headers, request_id, length
        )
        connection.send(head, body, attempt)

    async def _send_upload(
        self,
        upload: Upload,
        connection: UpstreamConnection,
        attempt: Attempt,
        record: Record,
    ) -> None:
        """Pass the body on as it comes, for as long as the worker has not answered. Its last byte
        starts the request's clock."""
        sending = asyncio.create_task(upload.send(connection))
        try:
            either: set[asyncio.Future[Any]] = {sending, attempt.done}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not attempt.done.done():  # the end of an answer ends the reading of its request
                sending.result()
        finally:
            sending.cancel()
            (stopped,) = await asyncio.gather(sending, return_exceptions=True)
            if stopped is not None:
                connection.close()  # half a request is left behind: none can follow it
            record.started_at_s = upload.read_at_s or record.started_at_s

    def _give_up(
        self,
        answer: Answer,
        record: Record,
        tried: Sequence[Worker],
        refusal: Refusal | None,
        fault: Fault,
        *,
        poison: bool,
    ) -> None:
        """No worker answered: the last word is a worker's own refusal, or an error of ours."""
        if refusal is not None:
            answer.whole(refusal.status, refusal.headers, refusal.body)
            record.outcome = faults.outcome_of_status(refusal.status)
            return
        if not tried:
            raise GatewayError(
                Kind.NO_WORKER, "No worker that serves this model is available now; try again."
            )
        if poison:
            _log.warning(
                "suspect_poison: request %s failed %s workers; it will not be sent to another",
                record.request_id,
                _MOST_SENDS,
            )
        rule = faults.TABLE[fault]
        asked = "The worker" if len(tried) == 1 else f"The last of {len(tried)} workers asked"
        raise GatewayError(
            rule.error,
            f"{asked} {rule.why} ({fault.value}).",
            retry=False if poison else None,
        )

"""One worker's answer to one request, on its way down: observed, timed, and given up on in time.

The worker's connection calls in here from `data_received`; what is to go down is written in the
same step. Nothing here waits.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from gateway.errors import GatewayError
from gateway.relay import faults, headers
from gateway.relay.faults import Fault, outcome_of_status
from gateway.relay.observer import EventTooLarge, StreamObserver
from gateway.terms import Outcome, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.relay.answer import Answer
    from gateway.relay.request import Request
    from gateway.relay.sinks import Headers
    from gateway.relay.upstream import UpstreamConnection

_BUSY = (429, 503)
# Whole answers up to this size are read for their usage; a larger one (embeddings, say) only in
# its first and last bytes: vLLM writes it last, but for rerank.
_USAGE_BYTES = 1024 * 1024
_USAGE_END_BYTES = 8 * 1024
# A busy worker's refusal is kept while another worker is asked; no real one is larger.
_REFUSAL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that a worker may stay silent, and that a stream's head may wait."""

    first_byte_s: float
    idle_s: float
    head_hold_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A worker's own whole answer, kept while another worker is asked."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended. No fault: the client has its answer, whatever it was."""

    fault: Fault | None = None
    refusal: Refusal | None = None


_ANSWERED = Result()


class Attempt:
    """Takes in the answer to one request as sent to one worker."""

    __slots__ = (
        "_answer",
        "_connection",
        "_head",
        "_kept",
        "_kept_bytes",
        "_last_byte_s",
        "_max_event_bytes",
        "_next_comment_s",
        "_observer",
        "_paused",
        "_request",
        "_status",
        "_timer",
        "_waits",
        "done",
        "may_retry",
        "on_body",
    )

    def __init__(
        self,
        request: Request,
        answer: Answer,
        connection: UpstreamConnection,
        waits: Waits,
        *,
        max_event_bytes: int,
        may_retry: bool,
    ) -> None:
        self._request = request
        self._answer = answer
        self._connection = connection
        self._waits = waits
        self._max_event_bytes = max_event_bytes
        self.may_retry = may_retry
        """Another worker could be asked."""
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Result] = loop.create_future()
        self.on_body: Callable[[bytes, float], None] = self._keep_refusal
        self._observer: StreamObserver | None = None
        self._status = 0
        self._head: Headers = []
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._paused = False
        self._last_byte_s = monotonic()
        self._next_comment_s = answer.record.started_at_s + waits.head_hold_s
        first_wait_s = min(waits.first_byte_s, waits.idle_s)
        if request.stream:
            first_wait_s = min(first_wait_s, self._next_comment_s - self._last_byte_s)
        self._timer = loop.call_later(max(0.0, first_wait_s), self._check_time)
        answer.sink.flow = self
        if answer.sink.paused:
            self.on_pause()

    def abandon(self) -> None:
        """Stop: nobody waits for this answer any more. Closes the connection if it still runs."""
        self._timer.cancel()
        self._answer.sink.flow = None
        self.on_body = _ignore  # breaks the cycle of references
        if self.done.cancelled() or not self.done.done():
            self._account()  # what had gone down until the client left is counted
            self.done.cancel()
            self._connection.close()

    # --- Receiver: what the worker sends ---

    def on_head(self, status: int, head: Headers) -> None:
        """See `upstream.Receiver`."""
        self._status = status
        self._head = head
        self._last_byte_s = monotonic()
        if status in _BUSY and self.may_retry:
            return
        content_type = headers.find(head, b"content-type").lower()
        if status == 200 and content_type.startswith(b"text/event-stream"):
            self._observer = StreamObserver(
                self._request.format,
                hide_usage=self._request.hide_usage,
                max_event_bytes=self._max_event_bytes,
            )
            self._answer.observer = self._observer
            self.on_body = self._first_events
        elif not self._answer.head_down:
            self.on_body = self._whole_body

    def on_end(self) -> None:
        """See `upstream.Receiver`."""
        if self._observer is not None:
            self._end_of_stream(self._observer)
        elif self.on_body == self._whole_body:
            self._end_of_whole()
        else:
            refusal = Refusal(self._status, self._head, b"".join(self._kept))
            if self._status in _BUSY and self.may_retry:
                self._finish(Result(Fault.BUSY, refusal))
            else:
                self._deliver(refusal)

    def on_fault(self, fault: Fault) -> None:
        """See `upstream.Receiver`."""
        if not self._answer.begun:
            self._finish(Result(fault))
            return
        rule = faults.TABLE[fault]
        record = self._answer.record
        error = GatewayError(rule.error, f"The worker {rule.why}; this answer is not whole.")
        try:
            self._answer.fail(error)
        finally:  # whatever becomes of telling it, the request ends
            record.outcome, record.error = rule.outcome, fault.value
            self._account()
            self._finish(_ANSWERED)

    # --- Flow: what the client can take ---

    def on_pause(self) -> None:
        """See `sinks.Flow`."""
        self._paused = True
        self._connection.pause()

    def on_resume(self) -> None:
        """See `sinks.Flow`."""
        self._paused = False
        self._last_byte_s = monotonic()
        self._connection.resume()

    # --- a stream ---

    def _first_events(self, data: bytes, read_at_s: float) -> None:
        """Body bytes of a stream whose first answer has not come yet."""
        observer = self._observer
        assert observer is not None  # noqa: S101 - on_head set both
        self._last_byte_s = read_at_s
        try:
            down = observer.feed(data)
        except EventTooLarge:
            self._fail_here(Fault.EVENT_TOO_LARGE)
            return
        if not observer.answered:
            return
        if observer.refusal is not None and self._refused_late(observer):
            return
        answer = self._answer
        if not answer.head_down:
            # Never with the worker's length: a usage event may be taken out, a failure be told.
            answer.head(self._status, self._head, None, stream=True)
        answer.begun = True
        self.on_body = self._events
        self._down(observer, down, read_at_s)

    def _events(self, data: bytes, read_at_s: float) -> None:
        """Body bytes of a stream that is under way."""
        observer = self._observer
        try:
            down = observer.feed(data)  # type: ignore[union-attr]  # set with this method
        except EventTooLarge:
            self._fail_here(Fault.EVENT_TOO_LARGE)
            return
        self._last_byte_s = read_at_s
        self._down(observer, down, read_at_s)  # type: ignore[arg-type]

    def _down(self, observer: StreamObserver, down: bytes, read_at_s: float) -> None:
        answer = self._answer
        if down:
            answer.sink.write(down)
        record = answer.record
        now_s = monotonic()
        if observer.fresh:
            record.times.add(observer.fresh, now_s)
        record.overhead_s += now_s - read_at_s

    def _refused_late(self, observer: StreamObserver) -> bool:
        """The engine refused after the worker's 200: a real status, while that can be said."""
        reading = observer.refusal
        assert reading is not None  # noqa: S101 - the caller has looked
        assert reading.error is not None  # noqa: S101 - that is what a refusal is
        status = reading.error_status or 500
        refusal = Refusal(status, [(b"content-type", b"application/json")], reading.error)
        if status in _BUSY and self.may_retry:
            self._connection.close()
            self._finish(Result(Fault.BUSY, refusal))
            return True
        if self._answer.head_down:
            return False
        self._connection.close()
        self._deliver(refusal)
        return True

    def _end_of_stream(self, observer: StreamObserver) -> None:
        rest = observer.finish()
        if not self._answer.begun or not (observer.ended or observer.error):
            self.on_fault(Fault.TRUNCATED)
            return
        if rest:
            self._answer.sink.write(rest)
        self._answer.sink.end()
        record = self._answer.record
        if observer.error is None:
            record.outcome = Outcome.OK
        elif observer.error is observer.refusal:
            # A late refusal with comments before it is a refusal still.
            record.outcome = outcome_of_status(observer.error.error_status or 500)
        else:
            record.outcome = Outcome.WORKER_FAILED
        if record.outcome is Outcome.WORKER_FAILED:
            record.error = Fault.FAILED.value
        self._account()
        self._finish(_ANSWERED)

    # --- a whole answer ---

    def _whole_body(self, data: bytes, read_at_s: float) -> None:
        answer = self._answer
        self._last_byte_s = read_at_s
        if not answer.begun:
            answer.begun = True
            known = headers.content_length(self._head)
            answer.head(self._status, self._head, known, stream=False)
        answer.sink.write(data)
        now_s = monotonic()
        answer.record.overhead_s += now_s - read_at_s
        if self._request.audio and self._status == 200:
            self._hear(len(data), now_s)
            return
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > _USAGE_BYTES:
            kept = b"".join(self._kept)
            self._kept = [
                kept[:_USAGE_END_BYTES],
                kept[_USAGE_END_BYTES:][-_USAGE_END_BYTES:],
            ]

    def _hear(self, size: int, now_s: float) -> None:
        """Sound has gone down: its first byte is the stream's first token."""
        record = self._answer.record
        if not record.audio_bytes:
            record.times.add(1, now_s)
        record.audio_bytes += size

    def _end_of_whole(self) -> None:
        answer = self._answer
        if not answer.begun:
            answer.begun = True
            answer.head(self._status, self._head, 0, stream=False)
        answer.sink.end()
        answer.record.outcome = outcome_of_status(self._status)
        if self._status == 200 and self._request.model:  # else counted when it was made
            usage_of = self._request.format.usage_of
            # Embeddings as bare bytes have it in a header.
            answer.record.usage = usage_of(b"".join(self._kept)) or usage_of(
                headers.find(self._head, b"metadata")
            )
        self._finish(_ANSWERED)

    # --- a refusal ---

    def _keep_refusal(self, data: bytes, read_at_s: float) -> None:
        """Body bytes of an answer that goes down only if no other worker has a better one."""
        self._last_byte_s = read_at_s
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > _REFUSAL_BYTES:
            self._fail_here(Fault.BAD_RESPONSE)

    def _deliver(self, refusal: Refusal) -> None:
        self._answer.whole(refusal.status, refusal.headers, refusal.body)
        self._answer.record.outcome = outcome_of_status(refusal.status)
        self._finish(_ANSWERED)

    # --- ends ---

    def _check_time(self) -> None:
        now_s = monotonic()
        waits = self._waits
        upload = self._request.upload
        if upload is not None and not self._answer.begun:
            # Its time begins with the last byte of its request; until then it need only read.
            self._last_byte_s = max(self._last_byte_s, upload.moved_at_s or now_s)
            if not upload.read_at_s:
                self._next_comment_s = now_s + waits.head_hold_s
            else:
                due_s = upload.read_at_s + waits.head_hold_s
                self._next_comment_s = max(self._next_comment_s, due_s)
        limit_s = waits.idle_s if self._answer.begun else waits.first_byte_s
        silent_s = 0.0 if self._paused else now_s - self._last_byte_s
        if silent_s >= limit_s:
            self._fail_here(Fault.SILENT)
            return
        next_s = limit_s - silent_s
        if self._request.stream and not self._answer.begun:
            if now_s >= self._next_comment_s:
                self._next_comment_s = now_s + waits.head_hold_s
                self._answer.keep_alive(self._observer.release() if self._observer else b"")
            next_s = min(next_s, self._next_comment_s - now_s)
        if not self._answer.begun:
            next_s = min(next_s, waits.idle_s)
        self._timer = asyncio.get_running_loop().call_later(next_s, self._check_time)

    def _fail_here(self, fault: Fault) -> None:
        self._connection.close()
        self.on_fault(fault)

    def _account(self) -> None:
        """Tokens of a stream: the worker's own count, or what was relayed where it gave none."""
        observer = self._observer
        if observer is None:
            return
        record = self._answer.record
        record.token_events = observer.token_events
        relayed = Usage(completion_tokens=observer.token_events, exact=False)
        record.usage = observer.usage or relayed.after(observer.announced)

    def _finish(self, result: Result) -> None:
        self._timer.cancel()
        self._answer.sink.flow = None
        self.on_body = _ignore
        if self._paused:
            self._connection.resume()  # the connection may be kept, and must be able to read
        if not self.done.done():
            self.done.set_result(result)


def _ignore(data: bytes, read_at_s: float) -> None:
    """After the end nothing is taken in."""

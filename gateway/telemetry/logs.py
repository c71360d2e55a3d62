"""What is written to standard error: one line per record, text for people or JSON for machines."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from gateway.telemetry.record import Record

_MOST_WAITING = 500
_WRITE_AFTER_S = 0.05


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO  message`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback where there is one."""
        text = f"{_timestamp(record.created)} {record.levelname:<7} {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `ts`, `level`, `logger`, `msg`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] = {
            "ts": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return _json(fields)


def set_up(level: str, style: Literal["text", "json"]) -> None:
    """Send all logging of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn's own start and stop lines repeat ours; what goes wrong in it must be seen.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class RequestLog:
    """One line per request. Neither prompt nor key is known here, so neither can leak.

    Lines are written together, a moment later: one system call for many requests. Past
    `_MOST_WAITING` they are written at once.
    """

    def __init__(self, style: Literal["text", "json"], stream: TextIO | None = None) -> None:
        self._json = style == "json"
        self._stream = stream
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, record: Record) -> None:
        """A request has ended."""
        fields = request_fields(record)
        now = _timestamp(time.time())
        if self._json:
            line = _json({"ts": now, "level": "info", "logger": "gateway.requests", **fields})
        else:
            line = f"{now} INFO    {' '.join([f'{k}={v}' for k, v in fields.items()])}"
        self._waiting.append(line)
        if len(self._waiting) >= _MOST_WAITING:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_AFTER_S, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            lines = "\n".join([*self._waiting, ""])
            self._waiting.clear()
            (self._stream or sys.stderr).write(lines)


def request_fields(record: Record) -> dict[str, object]:
    """What the line says; times in milliseconds; what is not known is left out."""
    fields: dict[str, object] = {
        "id": record.request_id or "-",
        "endpoint": record.endpoint,
        "model": record.model or "-",
        "worker": record.worker or "-",
        "status": record.status,
        "outcome": record.outcome,
        "duration_ms": round(record.duration_s * 1000, 1),
    }
    if record.error:
        fields["error"] = record.error
    if record.retries:
        fields["retries"] = record.retries
    if record.queue_s:
        fields["queue_ms"] = round(record.queue_s * 1000, 1)
    if record.times.gaps is not None:
        fields["ttft_ms"] = round((record.times.first_at_s - record.started_at_s) * 1000, 1)
        tpot_s = record.tpot_s
        if tpot_s is not None:
            fields["tpot_ms"] = round(tpot_s * 1000, 2)
    usage = record.usage
    if usage is not None:
        fields["prompt_tokens"] = usage.prompt_tokens
        fields["completion_tokens"] = usage.completion_tokens
        if usage.cached_tokens:
            fields["cached_tokens"] = usage.cached_tokens
        if not usage.exact:
            fields["tokens"] = "estimated"
    fields["overhead_ms"] = round(record.overhead_s * 1000, 2)
    return fields


def _timestamp(epoch_s: float) -> str:
    return f"{_second(int(epoch_s))}.{int(epoch_s % 1 * 1000):03d}Z"


@functools.lru_cache(maxsize=4)
def _second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


def _json(fields: dict[str, object]) -> str:
    return json.dumps(fields, ensure_ascii=False)

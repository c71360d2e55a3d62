"""What is written to standard error."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from typing import Any, Literal

import pytest

from gateway.telemetry.logs import JsonFormatter, RequestLog, TextFormatter, request_fields
from gateway.telemetry.record import Record
from gateway.terms import Outcome, Usage

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def line_of(style: Literal["text", "json"], *records: Record) -> str:
    """What the request log writes for `records`."""
    stream = io.StringIO()
    log = RequestLog(style, stream)
    for record in records:
        log.add(record)
    log.flush()
    return stream.getvalue()


def streamed(**more: Any) -> Record:
    record = Record(
        "chat", started_at_s=100.0, request_id="r-1", model="m", worker="http://a:1", stream=True,
        status=200, outcome=Outcome.OK, ended_at_s=101.0, overhead_s=0.0005,
    )  # fmt: skip
    record.times.add(1, 100.25)
    record.times.add(1, 100.75)
    record.usage = Usage(5, 3)
    for name, value in more.items():
        setattr(record, name, value)
    return record


async def test_a_request_is_one_line_of_text() -> None:
    """For people: the figures in milliseconds."""
    line = line_of("text", streamed())
    assert STAMP.sub("NOW", line) == (
        "NOW INFO    id=r-1 endpoint=chat model=m worker=http://a:1 status=200 outcome=ok "
        "duration_ms=1000.0 ttft_ms=250.0 tpot_ms=250.0 prompt_tokens=5 completion_tokens=3 "
        "overhead_ms=0.5\n"
    )


async def test_a_request_is_one_json_object() -> None:
    """For collectors: the same fields, as numbers."""
    (line,) = line_of("json", streamed()).splitlines()
    fields = json.loads(line)
    assert STAMP.fullmatch(fields.pop("ts"))
    assert fields == {
        "level": "info", "logger": "gateway.requests", "id": "r-1", "endpoint": "chat",
        "model": "m", "worker": "http://a:1", "status": 200, "outcome": "ok",
        "duration_ms": 1000.0, "ttft_ms": 250.0, "tpot_ms": 250.0, "prompt_tokens": 5,
        "completion_tokens": 3, "overhead_ms": 0.5,
    }  # fmt: skip


def test_what_is_not_known_is_left_out() -> None:
    """A request that was refused at the door."""
    record = Record("chat", started_at_s=1.0, ended_at_s=1.0, outcome=Outcome.INVALID, status=400)
    record.error = "invalid_json"
    assert request_fields(record) == {
        "id": "-", "endpoint": "chat", "model": "-", "worker": "-", "status": 400,
        "outcome": "invalid", "duration_ms": 0.0, "error": "invalid_json", "overhead_ms": 0.0,
    }  # fmt: skip


def test_what_is_out_of_the_ordinary_is_told() -> None:
    """Retries, a wait, cached tokens, an estimate."""
    usage = Usage(5, 3, cached_tokens=4, exact=False)
    fields = request_fields(streamed(retries=1, queue_s=0.25, usage=usage, error="truncated"))
    assert {name: fields[name] for name in ("retries", "queue_ms", "cached_tokens", "tokens")} == {
        "retries": 1,
        "queue_ms": 250.0,
        "cached_tokens": 4,
        "tokens": "estimated",
    }
    assert fields["error"] == "truncated"


async def test_lines_of_many_requests_are_written_together() -> None:
    """In their order, each whole."""
    written = line_of("text", *(streamed(request_id=f"r-{n}") for n in range(3)))
    assert re.findall(r"id=(r-\d)", written) == ["r-0", "r-1", "r-2"]
    assert written.count("\n") == 3


async def test_lines_do_not_pile_up() -> None:
    """Five hundred that wait are written at once: no unbounded buffer."""
    stream = io.StringIO()
    log = RequestLog("text", stream)
    for _ in range(500):
        log.add(streamed())
    assert stream.getvalue().count("\n") == 500
    log.flush()
    assert stream.getvalue().count("\n") == 500


def test_a_record_has_no_place_for_a_prompt_or_a_key() -> None:
    """What is not known cannot leak: a new field here must be thought about."""
    assert set(Record.__dataclass_fields__) == {
        "endpoint", "started_at_s", "request_id", "model", "worker", "stream", "choices", "status",
        "outcome", "error", "retries", "queue_s", "overhead_s", "ended_at_s", "times",
        "audio_bytes",
        "token_events", "usage",
    }  # fmt: skip


def message(text: str, *args: object, failed: bool = False) -> logging.LogRecord:
    exc_info: Any = None
    if failed:
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            exc_info = sys.exc_info()
    record = logging.LogRecord("gateway", logging.WARNING, "", 0, text, args, exc_info)
    record.created = 1_769_860_800.0625
    return record


def test_a_message_as_text() -> None:
    """Time in UTC, level, message."""
    assert (
        TextFormatter().format(message("worker %s is away", "a"))
        == "2026-01-31T12:00:00.062Z WARNING worker a is away"
    )


def test_a_message_as_json() -> None:
    """One object, one line, whatever is in it."""
    line = JsonFormatter().format(message("worker %s\nis away", 'é"'))
    assert "\n" not in line
    assert json.loads(line) == {
        "ts": "2026-01-31T12:00:00.062Z",
        "level": "warning",
        "logger": "gateway",
        "msg": 'worker é"\nis away',
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_defect_comes_with_its_traceback(formatter: logging.Formatter) -> None:
    """In JSON within the one line."""
    line = formatter.format(message("failed", failed=True))
    assert "RuntimeError: broken" in line
    if isinstance(formatter, JsonFormatter):
        assert "RuntimeError: broken" in json.loads(line)["exception"]
        assert "\n" not in line

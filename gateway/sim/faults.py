"""The fault language: how to ask this worker to misbehave.

A specification is a list of items, separated by commas: ``name``, ``name=value``, ``name@where``
or ``name@where=value``. It comes with one request in the header ``X-Sim-Fault``, or for many with
the start flag ``--fault`` (repeatable; the first that applies is taken, and the header wins).

``@where`` counts what has gone out: ``@0`` before the head, ``@head`` after the head, ``@3`` after
three events (role and usage events count; for audio and vectors, pieces). For an answer that is no
stream, ``@1`` and later mean in the middle of the body.

    reset@3                     RST after three events
    eof@0                       close before the head
    status=429,retry-after=7    refuse
    cut=1,newline=crlf,comments one byte per write, CRLF ends, comments between
    reset@0,p=0.1               with --fault: one request in ten
    hang@0,path=/health         with --fault: only this path

The names are in ``FAULTS``; ``vllm-gateway sim --help`` prints them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from gateway.sim.options import parse_duration

BEFORE_HEAD, AFTER_HEAD = 0, 1
"""Progress of an answer; n + 1 is after n events."""

INFERENCE_PATHS = frozenset({
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
    "/v1/embeddings", "/v2/embed", "/pooling", "/classify",
    "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank",
    "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech",
    "/v1/images/generations", "/v1/images/edits",
})  # fmt: skip
"""What runs the model: the paths that start flags without ``path=`` meet."""


class Rule(NamedTuple):
    """What an item takes, and what it does."""

    where: bool
    value: Callable[[str], object] | None
    default: object
    """The value when none is written; ``...`` means that one must be."""
    text: str


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("must be 1 or more")
    return number


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError("must be between 0 and 1")
    return share


def _status(text: str) -> int:
    status = int(text)
    if not 400 <= status <= 599:
        raise ValueError("must be between 400 and 599")
    return status


def _word(*allowed: str) -> Callable[[str], object]:
    def check(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be {' or '.join(allowed)}")
        return text

    return check


FAULTS: dict[str, Rule] = {
    # Endings.
    "reset": Rule(True, None, None, "RST"),
    "eof": Rule(True, None, None, "close; in a stream without the last chunk"),
    "truncate": Rule(True, None, None, "end the stream cleanly, without its terminal event"),
    "hang": Rule(True, None, None, "keep the connection, say nothing more"),
    "bad-chunk": Rule(True, None, None, "a chunk header that is none, then close"),
    "error": Rule(
        True, _status, 500, "an error event with this code, and the end (audio: a break)"
    ),
    "sleep": Rule(True, parse_duration, ..., "pause once, so long"),
    "no-done": Rule(False, None, None, "no terminal event ([DONE] …); the stream ends cleanly"),
    # Refusals; they never reach the engine.
    "status": Rule(False, _status, ..., "answer with this status and vLLM's error body"),
    "retry-after": Rule(False, str, ..., "with status: this Retry-After header"),
    "error-first": Rule(False, _status, 400, "200, then an error event first, and the end"),
    # Heads.
    "bad-head": Rule(False, None, None, "a head that is no HTTP, then close"),
    "huge-head": Rule(False, _count, 100_000, "a header of so many bytes"),
    "http10": Rule(False, None, None, "HTTP/1.0, no chunks, ends by closing"),
    "close": Rule(False, None, None, "Connection: close, and close at the end"),
    "late-head": Rule(False, parse_duration, ..., "the head comes so late"),
    "slow-first": Rule(False, parse_duration, ..., "head at once, first event so late"),
    "slow-head": Rule(False, parse_duration, ..., "the same as slow-first"),
    # Framing.
    "content-length": Rule(False, None, None, "the whole stream with a length, no chunks"),
    "chunk-ext": Rule(False, None, None, "chunk extensions"),
    "trailers": Rule(False, None, None, "a trailer field after the last chunk"),
    "rechunk": Rule(False, _count, ..., "chunks of so many bytes, whatever the events"),
    "merge": Rule(False, _count, ..., "so many events in one chunk"),
    "coalesce": Rule(False, _count, ..., "so many events in one write"),
    "cut": Rule(False, _count, 1, "so many bytes per write"),
    "pause": Rule(False, parse_duration, ..., "with cut: wait so long between writes"),
    # Events.
    "newline": Rule(False, _word("crlf", "cr"), "crlf", "line ends of events"),
    "comments": Rule(False, None, None, "a comment before and inside every event"),
    "big-event": Rule(False, _count, 1_000_000, "the first text event is so many bytes long"),
    "no-usage": Rule(False, None, None, "no usage event or field, though asked for"),
    "zero-usage": Rule(False, None, None, "usage of zero"),
    # Connections.
    "stale": Rule(
        False,
        _word("next", "reset", "now"),
        "next",
        "answer well; then close when the next request comes (reset: RST), or at once (now)",
    ),
    # Scope, for --fault.
    "p": Rule(False, _share, ..., "only this share of the requests"),
    "first": Rule(False, _count, ..., "only the first so many requests"),
    "skip": Rule(False, _count, ..., "not the first so many requests"),
    "path": Rule(False, str, ..., "only this path (without it: every path that runs the model)"),
}

ENDINGS = ("reset", "eof", "truncate", "hang", "bad-chunk", "error")
_ITEM = re.compile(r"([a-z][a-z0-9-]*)(?:@(\d+|head))?(?:=(.+))?")


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a specification."""

    progress: int
    value: object


class Fault:
    """One parsed specification."""

    def __init__(self, items: dict[str, Item]) -> None:
        self._items = items

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def at(self, name: str) -> int | None:
        """The progress at which ``name`` happens; None: it was not asked for."""
        item = self._items.get(name)
        return None if item is None else item.progress

    def text(self, name: str, default: str = "") -> str:
        """Its value as text."""
        item = self._items.get(name)
        return default if item is None else str(item.value)

    def integer(self, name: str, default: int = 0) -> int:
        """Its value as a count."""
        item = self._items.get(name)
        return item.value if item is not None and isinstance(item.value, int) else default

    def number(self, name: str, default: float = 0.0) -> float:
        """Its value as seconds or a share."""
        item = self._items.get(name)
        return item.value if item is not None and isinstance(item.value, float) else default

    def ending(self) -> tuple[str, int] | None:
        """The ending that comes first, and its progress."""
        found = [(item.progress, name) for name, item in self._items.items() if name in ENDINGS]
        return min(found)[::-1] if found else None


def parse(spec: str) -> Fault:
    """Raises ``ValueError`` that says which item is wrong, and why."""
    items: dict[str, Item] = {}
    for part in filter(None, map(str.strip, re.split("[,;]", spec))):
        match = _ITEM.fullmatch(part)
        rule = FAULTS.get(match[1]) if match else None
        if match is None or rule is None:
            raise ValueError(f"unknown fault {part!r}; known are: {', '.join(FAULTS)}")
        name, where, value = match.groups()
        items[name] = Item(_progress(part, rule, where), _value(part, rule, value))
    if not items:
        raise ValueError("an empty fault specification")
    return Fault(items)


def _progress(part: str, rule: Rule, where: str | None) -> int:
    if rule.where and where is None:
        raise ValueError(f"fault {part!r} needs a place, such as @0, @head or @3")
    if not rule.where and where is not None:
        raise ValueError(f"fault {part!r} takes no place")
    if where is None or where == "0":
        if where is not None and part.startswith(("error", "truncate")):
            raise ValueError(f"fault {part!r} needs a head first: write @head or @1")
        return BEFORE_HEAD
    return AFTER_HEAD if where == "head" else int(where) + 1


def _value(part: str, rule: Rule, text: str | None) -> object:
    if text is None:
        if rule.default is ...:
            raise ValueError(f"fault {part!r} needs a value")
        return rule.default
    if rule.value is None:
        raise ValueError(f"fault {part!r} takes no value")
    try:
        return rule.value(text)
    except ValueError as error:
        raise ValueError(f"fault {part!r}: {error}") from None


class FaultPlan:
    """The faults of the start flags: which requests they meet."""

    def __init__(self, specs: tuple[str, ...], rng: Random) -> None:
        self._faults = [parse(spec) for spec in specs]
        self._seen = [0] * len(specs)
        self._rng = rng

    def choose(self, path: str) -> Fault | None:
        """The fault for the next request on ``path``."""
        for number, fault in enumerate(self._faults):
            wanted = fault.text("path")
            if path != wanted if wanted else path not in INFERENCE_PATHS:
                continue
            self._seen[number] += 1
            turn = self._seen[number] - fault.integer("skip")
            if turn < 1 or ("first" in fault and turn > fault.integer("first")):
                continue
            if "p" in fault and self._rng.random() >= fault.number("p"):
                continue
            return fault
        return None


def describe() -> str:
    """The language for ``--help``, one line per item."""
    lines = []
    for name, rule in FAULTS.items():
        shown = name + ("@N" if rule.where else "")
        if rule.value is not None:
            shown += "=…" if rule.default is ... else f"={rule.default}"
        lines.append(f"  {shown:24}{rule.text}")
    return "\n".join(lines)

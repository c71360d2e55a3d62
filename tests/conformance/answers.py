"""Reading answers, and saying what they look like.

A template looks like the answer it describes: an object has the same fields in the same order, a
type stands for any value of that type, `OneOf(…)` for any of several, `Each(…)` for a list of such
elements with at least one, and any other value for itself.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

WAIT_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Each:
    """A list of one or more elements, each like the template."""

    template: Any


@dataclass(frozen=True)
class Matches:
    """A string that the pattern describes in full."""

    pattern: str


class OneOf:
    """A value like at least one of the templates."""

    def __init__(self, *templates: Any) -> None:
        self.templates = templates


def differences(template: Any, value: Any, path: str = "$") -> list[str]:
    """In what `value` is unlike `template`; one line each, none if it is like it."""
    if isinstance(template, OneOf):
        found = [differences(one, value, path) for one in template.templates]
        return [] if [] in found else found[0]
    if isinstance(template, Matches):
        return _unlike_pattern(template, value, path)
    if isinstance(template, type):
        # In JSON true is no number, though in Python a bool is an int.
        right = type(value) is template
        return [] if right else [f"{path}: {value!r} is no {template.__name__}"]
    if isinstance(template, dict):
        return _unlike_object(template, value, path)
    if isinstance(template, list | Each):
        return _unlike_list(template, value, path)
    same = type(value) is type(template) and value == template
    return [] if same else [f"{path}: {value!r}, not {template!r}"]


def _unlike_pattern(template: Matches, value: Any, path: str) -> list[str]:
    right = isinstance(value, str) and re.fullmatch(template.pattern, value) is not None
    return [] if right else [f"{path}: {value!r} does not match {template.pattern}"]


def _unlike_object(template: dict[str, Any], value: Any, path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no object"]
    if list(template) != list(value):
        return [f"{path}: the fields are {list(value)}, not {list(template)}"]
    return [
        line for key in template for line in differences(template[key], value[key], f"{path}.{key}")
    ]


def _unlike_list(template: list[Any] | Each, value: Any, path: str) -> list[str]:
    if not isinstance(value, list):
        return [f"{path}: {value!r} is no list"]
    elements = [template.template] * max(1, len(value)) if isinstance(template, Each) else template
    if len(elements) != len(value):
        return [f"{path}: {len(value)} elements, not {len(elements)}"]
    return [
        line
        for index, (one, element) in enumerate(zip(elements, value, strict=True))
        for line in differences(one, element, f"{path}[{index}]")
    ]


@dataclass(frozen=True)
class Stream:
    """One whole event stream."""

    events: list[dict[str, Any]]
    """The decoded data of each event, without `[DONE]`."""
    raw: bytes

    @property
    def usages(self) -> list[Any]:
        """What each event that has a `usage` says there."""
        return [event["usage"] for event in self.events if "usage" in event]

    def deltas(self, index: int = 0) -> list[dict[str, Any]]:
        """The chat deltas of one choice."""
        return [choice["delta"] for choice in self._choices(index)]

    def text(self, index: int = 0) -> str:
        """The whole text of one choice, of a chat or a completion."""
        return "".join(
            choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            for choice in self._choices(index)
        )

    def finish_reasons(self, index: int = 0) -> list[str]:
        """The finish reasons of one choice: one, if the worker is sound."""
        reasons = [choice["finish_reason"] for choice in self._choices(index)]
        return [reason for reason in reasons if reason is not None]

    def _choices(self, index: int) -> list[dict[str, Any]]:
        choices = [choice for event in self.events for choice in event["choices"]]
        return [choice for choice in choices if choice["index"] == index]


def read_stream(client: httpx.Client, path: str, body: Mapping[str, Any], **options: Any) -> Stream:
    """POST `body` with `stream: true` and read the stream to its end.

    Asserts what holds for every stream: the head, an event per `data:` line with a blank line
    after it, and one `[DONE]`, at the very end.
    """
    answer = client.post(path, json={**body, "stream": True}, **options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-length" not in answer.headers
    raw = answer.content
    assert raw.endswith(b"data: [DONE]\n\n")
    parts = raw.decode().removesuffix("\n\n").split("\n\n")
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return Stream([json.loads(part.removeprefix("data: ")) for part in parts[:-1]], raw)


@dataclass(frozen=True)
class NamedStream:
    """One whole stream of named events, as Responses and Messages have them."""

    events: list[dict[str, Any]]
    raw: bytes

    @property
    def names(self) -> list[str]:
        """The name of each event."""
        return [event["type"] for event in self.events]

    def all(self, name: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [event for event in self.events if event["type"] == name]


def read_named_stream(
    client: httpx.Client, path: str, body: Mapping[str, Any], **options: Any
) -> NamedStream:
    """POST `body` with `stream: true` and read the stream to its end.

    Asserts what holds for every such stream: the head, and two lines per event, of which the
    first has the type that the data has. There is no `[DONE]`.
    """
    answer = client.post(path, json={**body, "stream": True}, **options)
    return named_stream(answer)


def named_stream(answer: httpx.Response) -> NamedStream:
    """The stream in an answer; asserts what `read_named_stream` does."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-length" not in answer.headers
    raw = answer.content
    assert raw.endswith(b"\n\n")
    events = []
    for part in raw.decode().removesuffix("\n\n").split("\n\n"):
        name, data = part.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return NamedStream(events, raw)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Return once `condition()` is true; fail with `what` when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)

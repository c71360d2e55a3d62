"""Streams as vLLM writes them, drawn by hypothesis, with an oracle that decodes every event."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Stream:
    """The events of one whole answer; `usage` is the place of the usage event, if it has one."""

    events: tuple[bytes, ...]
    usage: int | None
    tokens: int
    """Token events, counted by decoding each event with `json`."""

    @property
    def data(self) -> bytes:
        """All its bytes."""
        return b"".join(self.events)

    @property
    def shown(self) -> bytes:
        """All but the usage event."""
        return b"".join(event for at, event in enumerate(self.events) if at != self.usage)


def is_token(event: bytes) -> bool:
    """Does the event's delta carry text? By the definition, and by nothing but `json`."""
    text = event.decode().strip()
    if not text.startswith("data: {"):
        return False
    for choice in json.loads(text[6:]).get("choices", ()):
        delta = choice.get("delta", {})
        if choice.get("text") or any(
            delta.get(name) for name in ("content", "reasoning", "reasoning_content", "refusal")
        ):
            return True
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            if function.get("name") or function.get("arguments"):
                return True
    return False


def cut(data: bytes, points: Sequence[int]) -> list[bytes]:
    """`data` in pieces, cut at `points` (any numbers)."""
    size = len(data) + 1
    edges = [0, *sorted({point % size for point in points} - {0, len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@st.composite
def reads(draw: st.DrawFn, stream: Stream) -> list[bytes]:
    """The stream's bytes in pieces: cut at ends of events, or anywhere, or at both. What arrives
    together ends with an event more often than chance would have it."""
    points = draw(cut_points)
    end = 0
    for event in stream.events:
        end += len(event)
        if draw(st.booleans()):
            points.append(end)
    return cut(stream.data, points)


cut_points = st.lists(st.integers(0, 2**31), max_size=12)

_texts = st.text(max_size=6) | st.sampled_from(
    (
        "",
        '"',
        '"content":"x"',
        '","content":"',
        '{"choices":[],"usage":{"prompt_tokens":1}}',
        "\n\n",
        "\r\n\r\n",
        "data: [DONE]\n\n",
        "é…🙂",
        "\\",
    )
)
_functions = st.fixed_dictionaries({}, optional={"name": st.just("f"), "arguments": _texts})
_tool_calls = st.lists(
    st.fixed_dictionaries({"index": st.just(0), "function": _functions}), min_size=1, max_size=2
)
_deltas = st.one_of(
    st.fixed_dictionaries({"content": _texts}),
    st.fixed_dictionaries({"reasoning": _texts}),
    st.fixed_dictionaries({"reasoning_content": _texts}),
    st.fixed_dictionaries({"refusal": _texts}),
    st.fixed_dictionaries({"tool_calls": _tool_calls}),
    st.fixed_dictionaries({"content": st.none() | _texts, "reasoning": _texts}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": st.just("")}),
    st.just({}),
)


def _chunk(choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "choices": choices} | more


@st.composite
def _chunks(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        choice: dict[str, Any] = {"index": 0, "delta": draw(_deltas), "finish_reason": None}
    else:
        choice = {"index": 0, "text": draw(_texts), "logprobs": None}
    choices = [choice] * draw(st.integers(1, 2))
    return _chunk(choices, usage=None) if draw(st.booleans()) else _chunk(choices)


@st.composite
def streams(draw: st.DrawFn, *, line_ends: Sequence[str] = ("\n", "\r\n", "\r")) -> Stream:
    """A whole chat or completions answer, up to `[DONE]`."""
    end = draw(st.sampled_from(line_ends)) * 2
    compact = draw(st.booleans())
    ascii_only = draw(st.booleans())

    def event(chunk: dict[str, Any]) -> bytes:
        separators = (",", ":") if compact else (", ", ": ")
        text = json.dumps(chunk, separators=separators, ensure_ascii=ascii_only)
        return f"data: {text}{end}".encode()

    comment = f": keep-alive{end}".encode()
    events = [comment] * draw(st.integers(0, 1))
    for chunk in draw(st.lists(_chunks(), min_size=1, max_size=8)):
        events.append(event(chunk))
        if draw(st.integers(0, 7)) == 0:
            events.append(comment)
    usage = None
    if draw(st.integers(0, 3)):
        usage = len(events)
        counts = {"prompt_tokens": 5, "total_tokens": 12, "completion_tokens": 7}
        events.append(event(_chunk([], usage=counts)))
        events += [comment] * draw(st.integers(0, 1))
    events.append(f"data: [DONE]{end}".encode())
    return Stream(tuple(events), usage, sum(is_token(event) for event in events))

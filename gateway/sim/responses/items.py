"""Output items of a response and the events that open, fill and close them.

Layouts and order are those of ``entrypoints/openai/responses/streaming_events.py`` of vLLM and of
the OpenAI types that it serializes; every event gets its ``sequence_number`` from the writer.
"""

from enum import Enum
from typing import Self

from gateway.sim.schema import Json
from gateway.sim.wire import encode, named_event


class Part(Enum):
    """What an item is."""

    REASONING = "rs_"
    MESSAGE = "msg_"
    CALL = "fc_"


class Event:
    """One event, but for its number."""

    __slots__ = ("after", "before", "name")

    def __init__(self, name: str, before: bytes, after: bytes) -> None:
        self.name = name
        self.before = before
        self.after = after

    @classmethod
    def of(
        cls, name: str, before: Json, *, middle: Json | None = None, last: Json | None = None
    ) -> Self:
        """``before``, the number, ``middle``, the type, ``last``."""
        tail: Json = {**(middle or {}), "type": name, **(last or {})}
        return cls(name, encode(before)[:-1], b"," + encode(tail)[1:])

    def bytes(self, number: int) -> bytes:
        """The event on the wire."""
        data = self.before + b',"sequence_number":%d' % number + self.after
        return named_event(self.name, data)


class Item:
    """One output item as it grows."""

    def __init__(
        self, part: Part, index: int, item_id: str, name: str = "", call_id: str = ""
    ) -> None:
        self.part = part
        self._index = index
        self._id = item_id
        self._name = name
        self._call_id = call_id
        self._text: list[str] = []
        self._logprobs: list[Json] = []
        self._place = {"item_id": item_id, "output_index": index}
        # A piece of text is the common case: all but the piece is ready.
        kind = b',"type":"response.output_text.delta"}'
        self._plain_tail = b',"item_id":' + encode(item_id) + b',"logprobs":'
        self._plain_end = b',"output_index":%d' % index
        self._plain_after = kind

    @property
    def text(self) -> str:
        """All that it holds."""
        return "".join(self._text)

    def opened(self) -> list[Event]:
        """``output_item.added``, and for text and thoughts ``content_part.added``."""
        value = {"item": self.value("in_progress"), "output_index": self._index}
        events = [Event.of("response.output_item.added", value)]
        if self.part is Part.MESSAGE:
            part: Json = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
            events.append(self._part_event("added", part))
        elif self.part is Part.REASONING:
            events.append(self._part_event("added", {"text": "", "type": "reasoning_text"}))
        return events

    def delta(self, text: str, logprobs: list[Json]) -> Event:
        """One more piece of text, thought or arguments."""
        self._text.append(text)
        if self.part is Part.CALL:
            value = {"delta": text, **self._place}
            return Event.of("response.function_call_arguments.delta", value)
        if self.part is Part.REASONING:
            value = {"content_index": 0, "delta": text, **self._place}
            return Event.of("response.reasoning_text.delta", value)
        shown = b"[]"
        if logprobs:
            self._logprobs += logprobs
            shown = encode([_short(entry) for entry in logprobs])
        before = b'{"content_index":0,"delta":' + encode(text) + self._plain_tail + shown
        return Event("response.output_text.delta", before + self._plain_end, self._plain_after)

    def closed(self) -> list[Event]:
        """The ``done`` events."""
        text, place = self.text, self._place
        value = {"item": self.value("completed"), "output_index": self._index}
        done = Event.of("response.output_item.done", value)
        if self.part is Part.CALL:
            name = "response.function_call_arguments.done"
            filled = {"arguments": text, **place}
            return [Event.of(name, filled, last={"name": self._name}), done]
        content = self._part_event("done", self._content())
        if self.part is Part.REASONING:
            first = {"content_index": 0, **place}
            name = "response.reasoning_text.done"
            return [Event.of(name, first, middle={"text": text}), content, done]
        first = {"content_index": 0, "item_id": self._id, "logprobs": []}
        first["output_index"] = self._index
        name = "response.output_text.done"
        return [Event.of(name, first, middle={"text": text}), content, done]

    def value(self, status: str | None) -> Json:
        """The item itself; ``in_progress`` is empty."""
        empty = status == "in_progress"
        if self.part is Part.CALL:
            return {
                "arguments": "" if empty else self.text,
                "call_id": self._call_id,
                "name": self._name,
                "type": "function_call",
                "id": self._id,
                "async": None,
                "caller": None,
                "namespace": None,
                "status": status,
            }
        if self.part is Part.REASONING:
            return {
                "id": self._id,
                "summary": [],
                "type": "reasoning",
                "content": None if empty else [self._content()],
                "encrypted_content": None,
                "status": status,
            }
        return {
            "id": self._id,
            "content": [] if empty or not self._text else [self._content()],
            "role": "assistant",
            "status": status,
            "type": "message",
            "phase": None,
        }

    def _content(self) -> Json:
        if self.part is Part.REASONING:
            return {"text": self.text, "type": "reasoning_text"}
        return {
            "annotations": [],
            "text": self.text,
            "type": "output_text",
            "logprobs": self._logprobs or None,
        }

    def _part_event(self, what: str, part: Json) -> Event:
        value = {"content_index": 0, **self._place, "part": part}
        return Event.of(f"response.content_part.{what}", value)


def _short(entry: Json) -> Json:
    """Logprobs in a delta have no bytes."""
    top = [{"token": one["token"], "logprob": one["logprob"]} for one in entry["top_logprobs"]]
    return {"token": entry["token"], "logprob": entry["logprob"], "top_logprobs": top}

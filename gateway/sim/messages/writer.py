"""The answer of ``/v1/messages``, as events and whole.

Order and layout: ``message_stream_converter`` in ``entrypoints/anthropic/serving.py`` of vLLM.
"""

import json
from hashlib import blake2b

from gateway.sim.answers import Kind
from gateway.sim.machine import derived_id
from gateway.sim.requests import GenerateRequest
from gateway.sim.schema import ApiError, Json
from gateway.sim.sequence import Finish, Sequence, Step
from gateway.sim.wire import Choice, Names, Usage, encode, named_event

_PYDANTIC = "https://errors.pydantic.dev/2.14/v/missing"


class MessagesWriter:
    """Writes one message: blocks of thought, text and tool use, one after the other."""

    def __init__(self, request: GenerateRequest, names: Names) -> None:
        self._request = request
        self._names = names
        self._choice = Choice()
        self._block: Kind | None = None
        self._index = -1
        self._call = -1

    def preamble(self) -> list[bytes]:
        """Nothing leaves before the engine's first output."""
        return []

    def opening(self) -> list[bytes]:
        """``message_start``, with all tokens of the prompt: which were cached comes at the end."""
        message: Json = {
            "id": self._names.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._names.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": len(self._request.prompts[0].tokens), "output_tokens": 0},
        }
        return [_event("message_start", message=message)]

    def token(self, sequence: Sequence, step: Step) -> tuple[bytes, ...]:
        """A block is opened by its first piece, and closed by the next block's."""
        self.add(sequence, step)
        piece, text = step.piece, step.text
        if piece.kind is Kind.CALL:
            if self._hidden(piece.call):
                return ()
            self._call = piece.call
            block = {"type": "tool_use", "id": self._call_id(), "name": text, "input": {}}
            return (*self._stop(), self._start(Kind.CALL, block))
        if not text:
            return ()
        if piece.kind is Kind.ARGUMENTS:
            if self._hidden(piece.call):
                return ()
            return (self._delta({"type": "input_json_delta", "partial_json": text}),)
        if piece.kind is Kind.THOUGHT:
            empty, delta = {"type": "thinking", "thinking": ""}, {"type": "thinking_delta"}
            delta["thinking"] = text
            kind = Kind.THOUGHT
        else:
            empty, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": text}
            kind = Kind.TEXT
        if self._block is kind:
            return (self._delta(delta),)
        return (*self._stop(), self._start(kind, empty), self._delta(delta))

    def ending(self, usage: Usage | None) -> list[bytes]:
        """The last block is closed; ``message_delta`` says why, and what it cost."""
        reason, stop = self._stop_reason()
        delta = {"stop_reason": reason, "stop_sequence": stop}
        more: Json = {} if usage is None else {"usage": _usage(usage)}
        return [*self._stop(), _event("message_delta", delta=delta, **more)]

    def terminal(self, usage: Usage | None) -> bytes:  # noqa: ARG002 - has been told
        """``message_stop``."""
        return _event("message_stop")

    def refused(self, error: ApiError) -> list[bytes]:
        """An ``error`` event and no ``message_stop``; vLLM trips over its own error event."""
        shown = repr(error.body())
        if len(shown) > 50:
            shown = f"{shown[:25]}...{shown[-24:]}"
        text = "2 validation errors for ChatCompletionStreamResponse"
        for name in ("model", "choices"):
            text += f"\n{name}\n  Field required [type=missing, input_value={shown}, "
            text += f"input_type=dict]\n    For further information visit {_PYDANTIC}"
        told = {"type": "internal_error", "message": text}
        return [_event("error", error=told)]

    def add(self, sequence: Sequence, step: Step) -> None:  # noqa: ARG002 - there is only one
        """Take one token for the whole answer."""
        self._choice.add(step)

    def whole(self, usage: Usage) -> bytes:
        """The answer that is no stream; nulls are left out."""
        choice = self._choice
        content: list[Json] = []
        if choice.thoughts:
            thinking = "".join(choice.thoughts)
            block = {"type": "thinking", "thinking": thinking, "signature": self._signature(0)}
            content.append(block)
        text = "".join(choice.text)
        if text:
            content.append({"type": "text", "text": text})
        for number, (name, arguments) in enumerate(choice.calls):
            if self._hidden(number):
                continue
            self._call = number
            value = _loaded("".join(arguments))
            call = {"type": "tool_use", "id": self._call_id(), "name": name, "input": value}
            content.append(call)
        reason, stop = self._stop_reason()
        answer: Json = {
            "id": self._names.id,
            "type": "message",
            "role": "assistant",
            "content": content or [{"type": "text", "text": ""}],
            "model": self._names.model,
            "stop_reason": reason,
        }
        if stop is not None:
            answer["stop_sequence"] = stop
        answer["usage"] = _usage(usage)
        return encode(answer)

    def reasoning_tokens(self) -> None:
        """Anthropic's usage does not tell thoughts apart."""
        return

    def _hidden(self, call: int) -> bool:
        return call > 0 and self._request.single_call

    def _call_id(self) -> str:
        return derived_id("chatcmpl-tool-", self._names.id, 0, self._call)

    def _signature(self, index: int) -> str:
        return blake2b(f"{self._names.id}/{index}".encode(), digest_size=16).hexdigest()

    def _start(self, kind: Kind, block: Json) -> bytes:
        self._block = kind
        self._index += 1
        return _event("content_block_start", content_block=block, index=self._index)

    def _delta(self, delta: Json) -> bytes:
        return _event("content_block_delta", delta=delta, index=self._index)

    def _stop(self) -> list[bytes]:
        if self._block is None:
            return []
        events = []
        if self._block is Kind.THOUGHT:
            signature = self._signature(self._index)
            events.append(self._delta({"type": "signature_delta", "signature": signature}))
        self._block = None
        return [*events, _event("content_block_stop", index=self._index)]

    def _stop_reason(self) -> tuple[str, str | None]:
        choice = self._choice
        if choice.finish is Finish.LENGTH:
            return "max_tokens", None
        if choice.calls:
            return "tool_use", None
        if isinstance(choice.stop_reason, str):
            return "stop_sequence", choice.stop_reason
        return "end_turn", None


def _event(name: str, **fields: object) -> bytes:
    return named_event(name, encode({"type": name, **fields}))


def _usage(usage: Usage) -> Json:
    """Anthropic's ``input_tokens`` are those that were neither in the cache nor put into it."""
    fresh = usage.prompt_tokens
    counts: Json = {"input_tokens": fresh, "output_tokens": usage.completion_tokens}
    if usage.details:
        created = usage.created_cache_tokens or 0
        counts["input_tokens"] = max(fresh - usage.cached_tokens - created, 0)
        counts["cache_creation_input_tokens"] = created
        counts["cache_read_input_tokens"] = usage.cached_tokens
    return counts


def _loaded(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except json.JSONDecodeError:
        return {}  # cut short by max_tokens; vLLM's parser would not have taken it for a call

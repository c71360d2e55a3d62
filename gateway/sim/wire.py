"""JSON as vLLM writes it: what the surfaces share.

Events are put together from bytes in the order of vLLM's pydantic fields: one token of one stream
costs a few concatenations, and the layout can be read off. Source: the ``protocol.py`` files under
``vllm/entrypoints``, and the bytes of a running 0.32.0.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.sim.answers import Kind
from gateway.sim.schema import Json
from gateway.sim.sequence import Finish, Sequence, Step
from gateway.sim.text import Tokenizer

VERSION = "0.32.0"
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

encode = msgspec.json.encode


def event(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + data + b"\n\n"


def named_event(name: str, data: bytes) -> bytes:
    """One server-sent event with its name, as on ``/v1/responses`` and ``/v1/messages``."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


@dataclass(frozen=True, slots=True)
class Names:
    """What every event of an answer repeats."""

    id: str
    created: int
    model: str
    fingerprint: str


@dataclass(slots=True)
class Usage:
    """Counts of one answer, over all its choices."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    created_cache_tokens: int | None = None
    """None: this surface does not count them."""
    details: bool = False
    """``--enable-prompt-tokens-details``, which chat, completions and messages look at."""
    reasoning_tokens: int | None = None
    """None: there is no reasoning parser."""

    def whole(self) -> Json:
        """All fields, as in an answer that is no stream."""
        details = None
        if self.details:
            details = {
                "cached_tokens": self.cached_tokens,
                "created_cache_tokens": self.created_cache_tokens,
                "multimodal_tokens": None,
            }
        return {
            **self._counts(),
            "prompt_tokens_details": details,
            "completion_tokens_details": self._reasoning(),
        }

    def last(self) -> Json:
        """Without nulls, as in the last event of a stream."""
        usage = self._counts()
        if self.details:
            details = {"cached_tokens": self.cached_tokens}
            if self.created_cache_tokens is not None:
                details["created_cache_tokens"] = self.created_cache_tokens
            usage["prompt_tokens_details"] = details
        if self.reasoning_tokens is not None:
            usage["completion_tokens_details"] = self._reasoning()
        return usage

    def _counts(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def _reasoning(self) -> Json | None:
        if self.reasoning_tokens is None:
            return None
        return {"reasoning_tokens": self.reasoning_tokens}


@dataclass(slots=True)
class Choice:
    """One choice as it grows: all that a whole answer needs."""

    text: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    reasoning_tokens: int = 0
    thinking_over: bool = False
    finish: Finish | None = None
    stop_reason: str | int | None = None

    def add(self, step: Step) -> None:
        """Take one more token."""
        piece = step.piece
        self.token_ids.append(piece.token_id)
        if piece.kind is Kind.THOUGHT:
            self.thoughts.append(step.text)
            self.reasoning_tokens += 1
        elif piece.kind is Kind.CALL:
            self.calls.append((step.text, []))
        elif piece.kind is Kind.ARGUMENTS:
            self.calls[piece.call][1].append(step.text)
        elif step.text:
            self.text.append(step.text)
        self.finish = step.finish
        self.stop_reason = step.stop_reason


class Logprobs:
    """Made-up logprobs: the same token at the same place has the same ones."""

    def __init__(self, tokenizer: Tokenizer, alternatives: int, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        # -1 asks for the whole vocabulary; 20 are enough to see that it was asked for.
        self._alternatives = 20 if alternatives == -1 else alternatives
        self._as_ids = as_ids

    def shown(self, token_id: int) -> str:
        """How the token is written."""
        return f"token_id:{token_id}" if self._as_ids else self._tokenizer.shown(token_id)

    def ranked(self, token_id: int, position: int) -> list[tuple[int, float]]:
        """The token with its logprob, then less likely ones."""
        first = -((token_id * 2654435761 + position * 40503) % 2000) / 10_000 - 0.01
        others = range(64 + position % 7, 64 + position % 7 + 40)
        picked = [other for other in others if other != token_id]
        rest = [
            (other, round(first - 0.5 * (rank + 1), 6))
            for rank, other in enumerate(picked[: max(self._alternatives - 1, 1)])
        ]
        return [(token_id, round(first, 6)), *rest]

    def chat(self, token_id: int, position: int) -> Json:
        """One entry of ``logprobs.content``."""
        ranked = self.ranked(token_id, position)
        top = [self._entry(*one) for one in ranked[: self._alternatives]]
        return {**self._entry(*ranked[0]), "top_logprobs": top}

    def _entry(self, token_id: int, logprob: float) -> Json:
        raw = self._tokenizer.shown(token_id).encode()
        return {"token": self.shown(token_id), "logprob": logprob, "bytes": list(raw)}

    def completion(
        self, ids: Items[int], position: int, offset: int, prompt: int = 0
    ) -> tuple[Json, int]:
        """The ``logprobs`` object for some tokens, and the text offset after them.

        The first token of a prompt has none: the first ``prompt`` of ``ids`` are a prompt.
        """
        offsets: list[int] = []
        chosen: list[float | None] = []
        tokens: list[str] = []
        top: list[dict[str, float] | None] = []
        for number, token_id in enumerate(ids):
            ranked = self.ranked(token_id, position + number)
            offsets.append(offset)
            tokens.append(self.shown(token_id))
            offset += len(tokens[-1])
            if prompt and number == 0:
                chosen.append(None)
                top.append(None)
                continue
            chosen.append(ranked[0][1])
            top.append({self.shown(i): value for i, value in ranked[: self._alternatives + 1]})
        parts = {
            "text_offset": offsets,
            "token_logprobs": chosen,
            "tokens": tokens,
            "top_logprobs": top,
        }
        return parts, offset

    def prompt(self, ids: Items[int]) -> list[Any]:
        """``prompt_logprobs``: null, then ``{id: {logprob, rank, decoded_token}}`` per token."""
        entries: list[Any] = [None]
        for number, token_id in enumerate(ids[1:], 1):
            ranked = self.ranked(token_id, number)[: self._alternatives + 1]
            entries.append(
                {
                    str(i): {
                        "logprob": value,
                        "rank": rank,
                        "decoded_token": self._tokenizer.shown(i),
                    }
                    for rank, (i, value) in enumerate(ranked, 1)
                }
            )
        return entries


def usage_of(
    sequences: Items[Sequence], prompts: Items[Items[int]], block_size: int, chat: bool
) -> Usage:
    """Counts when all is done."""
    usage = Usage(sum(map(len, prompts)), sum(len(one.produced) for one in sequences))
    # vLLM takes them from the first output only, and counts new blocks for chats only.
    usage.cached_tokens = sequences[0].cached_tokens
    if chat:
        full = len(prompts[0]) // block_size * block_size
        usage.created_cache_tokens = max(full - usage.cached_tokens, 0)
    return usage

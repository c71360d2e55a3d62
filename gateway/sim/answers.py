"""What the pretended model says: prose, thoughts, tool calls or JSON, as a script of tokens.

The script depends on nothing but the prompt, the seeds and the choice's number.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import Any, NamedTuple

from gateway.sim.text import CALL, END_CALL, END_THINK, EOS, Tokenizer, endless_words, words


class Kind(Enum):
    """Which field of an answer a token belongs to."""

    TEXT = auto()
    THOUGHT = auto()
    CALL = auto()
    ARGUMENTS = auto()
    CONTROL = auto()
    """Tokens that clients never see: end of text, and the marks around thoughts and calls."""


class Piece(NamedTuple):
    """One token of an answer."""

    token_id: int
    text: str
    kind: Kind
    call: int = 0
    """Number of the tool call it belongs to."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a request asks the pretended model for."""

    think: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()
    """The functions to call, in order; empty: answer with text."""
    schema: Mapping[str, Any] | None = None
    """A JSON schema for the text, from ``response_format``."""
    ignore_eos: bool = False
    min_tokens: int = 0


class Script(NamedTuple):
    """The tokens of one choice: those that come first, and what follows if more are wanted."""

    natural: list[Piece]
    endless: Iterator[Piece]


_END = Piece(EOS, "", Kind.CONTROL)
_MAX_SCHEMA_DEPTH = 8


class Author:
    """Writes scripts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._prose: dict[str, Piece] = {}

    def script(self, task: Task, rng: Random) -> Script:
        """The answer to ``task``; it ends with the end-of-text token unless told to go on."""
        natural: list[Piece] = []
        if task.think:
            natural += [self._word(w)._replace(kind=Kind.THOUGHT) for w in words(rng, 12)]
            natural.append(Piece(END_THINK, "", Kind.CONTROL))
        if task.tools:
            for number, tool in enumerate(task.tools):
                natural += self._call(tool, number, rng)
        elif task.schema is not None:
            natural += self._pieces(_json(_value(task.schema, rng)), Kind.TEXT, 0)
        else:
            natural += [self._word(w) for w in words(rng, rng.randint(39, 99))]
        endless = (self._word(w) for w in endless_words(rng))
        if not task.ignore_eos:
            while len(natural) < task.min_tokens:
                natural.append(next(endless))
            natural.append(_END)
        return Script(natural, endless)

    def _word(self, word: str) -> Piece:
        piece = self._prose.get(word)
        if piece is None:
            (token_id,) = self._tokenizer.encode(word)
            piece = self._prose[word] = Piece(token_id, word, Kind.TEXT)
        return piece

    def _pieces(self, text: str, kind: Kind, call: int) -> list[Piece]:
        return [
            Piece(token_id, self._tokenizer.text(token_id), kind, call)
            for token_id in self._tokenizer.encode(text)
        ]

    def _call(self, tool: Mapping[str, Any], number: int, rng: Random) -> Iterator[Piece]:
        # The tool parser of vLLM sends the name in one event, when it is complete; the tokens
        # around it make no event.
        yield Piece(CALL, "", Kind.CONTROL)
        for token_id in self._tokenizer.encode('{"name": '):
            yield Piece(token_id, "", Kind.CONTROL)
        name = str(tool.get("name", ""))
        yield Piece(self._tokenizer.encode(name)[-1], name, Kind.CALL, number)
        arguments = _value(tool.get("parameters") or {"type": "object"}, rng)
        yield from self._pieces(_json(arguments), Kind.ARGUMENTS, number)
        yield Piece(END_CALL, "", Kind.CONTROL)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _value(schema: Any, rng: Random, depth: int = 0) -> Any:
    """A value that fits the common parts of JSON schema: enum, const, anyOf, types."""
    if not isinstance(schema, Mapping) or depth > _MAX_SCHEMA_DEPTH:
        return None
    if "const" in schema:
        return schema["const"]
    choices = schema.get("enum") or schema.get("anyOf") or schema.get("oneOf")
    if isinstance(choices, list) and choices:
        chosen = rng.choice(choices)
        return chosen if "enum" in schema else _value(chosen, rng, depth + 1)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0] if kind else "null"
    if kind == "object":
        properties = schema.get("properties")
        items = properties.items() if isinstance(properties, Mapping) else ()
        return {str(name): _value(inner, rng, depth + 1) for name, inner in items}
    if kind == "array":
        return [_value(schema.get("items", {"type": "string"}), rng, depth + 1) for _ in range(2)]
    return _scalar(kind, rng)


def _scalar(kind: object, rng: Random) -> object:
    if kind == "integer":
        return rng.randint(1, 40)
    if kind == "number":
        return round(rng.uniform(0, 40), 2)
    if kind == "boolean":
        return rng.random() < 0.5
    return rng.choice(("Zürich", "日本", "a quiet café", "Malmö")) if kind == "string" else None

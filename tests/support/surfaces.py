"""What clients send to each row of the surface table, and what vLLM 0.32 answers, byte for byte.

At least one `Case` per row, so that a test written over `CASES` holds for every surface. The bytes
are those of real engines, with short ids. vLLM has neither speech nor images: there OpenAI's are
taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gateway.api.surfaces import CANCEL, RETRIEVE, SURFACES, Reads, Surface
from gateway.routing.response_ids import make_id
from gateway.terms import Usage
from tests.support.raw import PROMPT
from tests.support.samples import (
    COMPLETION,
    COMPLETION_EVENTS,
    EMBEDDED,
    MESSAGE,
    MESSAGE_EVENTS,
    METADATA,
    MODEL,
    RERANK,
    RERANKED,
    RESPONSE_TOKENS,
    RESPONSE_USAGE,
    SCORE,
    SCORED,
    SOUND,
    SPOKEN,
    STREAM,
    TEXT,
    VECTOR,
    asks,
    compact,
    form,
    heard_events,
    pooled,
    response,
    response_events,
)
from tests.support.scripted import WHOLE, answer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.scripted import Exchange

Telling = Literal["data", "event: error", "response.failed", "cut"]
"""How a client is told that an answer which has begun is not whole."""

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
FORM = "multipart/form-data; boundary=XBOUNDARYX"
NONCE = 0x0123456789ABCDEF01234567


@dataclass(frozen=True)
class Case:
    """One request, and one worker's whole answer to it."""

    name: str
    surface: Surface
    body: bytes
    """As the client sends it."""
    parts: tuple[bytes, ...]
    """Body of the answer: event by event where it is a stream, else in pieces."""
    content_type: str = JSON
    """Of the request."""
    query: str = ""
    answers: str = JSON
    """Content type of the answer."""
    headers: tuple[str, ...] = ()
    """Further headers of the answer."""
    hidden: int | None = None
    """Place of the usage event that the client did not ask for."""
    tokens: tuple[int, ...] = ()
    """Places of the token events."""
    usage: Usage | None = None
    """What is counted when the answer is whole."""
    announced: Usage = Usage()  # noqa: RUF009 - is frozen
    """Usage that is known before the engine has answered."""
    telling: Telling = "cut"
    chunked: bool = True

    @property
    def path(self) -> str:
        """Path of the surface."""
        return self.surface.path.decode()

    @property
    def streamed(self) -> bool:
        """The answer is a stream of events."""
        return self.answers == EVENTS

    @property
    def pinned(self) -> bool:
        """One worker alone can answer."""
        return self.surface.reads is Reads.RESPONSE_ID

    @property
    def anthropic(self) -> bool:
        """Errors have Anthropic's shape, not OpenAI's."""
        return self.path.startswith("/v1/messages")

    @property
    def shown(self) -> tuple[bytes, ...]:
        """What of the answer the client is to see."""
        return tuple(part for at, part in enumerate(self.parts) if at != self.hidden)

    @property
    def begun(self) -> tuple[bytes, ...]:
        """The answer up to its second token event, or to its half."""
        if self.tokens:
            return self.parts[: self.tokens[min(1, len(self.tokens) - 1)] + 1]
        whole = b"".join(self.parts)
        return (whole[: len(whole) // 2],)

    def target(self, worker_url: str, owner: bytes = b"") -> str:
        """Path and query; a response in it lives at this worker."""
        path = self.path.replace("{id}", make_id(NONCE, worker_url, owner))
        return f"{path}?{self.query}" if self.query else path

    def request(self, worker_url: str = "", *headers: str, owner: bytes = b"") -> bytes:
        """The whole request."""
        return self.sent_to(self.target(worker_url, owner), *headers)

    def sent_to(self, target: str, *headers: str, method: str = "") -> bytes:
        """The same request with another target, or another method."""
        lines = [f"{method or self.surface.method} {target} HTTP/1.1", "Host: gateway"]
        if self.surface.method == "POST":
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, *headers, "", ""]).encode() + self.body

    def framed(self, parts: Sequence[bytes], *, whole: bool = True) -> bytes:
        """The worker's answer on the wire, as far as `parts` go; `whole`: and its end."""
        size = sum(len(part) for part in self.parts)
        framing = "transfer-encoding: chunked" if self.chunked else f"content-length: {size}"
        head = "\r\n".join(
            ["HTTP/1.1 200 OK", *self.headers, f"content-type: {self.answers}", framing, "", ""]
        ).encode()
        if not self.chunked:
            return head + b"".join(parts)
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        return head + chunks + (b"0\r\n\r\n" if whole else b"")

    async def good(self, exchange: Exchange) -> None:
        """Answers as it should."""
        await exchange.send(self.framed(self.parts))

    def counted(self) -> dict[str, float]:
        """`RunningGateway.tokens` after the whole answer."""
        return told_as(self.usage) if self.usage and not self.pinned else {}

    def counted_when_cut(self) -> dict[str, float]:
        """The same after `begun` alone: what was relayed."""
        if not self.streamed or self.pinned:
            return {}
        relayed = sum(at < len(self.begun) for at in self.tokens)
        return told_as(replace(self.announced, completion_tokens=relayed, exact=False))


def told_as(usage: Usage) -> dict[str, float]:
    """Usage as `RunningGateway.tokens` tells it."""
    exactness = "exact" if usage.exact else "estimated"
    counts = {
        f"prompt {exactness}": usage.prompt_tokens,
        f"completion {exactness}": usage.completion_tokens,
        f"cached_prompt {exactness}": usage.cached_tokens,
    }
    return {name: float(count) for name, count in counts.items() if count}


# --- the table ---

_ROW = {surface.path.decode(): surface for surface in SURFACES}
_MESSAGES = [{"role": "user", "content": PROMPT}]


def _case(path: str, parts: Sequence[bytes], *, name: str = "", **more: Any) -> Case:
    """A case of the row at `path`."""
    return Case(name=name or path.strip("/"), surface=_ROW[path], parts=tuple(parts), **more)


def _streamed(path: str, parts: Sequence[bytes], telling: Telling, **more: Any) -> Case:
    """A streamed case of the row at `path`."""
    fields = {"name": f"{path.strip('/')} streamed", "answers": EVENTS, **more}
    return _case(path, parts, telling=telling, **fields)


_CHAT_EVENTS = answer_of("unit", ' V"', "é")
_AUDIO = {"content_type": FORM}

CASES: tuple[Case, ...] = (
    _case(
        "/v1/chat/completions",
        [WHOLE],
        body=asks(messages=_MESSAGES),
        usage=Usage(5, 3),
        chunked=False,
        query="trace=a%2Fb&x",
    ),
    _streamed(
        "/v1/chat/completions",
        _CHAT_EVENTS,
        "data",
        body=asks(messages=_MESSAGES, stream=True),
        hidden=len(_CHAT_EVENTS) - 2,
        tokens=(1, 2, 3),
        usage=Usage(5, 3),
    ),
    _case(
        "/v1/completions",
        [COMPLETION],
        body=asks(prompt=PROMPT),
        usage=Usage(117, 3, 96),
        chunked=False,
    ),
    _streamed(
        "/v1/completions",
        COMPLETION_EVENTS,
        "data",
        body=asks(prompt=PROMPT, stream=True, stream_options={"include_usage": True}),
        tokens=(0, 2, 3),
        usage=Usage(117, 3, 96),
    ),
    _case(
        "/v1/responses",
        [compact(response())],
        body=asks(input=PROMPT),
        usage=RESPONSE_USAGE,
        chunked=False,
    ),
    _streamed(
        "/v1/responses",
        response_events(),
        "response.failed",
        body=asks(input=PROMPT, stream=True),
        tokens=RESPONSE_TOKENS,
        usage=RESPONSE_USAGE,
    ),
    _case(
        "/v1/messages",
        [MESSAGE],
        body=asks(messages=_MESSAGES, max_tokens=4),
        usage=Usage(122, 4, 96),
        chunked=False,
    ),
    _streamed(
        "/v1/messages",
        MESSAGE_EVENTS,
        "event: error",
        body=asks(messages=_MESSAGES, max_tokens=4, stream=True),
        tokens=(2, 3, 4),
        usage=Usage(122, 4, 96),
        announced=Usage(122),
    ),
    _case(
        "/v1/messages/count_tokens",
        [b'{"input_tokens":18,"context_management":{"original_input_tokens":18}}'],
        body=asks(messages=_MESSAGES),
        query="beta=true",
        chunked=False,
    ),
    _case(
        "/v1/embeddings",
        pooled({"object": "embedding", "embedding": VECTOR}),
        body=asks(input=PROMPT),
        usage=Usage(4),
        chunked=False,
    ),
    _case(
        "/v1/embeddings",
        [SOUND[:256]] * 10,
        name="v1/embeddings bytes",
        body=asks(input=[PROMPT] * 10, encoding_format="bytes"),
        answers="application/octet-stream",
        headers=(f"metadata: {METADATA}",),
        usage=Usage(4000),
    ),
    _case("/v2/embed", [EMBEDDED], body=asks(texts=[PROMPT]), usage=Usage(4), chunked=False),
    _case(
        "/pooling",
        pooled({"object": "pooling", "data": VECTOR}),
        body=asks(input=PROMPT),
        usage=Usage(4),
        chunked=False,
    ),
    _case(
        "/classify",
        pooled({"label": "no", "probs": [0.5000002980232239, 0.4999997], "num_classes": 2}),
        body=asks(input=PROMPT),
        usage=Usage(4),
        chunked=False,
    ),
    *(
        _case(path, SCORED, body=asks(**SCORE), usage=Usage(4), chunked=False)
        for path in ("/score", "/v1/score")
    ),
    *(
        _case(path, RERANKED, body=asks(**RERANK), usage=Usage(29), chunked=False)
        for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    ),
    _case(
        "/tokenize",
        ['{"count":2,"max_model_len":16384,"tokens":[331,488],"token_strs":["The","Ġq"]}'.encode()],
        body=asks(prompt=PROMPT),
        chunked=False,
    ),
    _case("/detokenize", [b'{"prompt":"The quick"}'], body=asks(tokens=[331]), chunked=False),
    *(
        case
        for kind in ("transcription", "translation")
        for case in (
            _case(
                f"/v1/audio/{kind}s",
                [b'{"text":"ine","usage":{"type":"duration","seconds":2}}'],
                body=form(TEXT, MODEL),
                chunked=False,
                **_AUDIO,
            ),
            _streamed(
                f"/v1/audio/{kind}s",
                heard_events(kind),
                "data",
                body=form(TEXT, *STREAM, MODEL),
                tokens=(0, 1, 2),
                usage=Usage(204, 6),
                **_AUDIO,
            ),
        )
    ),
    _case(
        "/v1/audio/speech",
        [SOUND[at : at + 2048] for at in range(0, len(SOUND), 2048)],
        body=asks(input=PROMPT, voice="alloy"),
        answers="audio/wav",
    ),
    _streamed(
        "/v1/audio/speech",
        SPOKEN,
        "data",
        body=asks(input=PROMPT, voice="alloy", stream_format="sse"),
        tokens=(0, 1),
        usage=Usage(14, 101),
    ),
    _case(
        "/v1/images/generations",
        [b'{"created":1795166191,"data":[{"b64_json":"iVBORw0KGgo="}]}'],
        body=asks(prompt=PROMPT),
        chunked=False,
    ),
    _case(
        "/v1/images/edits",
        [b'{"created":1795166191,"data":[{"b64_json":"iVBORw0KGgo="}]}'],
        body=form(TEXT, MODEL),
        chunked=False,
        **_AUDIO,
    ),
    _case(
        RETRIEVE.path.decode(),
        [compact(response())],
        name="v1/responses/ID",
        body=b"",
        query="include=reasoning",
        chunked=False,
    ),
    _streamed(
        RETRIEVE.path.decode(),
        response_events(),
        "response.failed",
        name="v1/responses/ID streamed",
        body=b"",
        query="stream=true&starting_after=-1",
        tokens=RESPONSE_TOKENS,
    ),
    _case(
        CANCEL.path.decode(),
        [compact(response("resp_1", "cancelled", {"background": True}))],
        name="v1/responses/ID/cancel",
        body=b"",
        chunked=False,
    ),
)
"""Whole and streamed answers of every row."""

STREAMS = tuple(case for case in CASES if case.streamed)
FORMS = tuple(case for case in CASES if case.surface.reads is Reads.MULTIPART)

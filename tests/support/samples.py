"""Answers of vLLM 0.32, byte for byte, with short ids: what `surfaces.CASES` are made of."""

from __future__ import annotations

import json

from gateway.terms import Usage
from tests.support.raw import PROMPT


def data_events(*chunks: object) -> tuple[bytes, ...]:
    """Events without a name, and `[DONE]`."""
    events = tuple(b"data: " + compact(chunk) + b"\n\n" for chunk in chunks)
    return (*events, b"data: [DONE]\n\n")


def named_events(*events: dict[str, object]) -> tuple[bytes, ...]:
    """Events that are named as their `type`."""
    return tuple(
        b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), compact(event))
        for event in events
    )


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def asks(**fields: object) -> bytes:
    """A JSON request whose white space and numbers show whether anyone has written it anew."""
    text = json.dumps({"model": "demo", **fields})
    return text[:-1].encode() + b', "unknown_field": {"a": [1.0, 2.50e0]}}'


def form(*fields: tuple[str, str], file: bytes = b"RIFF\x00\xff\r\n--XBOUNDARY not it") -> bytes:
    """A multipart form: a file, then the fields."""
    parts = [
        b'--XBOUNDARYX\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n'
        b"Content-Type: audio/wav\r\n\r\n%b\r\n" % file
    ]
    parts += [
        f'--XBOUNDARYX\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    return b"".join(parts) + b"--XBOUNDARYX--\r\n"


# --- completions ---


def _text_chunk(**choice: object) -> dict[str, object]:
    choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": None, **choice}
    made = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "demo"}
    return {**made, "choices": [choice]}


_USAGE = {
    "prompt_tokens": 117,
    "total_tokens": 120,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 96},
}
COMPLETION_EVENTS = data_events(
    _text_chunk(text="unit"),
    _text_chunk(text=""),
    _text_chunk(text='V "é'),
    _text_chunk(text="K", finish_reason="length"),
    {**_text_chunk(), "choices": [], "usage": _USAGE},
)
COMPLETION = compact({**_text_chunk(text="unitVK", finish_reason="length"), "usage": _USAGE})

# --- responses ---

_ITEM = {"id": "msg_1", "role": "assistant", "status": "completed", "type": "message"}


def response(
    id_: str = "resp_1", status: str = "completed", more: dict[str, object] | None = None
) -> dict[str, object]:
    """The `response` object; its text once it has ended."""
    usage: dict[str, object] | None = None
    output: list[dict[str, object]] = []
    if status == "completed":
        text: dict[str, object] = {
            "annotations": [],
            "text": "unitVK",
            "type": "output_text",
            "logprobs": None,
        }
        output = [{**_ITEM, "content": [text]}]
        usage = {
            "input_tokens": 117,
            "input_tokens_details": {"cached_tokens": 96, "cache_write_tokens": 0},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 0, "tool_output_tokens": 0},
            "total_tokens": 121,
        }
    return {
        "id": id_,
        "created_at": 1795165854,
        "incomplete_details": None,
        "instructions": None,
        "metadata": None,
        "model": "demo",
        "object": "response",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 0.0,
        "tools": [],
        "background": False,
        "previous_response_id": None,
        "status": status,
        "usage": usage,
        **(more or {}),
    }


def response_events(id_: str = "resp_1", **more: object) -> tuple[bytes, ...]:
    """A whole stream of `/v1/responses`, with three token events: 4, 6 and 7."""
    at = {"item_id": "msg_1", "output_index": 0}
    part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
    going = response(id_, "in_progress", more)
    events: list[dict[str, object]] = [
        {"response": going, "type": "response.created"},
        {"response": going, "type": "response.in_progress"},
        {"item": {**_ITEM, "status": "in_progress"}, "type": "response.output_item.added"},
        {"content_index": 0, **at, "part": part, "type": "response.content_part.added"},
        *(
            {
                "content_index": 0,
                "delta": text,
                **at,
                "logprobs": [],
                "type": "response.output_text.delta",
            }
            for text in ("unit", "", 'V"', "K")
        ),
        {"content_index": 0, **at, "text": "unitVK", "type": "response.output_text.done"},
        {"response": response(id_, "completed", more), "type": "response.completed"},
    ]
    numbered = []
    for number, event in enumerate(events):
        kind = event.pop("type")  # vLLM writes it last, after the number
        numbered.append({**event, "sequence_number": number, "type": kind})
    return named_events(*numbered)


RESPONSE_TOKENS = (4, 6, 7)
"""Places of the token events of `response_events`."""
RESPONSE_USAGE = Usage(117, 4, 96)
"""Of `response` and of `response_events`."""

# --- messages ---

MESSAGE = compact(
    {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "unitVKV"}],
        "model": "demo",
        "stop_reason": "max_tokens",
        "usage": {
            "input_tokens": 21,
            "output_tokens": 4,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 96,
        },
    }
)


def _text_delta(text: str) -> dict[str, object]:
    delta = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "delta": delta, "index": 0}


MESSAGE_EVENTS = named_events(
    {
        "type": "message_start",
        "message": {
            "id": "chatcmpl-1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": "demo",
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 122, "output_tokens": 0},
        },
    },
    {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0},
    _text_delta("unit"),
    _text_delta('V"'),
    _text_delta("KV"),
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
        "usage": {
            "input_tokens": 21,
            "output_tokens": 4,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 96,
        },
    },
    {"type": "message_stop"},
)

# --- what is pooled ---

_POOLED = {
    "prompt_tokens": 4,
    "total_tokens": 4,
    "completion_tokens": 0,
    "prompt_tokens_details": None,
    "completion_tokens_details": None,
}
_LISTED = {"id": "embd-1", "object": "list", "created": 1795165814, "model": "demo"}
VECTOR = [-0.14693358540534973, -0.05643128603696823, 0.0744513273239]
_TENSOR = {"embed_dtype": "float32", "endianness": "native", "start": 0, "end": 256, "shape": [64]}
METADATA = json.dumps(
    {
        **_LISTED,
        "data": [{"index": index, **_TENSOR} for index in range(1000)],
        "usage": {"prompt_tokens": 4000, "total_tokens": 4000},
    }
)
_RANKED = {"index": 0, "document": {"text": "The fox", "multi_modal": None}}


def pooled(data: dict[str, object], *, usage: dict[str, object] | None = None) -> tuple[bytes]:
    return (compact({**_LISTED, "data": [{"index": 0, **data}], "usage": usage or _POOLED}),)


RERANK = {"query": PROMPT, "documents": ["The fox", "weather"]}
RERANKED = (
    compact(
        {
            "id": "score-1",
            "model": "demo",
            "usage": {"prompt_tokens": 29, "total_tokens": 29},
            "results": [{**_RANKED, "relevance_score": 0.5000001788139343}],
        }
    ),
)
SCORE = {"text_1": PROMPT, "text_2": "The quick brown fox"}
SCORED = pooled({"object": "score", "score": 0.5000001788139343})
EMBEDDED = compact(
    {
        "id": "embd-1",
        "embeddings": {"float": [VECTOR]},
        "texts": ["Hello"],
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": 4, "image_tokens": 0},
        },
        "response_type": "embeddings_by_type",
    }
)

# --- sound ---


def _heard(kind: str, text: str | None, **more: object) -> dict[str, object]:
    choices = [] if text is None else [{"delta": {"content": text}, **more}]
    made = {"id": "t-1", "object": f"{kind}.chunk", "created": 1, "model": "demo"}
    return {**made, "choices": choices}


def heard_events(kind: str) -> tuple[bytes, ...]:
    return data_events(
        _heard(kind, "<|9.86|>"),
        _heard(kind, '"ine'),
        _heard(kind, "<|5.10|>"),
        _heard(kind, "", finish_reason="length", stop_reason=None),
        {
            **_heard(kind, None),
            "usage": {"prompt_tokens": 204, "total_tokens": 210, "completion_tokens": 6},
        },
    )


TEXT = ("prompt", PROMPT)
MODEL = ("model", "demo")
STREAM = (("stream", "true"), ("stream_include_usage", "true"))
SOUND = bytes(range(256)) * 40
SPOKEN = named_events(
    {"type": "speech.audio.delta", "audio": "UklGRg=="},
    {"type": "speech.audio.delta", "audio": "AAAA"},
    {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115},
    },
)

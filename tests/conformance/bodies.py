"""Requests that the cases send, and templates that several of them expect."""

from typing import Any

from tests.conformance.answers import OneOf
from tests.conformance.targets import Target
from tests.support.engine import MODEL
from tests.support.tiny_model import EOS_TOKEN, WHITESPACE_TOKENS

MADE_UP_ID = "(?:[0-9a-f]{16}|[0-9a-f]{32})"
"""In the id of an answer whose client named none: 16 digits are vLLM's, 32 the gateway's."""

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
EMBEDDINGS = "/v1/embeddings"
COHERE_EMBED = "/v2/embed"
POOLING = "/pooling"
CLASSIFY = "/classify"
SCORE_PATHS = ("/score", "/v1/score")
RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")


def chat(**fields: Any) -> dict[str, Any]:
    """A chat that gives the same answer every time, four tokens long unless `fields` differ."""
    messages = [{"role": "user", "content": "Hi there"}]
    return {"model": MODEL, "messages": messages, **_FIXED, **fields}


def completion(**fields: Any) -> dict[str, Any]:
    """A completion that gives the same answer every time, four tokens unless `fields` differ."""
    return {"model": MODEL, "prompt": "Hello", **_FIXED, **fields}


_FIXED: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}

PATHS_AND_BODIES = [(CHAT, chat), (COMPLETIONS, completion)]
"""For cases that hold for both."""


def response(**fields: Any) -> dict[str, Any]:
    """A response that is the same every time, four tokens long unless `fields` differ."""
    fixed = {"model": MODEL, "input": "Hello", "max_output_tokens": 4, "temperature": 0}
    return {**fixed, **fields}


def message(**fields: Any) -> dict[str, Any]:
    """A message that is the same every time, four tokens long unless `fields` differ."""
    messages = [{"role": "user", "content": "Hi there"}]
    return {"model": MODEL, "messages": messages, "max_tokens": 4, "temperature": 0, **fields}


WEATHER_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris"]},
        "days": {"type": "integer", "enum": [3]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
GET_WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "strict": True, "parameters": WEATHER_SCHEMA},
}
WEATHER_ARGUMENTS = {"city": "Paris", "days": 3}
"""The only arguments that the parameters of `get_weather` allow."""
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def tool_chat(tool_choice: Any, **fields: Any) -> dict[str, Any]:
    """A chat that has to call `get_weather`: guided decoding leaves a random model no choice.

    The bias keeps it from white space between the tokens of the call, and from a second call.
    """
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [GET_WEATHER],
        "tool_choice": tool_choice,
        "max_tokens": 200,
        "temperature": 0,
        "logit_bias": _TO_THE_POINT,
        **fields,
    }


def tool_response(tool_choice: Any, **fields: Any) -> dict[str, Any]:
    """A response that has to call `get_weather`, as `tool_chat` is a chat that has to."""
    tool = {"type": "function", "name": "get_weather", "strict": True, "parameters": WEATHER_SCHEMA}
    choice = {"tools": [tool], "tool_choice": tool_choice, "logit_bias": _TO_THE_POINT}
    return response(input="What is the weather?", **choice, max_output_tokens=200, **fields)


def tool_message(**fields: Any) -> dict[str, Any]:
    """A message that has to call `get_weather`.

    This API has no bias. At a temperature the white space between the tokens of the call is some,
    and not the same for ever.
    """
    tool = {"name": "get_weather", "strict": True, "input_schema": WEATHER_SCHEMA}
    choice = {"tools": [tool], "tool_choice": {"type": "tool", "name": "get_weather"}}
    return message(**choice, temperature=1, max_tokens=2000, **fields)


_TO_THE_POINT = {
    **{str(token): -100 for token in WHITESPACE_TOKENS.values()},
    str(EOS_TOKEN): 100,
}


def usage(prompt: Any, generated: Any, whole: Any, details: Any = None) -> dict[str, Any]:
    """`usage` of a whole answer."""
    return {
        "prompt_tokens": prompt,
        "total_tokens": whole,
        "completion_tokens": generated,
        "prompt_tokens_details": details
        or {
            "cached_tokens": int,
            "created_cache_tokens": OneOf(int, None),
            "multimodal_tokens": None,
        },
        "completion_tokens_details": None,
    }


def fingerprint(target: Target, *, usage_asked: bool) -> dict[str, Any]:
    """The last field of a stream's finishing event.

    vLLM puts the fingerprint into the last event of a stream: the usage event where that is asked
    for, the finishing event where it is not. The gateway always asks, and hides the usage event
    from clients that did not: behind it, they see no fingerprint.
    """
    return {} if usage_asked or target.is_gateway else {"system_fingerprint": str}

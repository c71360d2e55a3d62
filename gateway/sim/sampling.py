"""Sampling parameters: the part of a request that chat and completions share.

The checks and their words are those of vLLM's ``SamplingParams._verify_args``.
"""

import math
from dataclasses import dataclass

from gateway.sim.schema import (
    BOOLEAN,
    INTEGER,
    LIST,
    MAPPING,
    MODEL,
    NUMBER,
    STOP,
    STRING,
    ApiError,
    Json,
    bad_request,
)
from gateway.sim.text import VOCAB_SIZE

MAX_SEQUENCES = 16_384
MAX_LOGPROBS = 20

FIELDS = {
    "frequency_penalty": NUMBER,
    "logit_bias": MAPPING,
    "max_tokens": INTEGER,
    "n": INTEGER,
    "presence_penalty": NUMBER,
    "seed": INTEGER,
    "stop": STOP,
    "stream": BOOLEAN,
    "stream_options": MODEL,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "user": STRING,
    "top_k": INTEGER,
    "min_p": NUMBER,
    "repetition_penalty": NUMBER,
    "stop_token_ids": LIST,
    "include_stop_str_in_output": BOOLEAN,
    "ignore_eos": BOOLEAN,
    "min_tokens": INTEGER,
    "truncate_prompt_tokens": INTEGER,
    "prompt_logprobs": INTEGER,
    "priority": INTEGER,
    "request_id": STRING,
    "return_tokens_as_token_ids": BOOLEAN,
    "return_token_ids": BOOLEAN,
    "cache_salt": STRING,
}
"""Fields of both requests that this worker looks at; others are let through, as vLLM does."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much to generate, and when to stop."""

    max_tokens: int
    """Never more than fits into the context."""
    n: int = 1
    min_tokens: int = 0
    ignore_eos: bool = False
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop: bool = False


def check_stream_options(body: Json) -> None:
    """``stream_options`` needs ``stream``."""
    if body.get("stream_options") and not body.get("stream"):
        raise bad_request(
            "Stream options can only be defined when `stream=True`.", "stream_options"
        )


def check_integers(body: Json, *names: str) -> None:
    """Counts of logprobs: numbers, zero or more, or -1 for all."""
    for name in names:
        value = body.get(name)
        if value is not None and not isinstance(value, int | float):
            raise bad_request(f"`{name}` must be an integer.", name, value=value)
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if name == "prompt_logprobs" and body.get("stream") and (value > 0 or value == -1):
            raise bad_request("`prompt_logprobs` are not available when `stream=True`.", name)
        if value < 0 and value != -1:
            raise bad_request(f"`{name}` must be a positive value or -1.", name, value=value)


def sampling(values: Json, max_tokens: int) -> Sampling:
    """Check and collect. ``max_tokens`` is what was asked for, or what the context leaves."""
    _check_ranges(values)
    n = values.get("n", 1)
    if n < 1:
        raise bad_request(f"n must be at least 1, got {n}.")
    if n > MAX_SEQUENCES:
        raise bad_request(
            f"n must be at most {MAX_SEQUENCES}, got {n}. To increase this limit, set the "
            "VLLM_MAX_N_SEQUENCES environment variable."
        )
    if max_tokens < 1:
        raise bad_request(
            f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens", value=max_tokens
        )
    min_tokens = values.get("min_tokens", 0)
    if min_tokens < 0:
        raise bad_request(f"min_tokens must be greater than or equal to 0, got {min_tokens}.")
    if min_tokens > max_tokens:
        raise bad_request(
            f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}."
        )
    stop = tuple(values.get("stop", ()))
    if not all(stop):
        raise bad_request("stop cannot contain an empty string.")
    if n > 1 and values.get("temperature", 1.0) < 1e-5:
        raise bad_request(f"n must be 1 when using greedy sampling, got {n}.")
    return Sampling(
        max_tokens=max_tokens,
        n=n,
        min_tokens=min_tokens,
        ignore_eos=values.get("ignore_eos", False),
        seed=values.get("seed"),
        stop=stop,
        stop_token_ids=frozenset(values.get("stop_token_ids", ())),
        include_stop=values.get("include_stop_str_in_output", False),
    )


def _check_ranges(values: Json) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        value = values.get(name, 0.0)
        if not -2.0 <= value <= 2.0:
            raise bad_request(f"{name} must be in [-2, 2], got {value}.")
    repetition = values.get("repetition_penalty", 1.0)
    if not math.isfinite(repetition):
        raise bad_request(f"repetition_penalty must be a finite number, got {repetition}.")
    if repetition <= 0.0:
        raise bad_request(f"repetition_penalty must be greater than zero, got {repetition}.")
    _check_temperature(values.get("temperature", 1.0))
    top_p = values.get("top_p", 1.0)
    if not 0.0 < top_p <= 1.0:
        raise bad_request(f"top_p must be in (0, 1], got {top_p}.", "top_p", value=top_p)
    top_k = values.get("top_k", 0)
    if top_k < -1:
        raise bad_request(f"top_k must be 0 (disable), or at least 1, got {top_k}.")
    min_p = values.get("min_p", 0.0)
    if not 0.0 <= min_p <= 1.0:
        raise bad_request(f"min_p must be in [0, 1], got {min_p}.")


def _check_temperature(value: float) -> None:
    if not math.isfinite(value):
        problem = "must be a finite number"
    elif value < 0.0:
        problem = "must be non-negative"
    elif value > 2.0:
        problem = "must be in [0, 2]"
    else:
        return
    raise bad_request(f"temperature {problem}, got {value}.", "temperature", value=value)


def late_error(values: Json, count: int | None) -> ApiError | None:
    """What only the engine notices, so that a stream has its 200 by then."""
    unknown = [int(i) for i in values.get("logit_bias", ()) if not _in_vocabulary(i)]
    if unknown:
        return bad_request(
            f"token_id(s) {unknown} in logit_bias contain out-of-vocab token ids. "
            f"Vocabulary size: {VOCAB_SIZE}",
            "logit_bias",
            value=unknown,
        )
    wanted = values.get("response_format", {}).get("json_schema") or {}
    kind = (wanted.get("schema") or {}).get("type")
    if isinstance(kind, str) and kind not in _JSON_TYPES:
        return bad_request(f"Grammar error: Unsupported type: {kind}")
    return _late_logprobs_error(count)


_JSON_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")


def _in_vocabulary(token: str) -> bool:
    return not token.isdecimal() or int(token) < VOCAB_SIZE


def _late_logprobs_error(count: int | None) -> ApiError | None:
    """Too many logprobs."""
    if count is None or count <= MAX_LOGPROBS:
        return None
    return bad_request(
        f"Requested sample logprobs of {count}, which is greater than max allowed: {MAX_LOGPROBS}",
        "logprobs",
        value=count,
    )

"""Streams chat answers through OpenAI's SDK, as an application does.

The SDK's HTTP client blocks, and runs as it is under gevent, which locust has put under the
standard library.
"""

from __future__ import annotations

import functools
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import httpx2
import openai

from loadtests.chat.answer import Answer, ChatFailure
from loadtests.chat.client import (
    NO_CHAT_EVENT,
    check_end,
    connection_lost,
    http_failure,
    request_body,
)
from loadtests.chat.events import error_name

if TYPE_CHECKING:
    from collections.abc import Iterator

_TAIL_BYTES = 32
_DONE = b"data: [DONE]"


class SdkClient:
    """One SDK client, without its retries: they would hide failures.

    t0 is the call: what the SDK does before it sends is part of what its user waits for.
    """

    def __init__(self, host: str, api_key: str | None, timeout_s: float) -> None:
        self._tail = b""
        self._client = openai.OpenAI(
            base_url=f"{host.rstrip('/')}/v1",
            api_key=api_key or "none",  # the SDK insists on one
            max_retries=0,
            http_client=openai.DefaultHttpxClient(
                timeout=timeout_s,
                verify=_tls_context(),
                event_hooks={"response": [self._watch_end]},
            ),
        )

    def ask(self, model: str, prompt: str, max_tokens: int) -> Answer:
        """See `Client`."""
        self._tail = b""
        answer = Answer(monotonic())
        try:
            self._read(answer, request_body(model, prompt, max_tokens))
        except openai.APIStatusError as error:
            name = error_name(error.code, error.type) if error.code or error.type else ""
            answer.failure = http_failure(error.status_code, name)
        except openai.APIConnectionError as error:
            answer.failure = connection_lost(error.__cause__ or error)
        except openai.APIError as error:
            answer.failure = ChatFailure(f"error event: {error_name(error.code, error.type)}")
        except httpx2.HTTPError as error:  # in mid-stream the SDK lets these through
            answer.failure = connection_lost(error)
        except ValueError:
            answer.failure = ChatFailure(NO_CHAT_EVENT)
        answer.ended_at_s = monotonic()
        check_end(answer, done=self._tail.rstrip().endswith(_DONE))
        return answer

    def close(self) -> None:
        """See `Client`."""
        self._client.close()

    def _read(self, answer: Answer, body: dict[str, Any]) -> None:
        stream = cast(
            "openai.Stream[openai.types.chat.ChatCompletionChunk]",
            self._client.chat.completions.create(**body),
        )
        with stream:
            for chunk in stream:
                now_s = monotonic()
                if any(_has_text(choice.delta) for choice in chunk.choices):
                    answer.token_event(now_s)
                if chunk.usage is not None:
                    answer.tokens = chunk.usage.completion_tokens

    def _watch_end(self, response: httpx2.Response) -> None:
        """The SDK does not tell whether `[DONE]` came or the stream just ended: see the bytes."""
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = _Watched(response.stream, self._saw)

    def _saw(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-_TAIL_BYTES:]


class _Watched(httpx2.SyncByteStream):
    """Passes bytes on, and shows them to `see`."""

    def __init__(self, stream: httpx2.SyncByteStream, see: Any) -> None:
        self._stream = stream
        self._see = see

    def __iter__(self) -> Iterator[bytes]:
        for data in self._stream:
            self._see(data)
            yield data

    def close(self) -> None:
        self._stream.close()


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """One for all users: each would cost them 20 ms and half a megabyte."""
    return ssl.create_default_context()


def _has_text(delta: Any) -> bool:
    """As `events.read_event` has it; what the SDK does not know, it keeps as extras."""
    if delta.content or delta.refusal:
        return True
    extra = delta.model_extra
    if extra and (extra.get("reasoning") or extra.get("reasoning_content")):
        return True
    calls = (call.function for call in delta.tool_calls or ())
    return any(call is not None and (call.name or call.arguments) for call in calls)

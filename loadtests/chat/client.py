"""What the two clients share: the request, and how failures are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from loadtests.chat.answer import ChatFailure

if TYPE_CHECKING:
    from loadtests.chat.answer import Answer

NO_DONE = "stream ended without [DONE]"
NO_TOKEN = "stream without a token event"  # noqa: S105 - not that kind of token
NO_CHAT_EVENT = "event that is no chat event"


class Client(Protocol):
    """Asks for one answer after another."""

    def ask(self, model: str, prompt: str, max_tokens: int) -> Answer:
        """Stream one answer to its end. A failure is told in it, not raised."""

    def close(self) -> None:
        """Give the connection back."""


def request_body(model: str, prompt: str, max_tokens: int) -> dict[str, Any]:
    """The request. Usage is asked for: TPOT needs the worker's own count of tokens."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def http_failure(status: int, name: str) -> ChatFailure:
    """`HTTP 503 no_worker_available`"""
    return ChatFailure(f"HTTP {status} {name}".rstrip())


def connection_lost(error: BaseException) -> ChatFailure:
    """`connection lost: ConnectionResetError`"""
    return ChatFailure(f"connection lost: {type(error).__name__}")


def check_end(answer: Answer, *, done: bool) -> None:
    """An answer that has not failed so far: is it whole?"""
    if answer.failure is None and not done:
        answer.failure = ChatFailure(NO_DONE)
    elif answer.failure is None and answer.first_at_s is None:
        answer.failure = ChatFailure(NO_TOKEN)

"""Streams chat answers through a bare socket: a sixth of the CPU that OpenAI's SDK takes.

It blocks, and runs as it is under gevent, which locust has put under the standard library.
"""

from __future__ import annotations

import json
import socket
import ssl
from time import monotonic
from urllib.parse import urlsplit

import httptools

from loadtests.chat.answer import Answer, ChatFailure
from loadtests.chat.client import (
    NO_CHAT_EVENT,
    check_end,
    connection_lost,
    http_failure,
    request_body,
)
from loadtests.chat.events import EventReader, read_error, read_event

_READ_BYTES = 65_536


class RawClient:
    """One connection, kept between answers.

    Events that came in one read have one stamp, so that the gaps between them are 0.
    """

    def __init__(self, host: str, api_key: str | None, timeout_s: float) -> None:
        parts = urlsplit(host)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = (parts.hostname or "", parts.port or (443 if self._tls else 80))
        self._timeout_s = timeout_s
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = (
            f"POST {parts.path.rstrip('/')}/v1/chat/completions HTTP/1.1\r\n"
            f"Host: {parts.netloc.rpartition('@')[2]}\r\n{key}"
            "Content-Type: application/json\r\nAccept: text/event-stream\r\nContent-Length: "
        )
        self._socket: socket.socket | None = None

    def ask(self, model: str, prompt: str, max_tokens: int) -> Answer:
        """See `Client`."""
        body = json.dumps(request_body(model, prompt, max_tokens)).encode()
        request = f"{self._head}{len(body)}\r\n\r\n".encode() + body
        kept = self._socket is not None
        reading = self._exchange(request)
        if kept and reading.unheard:
            # The server had closed the kept connection: that is its right, and no failure.
            reading = self._exchange(request)
        return reading.finish()

    def close(self) -> None:
        """See `Client`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, request: bytes) -> _Reading:
        reading = _Reading()
        keep = False
        try:
            if self._socket is None:
                self._socket = self._connect()
            self._socket.sendall(request)
            reading.answer.sent_at_s = monotonic()
            while not reading.over and (data := self._socket.recv(_READ_BYTES)):
                reading.feed(data, monotonic())
            keep = reading.over and reading.parser.should_keep_alive()
        except OSError as error:
            reading.lost = error
        except httptools.HttpParserError:
            reading.fail("answer is not HTTP")
        finally:
            # A user who is stopped in mid-answer ends up here too.
            if not keep:
                self.close()
        return reading

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, self._timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return connection
        return self._tls.wrap_socket(connection, server_hostname=self._address[0])


class _Reading:
    """One answer on its way in: httptools calls back, token events are stamped."""

    def __init__(self) -> None:
        self.answer = Answer(monotonic())
        self.parser = httptools.HttpResponseParser(self)
        self.begun = False
        """A byte has come."""
        self.over = False
        """The last byte has come, as HTTP sees it."""
        self.lost: OSError | None = None
        self._done = False
        self._events = EventReader()
        self._error_body = b""
        self._now_s = 0.0

    @property
    def unheard(self) -> bool:
        """The connection ended before anything came."""
        return not self.begun and not isinstance(self.lost, TimeoutError)

    def fail(self, why: str) -> None:
        """The first failure counts."""
        self.answer.failure = self.answer.failure or ChatFailure(why)

    def feed(self, data: bytes, now_s: float) -> None:
        """Bytes that were read at `now_s`."""
        self.begun = True
        self._now_s = now_s
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """httptools: body bytes, without their chunk framing."""
        answer = self.answer
        answer.body_bytes += len(data)
        if self.parser.get_status_code() != 200:
            self._error_body += data
            return
        for event in self._events.feed(data):
            try:
                reading = read_event(event)
            except ValueError:
                self.fail(NO_CHAT_EVENT)
                continue
            if reading.token:
                answer.token_event(self._now_s)
            if reading.tokens is not None:
                answer.tokens = reading.tokens
            if reading.error is not None:
                self.fail(f"error event: {reading.error}")
            if reading.done:
                self._done = True

    def on_message_complete(self) -> None:
        """httptools: the answer is whole, as HTTP sees it."""
        self.over = True

    def finish(self) -> Answer:
        """No more will come: is it whole, as a chat answer?"""
        answer = self.answer
        answer.ended_at_s = monotonic()
        if self.lost is not None:
            answer.failure = answer.failure or connection_lost(self.lost)
        elif not self.begun:
            self.fail("connection closed before an answer")
        elif answer.failure is None and (status := self.parser.get_status_code()) != 200:
            answer.failure = http_failure(status, read_error(self._error_body))
        check_end(answer, done=self._done and self.over)
        return answer

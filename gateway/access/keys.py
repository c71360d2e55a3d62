"""Who may send requests: client keys, held as SHA-256 only."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from gateway.errors import GatewayError, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable


class ClientKeys:
    """The keys that clients may use. Without any, everyone may."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @property
    def required(self) -> bool:
        """Some key is configured."""
        return bool(self._digests)

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The SHA-256 of the key that the request brings; nothing where none is needed.

        GatewayError (INVALID_API_KEY) unless it is known. OpenAI's SDKs send
        `Authorization: Bearer`, Anthropic's `x-api-key`.
        All digests are compared, each in constant time: the time taken tells nothing.
        """
        if not self._digests:
            return b""
        key = _key_of(headers)
        if not key:
            raise GatewayError(
                Kind.INVALID_API_KEY,
                "This gateway needs an API key: send it as `Authorization: Bearer KEY` "
                "(`api_key=` in OpenAI's SDK).",
            )
        digest = hashlib.sha256(key).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise GatewayError(
                Kind.INVALID_API_KEY,
                "This API key is not known here. Check it, or ask who runs the gateway for one.",
            )
        return digest


def _key_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The first `Authorization: Bearer`; without any, the first `x-api-key`."""
    other = b""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            return key.strip() if scheme.lower() == b"bearer" else b""
        if name == b"x-api-key" and not other:
            other = value.strip()
    return other

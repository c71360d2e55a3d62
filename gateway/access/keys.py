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

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """GatewayError (INVALID_API_KEY) unless the request brings a known key.

        All digests are compared, each in constant time: the time taken tells nothing.
        """
        if not self._digests:
            return
        value = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, key = value.partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise GatewayError(
                Kind.INVALID_API_KEY,
                "This gateway needs an API key: send it as `Authorization: Bearer KEY` "
                "(`api_key=` in OpenAI's SDK).",
            )
        digest = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise GatewayError(
                Kind.INVALID_API_KEY,
                "This API key is not known here. Check it, or ask who runs the gateway for one.",
            )

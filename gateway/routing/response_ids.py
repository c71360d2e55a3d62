"""Which worker made a response, and for whose key: both stand in its id. Pure.

A response of `/v1/responses` lives in the worker that made it, and nowhere else. Since its id says
where, any gateway finds it again without sharing anything. Since it also carries a code that only
the same key gives, a response belongs to the key that made it, and an id cannot be made up.

    resp_ NONCE (24 hex) WORKER (8 hex of SHA-256 of its URL) CODE (16 hex of HMAC-SHA-256)
"""

from __future__ import annotations

import hashlib
import hmac
import re

_ID = re.compile(r"resp_([0-9a-f]{24})([0-9a-f]{8})([0-9a-f]{16})")


def worker_tag(url: str) -> str:
    """Eight hex digits that stand for a worker."""
    return hashlib.sha256(url.encode()).hexdigest()[:8]


def make_id(nonce: int, worker_url: str, owner: bytes) -> str:
    """The id of a new response. `nonce` has 96 random bits; `owner` is the hash of the key."""
    named = f"{nonce:024x}{worker_tag(worker_url)}"
    return f"resp_{named}{_code(named, owner)}"


def tag_in(response_id: str, owner: bytes) -> str | None:
    """The tag of the worker that has this response; None where it is not this owner's."""
    found = _ID.fullmatch(response_id)
    if found is None:
        return None
    named = found[1] + found[2]
    return found[2] if hmac.compare_digest(_code(named, owner), found[3]) else None


def _code(named: str, owner: bytes) -> str:
    # The owner first: HMAC fills short keys up with zeros, so a last byte that is none must follow.
    return hmac.digest(owner + b" response", named.encode(), "sha256").hex()[:16]

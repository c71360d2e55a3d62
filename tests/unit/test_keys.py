"""Client keys."""

from __future__ import annotations

import pytest

from gateway.access.keys import ClientKeys
from gateway.errors import GatewayError, Kind

Headers = list[tuple[bytes, bytes]]
KEYS = ClientKeys(["sk-one", "sk-two"])


@pytest.mark.parametrize(
    "value",
    [b"Bearer sk-one", b"Bearer sk-two", b"bearer sk-one", b"BEARER sk-one", b"Bearer   sk-one "],
)
def test_a_known_key_may_pass(value: bytes) -> None:
    """The scheme's case does not matter (RFC 9110, 11.1)."""
    KEYS.check([(b"x-api-key", b"other"), (b"authorization", value)])


def test_anthropics_header_will_do() -> None:
    """Its SDKs send the key as `x-api-key`."""
    assert KEYS.check([(b"x-api-key", b"sk-one")])


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"sk-one")],
        [(b"authorization", b"Basic sk-one")],
        [(b"authorization", b"Bearer sk-on")],
        [(b"authorization", b"Bearer sk-onee")],
        [(b"authorization", b"Bearer SK-ONE")],
        [(b"authorization", b"Bearer sk-one sk-two")],
        [(b"authorization", b"Bearer \xff\x00")],
        [(b"x-api-key", b"sk-on")],
        [(b"authorization", b"Basic sk-one"), (b"x-api-key", b"sk-one")],
        [(b"authorization", b"Bearer sk-no"), (b"authorization", b"Bearer sk-one")],
    ],
)
def test_without_a_known_key_nobody_passes(headers: Headers) -> None:
    """Missing, malformed, or just not known."""
    with pytest.raises(GatewayError) as refusal:
        KEYS.check(headers)
    assert refusal.value.kind is Kind.INVALID_API_KEY
    assert "sk-" not in refusal.value.message


def test_without_keys_everyone_may_pass() -> None:
    """`required` is what the start-up warning looks at."""
    ClientKeys([]).check([])
    assert (ClientKeys([]).required, KEYS.required) == (False, True)


def test_keys_are_not_kept() -> None:
    """Only their digests are: a dump of memory or a repr must not hold them."""
    assert all(b"sk-" not in value for values in vars(KEYS).values() for value in values)

"""Ids of responses: they name their worker, to their owner alone."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.routing.response_ids import make_id, tag_in, worker_tag

nonces = st.integers(0, 2**96 - 1)
urls = st.from_regex(r"https?://[a-z0-9.-]{1,30}(:[0-9]{1,5})?", fullmatch=True)
# SHA-256 of a key; nothing where no key is needed.
owners = st.binary(min_size=32, max_size=32) | st.just(b"")


@given(nonce=nonces, url=urls, owner=owners)
def test_an_id_names_its_worker_to_its_owner(nonce: int, url: str, owner: bytes) -> None:
    """Whoever has the key finds the worker; the id depends on nothing else."""
    made = make_id(nonce, url, owner)
    assert tag_in(made, owner) == worker_tag(url)
    assert make_id(nonce, url, owner) == made


@given(nonce=nonces, url=urls, owner=owners, other=owners)
def test_an_id_opens_for_nobody_else(nonce: int, url: str, owner: bytes, other: bytes) -> None:
    """Another key finds nothing, and so does none."""
    assume(owner != other)
    assert tag_in(make_id(nonce, url, owner), other) is None


@given(
    nonce=nonces,
    url=urls,
    owner=owners,
    at=st.integers(0, 52),
    letter=st.sampled_from(string.hexdigits) | st.characters(),
)
def test_a_changed_character_opens_for_nobody(
    nonce: int, url: str, owner: bytes, at: int, letter: str
) -> None:
    """Wherever it stands: in the number, in the worker's tag, in the code."""
    made = make_id(nonce, url, owner)
    assume(made[at] != letter)
    assert tag_in(made[:at] + letter + made[at + 1 :], owner) is None


@given(nonce=nonces, url=urls, owner=owners, more=st.text(min_size=1, max_size=3))
def test_a_longer_or_a_shorter_one_opens_for_nobody(
    nonce: int, url: str, owner: bytes, more: str
) -> None:
    """Nothing may stand before or after it, not even a line end."""
    made = make_id(nonce, url, owner)
    assert tag_in(made + more, owner) is None
    assert tag_in(more + made, owner) is None
    assert tag_in(made + "\n", owner) is None
    assert tag_in(made[: -len(more)], owner) is None


@given(st.text())
def test_other_text_opens_for_nobody(text: str) -> None:
    """Whatever a client sends as an id."""
    assert tag_in(text, b"") is None


@pytest.mark.parametrize("text", ["", "resp_", f"resp_{'0' * 48}", "resp_" + "\u0660" * 48, "x-1"])
def test_look_alikes_open_for_nobody(text: str) -> None:
    """vLLM's ids, zeros, and digits of other scripts."""
    assert tag_in(text, b"") is None


@given(first=nonces, second=nonces, url=urls, owner=owners)
def test_two_responses_have_two_ids(first: int, second: int, url: str, owner: bytes) -> None:
    """As many as there are numbers."""
    assume(first != second)
    assert make_id(first, url, owner) != make_id(second, url, owner)


@given(first=urls, second=urls)
def test_two_workers_have_two_tags(first: str, second: str) -> None:
    """The tag is of the whole URL: another port is another worker."""
    assume(first != second)
    assert worker_tag(first) != worker_tag(second)


@given(nonce=nonces, url=urls, owner=owners)
def test_an_id_fits_where_ids_stand(nonce: int, url: str, owner: bytes) -> None:
    """In a path, in JSON and in a log, as it is."""
    assert re.fullmatch(r"resp_[0-9a-f]{48}", make_id(nonce, url, owner))

"""The allow-list of paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.surfaces import CANCEL, RETRIEVE, SURFACES, Reads, find_surface
from gateway.relay.formats import MessagesFormat
from gateway.routing.response_ids import make_id

ROWS = [surface for surface in SURFACES if surface.reads is not Reads.RESPONSE_ID]
PATHS = {surface.path for surface in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path.decode())
def test_each_row_is_found_by_its_path(row: object) -> None:
    """And has no response's id in it."""
    path = getattr(row, "path")  # noqa: B009 - a row, for pytest any object
    assert find_surface(path) == (row, "")


def test_each_path_stands_once() -> None:
    """Two rows of one path could not both be found."""
    assert len({surface.path for surface in SURFACES}) == len(SURFACES)


@pytest.mark.parametrize("id_", ["x", "resp_1", "a" * 128, "-_Z9", make_id(1, "http://w", b"")])
def test_an_id_stands_in_the_path(id_: str) -> None:
    """Retrieval and cancel."""
    assert find_surface(f"/v1/responses/{id_}".encode()) == (RETRIEVE, id_)
    assert find_surface(f"/v1/responses/{id_}/cancel".encode()) == (CANCEL, id_)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/v1/responses/",
        b"/v1/responses//cancel",
        b"/v1/responses/a/",
        b"/v1/responses/a/cancel/",
        b"/v1/responses/a/cancel/b",
        b"/v1/responses/a/input_items",
        b"/v1/responses/a/Cancel",
        b"/v1/responses/a/%63ancel",
        b"/v1/responses/..",
        b"/v1/responses/a.b",
        b"/v1/responses/a%2fb",
        b"/v1/responses/a\n",
        b"/v1/responses/a/cancel\n",
        b"/v1/responses/\xc3\xa9",
        b"/v1/responses/{id}",
        b"/v1/responses/{id}/cancel",
        b"/v1/responses/" + b"a" * 129,
        b"//v1/responses/a",
        b"/v1/messages/count_tokens/",
        b"/v1/messages/batches",
        b"/v1/embed",
        b"/v1/classify",
        b"/v1/pooling",
        b"/v2/score",
        b"/v1/images/variations",
        b"/v1/audio",
        b"/sleep",
        b"/metrics",
        b"/health",
        b"/v1/models",
    ],
)
def test_other_paths_are_not_found(path: bytes) -> None:
    """Those that others have; those of the gateway itself; and those that only look alike."""
    assert find_surface(path) is None


@given(st.sampled_from(sorted(PATHS)), st.integers(0, 40), st.binary(max_size=3))
def test_a_path_with_anything_else_in_it_is_not_found(path: bytes, at: int, more: bytes) -> None:
    """Byte for byte: whatever is put in, taken out or replaced makes it another path."""
    for other in (path[:at] + more + path[at:], path[:at] + more + path[at + 1 :]):
        found = find_surface(other)
        if found is not None and found[0].reads is not Reads.RESPONSE_ID:
            assert other in PATHS
            assert found[0].path == other


@given(st.sampled_from(sorted(PATHS)))
def test_letters_of_another_case_are_other_letters(path: bytes) -> None:
    """Paths have no case that could be ignored."""
    assert find_surface(path.upper()) is None
    assert find_surface(path.swapcase()) is None


def test_anthropics_errors_stand_on_anthropics_paths() -> None:
    """Everything else has OpenAI's."""
    for surface in SURFACES:
        anthropic = surface.path.startswith(b"/v1/messages")
        assert isinstance(surface.format, MessagesFormat) == anthropic


def test_only_chat_and_completions_have_their_usage_asked_for() -> None:
    """All others tell it unasked, or know no `stream_options` (and would refuse them)."""
    asking = {surface.path for surface in SURFACES if surface.asks_usage}
    assert asking == {b"/v1/chat/completions", b"/v1/completions"}

"""Forms: however they are cut, they are the same; and they do not fill the memory."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sim.multipart import KEPT_BYTES, MAX_FIELD_BYTES, Form, FormReader, boundary_of

_BODY = (
    b"preamble\r\n--xy\r\n"
    b'Content-Disposition: form-data; name="model"\r\n\r\ndemo\r\n--xy\r\n'
    b'content-disposition: form-data; name="text"\r\n\r\nZ\xc3\xbcrich\r\n--x\r\n--xy\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a \\"b\\".wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\n\r\n--x\r\n\x00\xff--xy\r\n--xy--\r\nepilogue"
)
_FILE = b"\r\n--x\r\n\x00\xff--xy"


def _read(*parts: bytes, boundary: bytes = b"xy") -> Form:
    reader = FormReader(boundary)
    for part in parts:
        reader.feed(part)
    return reader.end()


@given(st.lists(st.integers(0, len(_BODY)), max_size=12))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(_BODY)]
    form = _read(*(_BODY[a:b] for a, b in pairwise(places)))
    assert form.error is None
    assert form.fields == [("model", "demo"), ("text", "Zürich\r\n--x")]
    (upload,) = form.files
    assert (upload.name, upload.filename, upload.content_type) == ("file", 'a "b".wav', "audio/wav")
    assert (upload.start, upload.size) == (_FILE, len(_FILE))
    assert upload.digest == hashlib.sha256(_FILE).hexdigest()
    assert (form.size, form.digest) == (len(_BODY), hashlib.sha256(_BODY).hexdigest())


def test_one_byte_at_a_time() -> None:
    assert _read(*(bytes([byte]) for byte in _BODY)) == _read(_BODY)


def test_of_a_file_only_the_beginning_is_kept() -> None:
    reader = FormReader(b"xy")
    head = b'--xy\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    reader.feed(head)
    block = bytes(range(256)) * 256
    for _ in range(64):
        reader.feed(block)
        assert len(reader._buffer) < len(block)
    reader.feed(b"\r\n--xy--")
    (upload,) = reader.end().files
    assert (upload.size, len(upload.start)) == (64 * len(block), KEPT_BYTES)
    assert upload.digest == hashlib.sha256(block * 64).hexdigest()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "There was an error parsing the body"),
        (_BODY[:60], "There was an error parsing the body"),
        (b"--xyz\r\n", "There was an error parsing the body"),
        (
            b"--xy\r\nContent-Type: text/plain\r\n\r\nx\r\n--xy--",
            'The Content-Disposition header field "name" must be provided.',
        ),
        (
            b'--xy\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
            + b"x" * MAX_FIELD_BYTES * 2,
            "Part exceeded maximum size of 1024KB.",
        ),
        (b"--xy\r\n" + b"x" * 20_000, "There was an error parsing the body"),
        (
            b'--xy\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 1001 + b"--xy--",
            "Too many fields. Maximum number of fields is 1000.",
        ),
    ],
)
def test_what_is_no_form(body: bytes, error: str) -> None:
    assert _read(body).error == error


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ('Multipart/Form-Data; boundary="a b"', b"a b"),
        ("multipart/form-data; charset=x; boundary=abc", b"abc"),
        ("multipart/form-data", b""),
        ("application/json", None),
        ("multipart/mixed; boundary=x", None),
    ],
)
def test_boundaries(kind: str, boundary: bytes | None) -> None:
    assert boundary_of(kind) == boundary


def test_a_boundary_is_needed() -> None:
    assert _read(b"x", boundary=b"").error == "Missing boundary in multipart."

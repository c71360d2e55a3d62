"""Fields of a form, read while it goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.multipart import FormFields
from gateway.errors import GatewayError, Kind
from tests.unit.streams import cut, cut_points

if TYPE_CHECKING:
    from collections.abc import Sequence

TYPE = b"multipart/form-data; boundary=edge"
SOUND = b"RIFF\x00\xff\r\n--edg\r\n--edgy\r\n\r\n"


def field(name: str, value: bytes, *more: bytes, disposition: bytes = b"") -> bytes:
    """One part of a form."""
    lines = [disposition or b'Content-Disposition: form-data; name="%b"' % name.encode(), *more]
    return b"--edge\r\n" + b"\r\n".join([*lines, b"", value, b""])


def form(*parts: bytes) -> bytes:
    """A whole form."""
    return b"".join(parts) + b"--edge--\r\n"


def file(name: str = "file", filename: str = "a.wav", value: bytes = SOUND) -> bytes:
    """A part with a file in it."""
    told = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
    return field(name, value, b"Content-Type: audio/wav", disposition=told.encode())


def read(*pieces: bytes, content_type: bytes = TYPE) -> FormFields:
    """The fields, after all pieces."""
    fields = FormFields(content_type)
    for piece in pieces:
        fields.feed(piece)
    return fields


def kind_of(*pieces: bytes, content_type: bytes = TYPE) -> tuple[Kind, str | None]:
    """Why a form is refused, and which field is at fault."""
    with pytest.raises(GatewayError) as caught:
        read(*pieces, content_type=content_type)
    return caught.value.kind, caught.value.param


def test_the_model_is_known_when_its_field_has_gone_by() -> None:
    """Not before: its value could go on. A file before it does not hide it."""
    fields = FormFields(TYPE)
    fields.feed(file() + field("model", b"whisper")[:-2])
    assert fields.model is None
    fields.feed(b"\r\n--edge\r\n")
    assert fields.model == "whisper"


@given(points=cut_points)
def test_fields_are_the_same_wherever_the_form_is_cut(points: Sequence[int]) -> None:
    """Within the edge, within a header, within a value."""
    whole = form(
        file(), field("language", b"en"), field("stream", b"true"), field("model", b"org/w-3")
    )
    fields = read(*cut(whole, points))
    assert (fields.model, fields.stream) == ("org/w-3", True)


def test_byte_by_byte() -> None:
    """The most cuts there can be."""
    whole = form(field("model", "modèle".encode()), file(), field("stream", b"false"))
    fields = read(*(whole[at : at + 1] for at in range(len(whole))))
    assert (fields.model, fields.stream) == ("modèle", False)


@given(value=st.binary(max_size=80), points=cut_points)
def test_what_a_file_holds_is_no_field(value: bytes, points: Sequence[int]) -> None:
    """Even where it looks like one."""
    if b"--edge" in value:
        return
    fields = read(*cut(form(file(value=value), field("model", b"w")), points))
    assert fields.model == "w"


def test_a_form_within_a_file_is_that_files() -> None:
    """With an edge of its own."""
    inner = form(field("model", b"inner"), field("stream", b"true")).replace(b"edge", b"other")
    fields = read(form(file(value=inner), field("model", b"outer")))
    assert (fields.model, fields.stream) == ("outer", False)


@pytest.mark.parametrize("filename", ["m.txt", "", "model"])
def test_a_file_called_model_is_not_the_model(filename: str) -> None:
    """A worker takes a part with a file name for a file."""
    assert read(form(file("model", filename, b"x"))).model is None
    assert read(form(file("model", filename, b"x"), field("model", b"y"))).model == "y"


@pytest.mark.parametrize("name", ["Model", "MODEL", "model[]", " model", "xmodel", "modelx", ""])
def test_fields_of_other_names_are_not_the_model(name: str) -> None:
    """Names are compared as they are."""
    assert read(form(field(name, b"x"))).model is None


@pytest.mark.parametrize(
    "disposition",
    [
        b"content-disposition: form-data; name=model",
        b'CONTENT-DISPOSITION: form-data;name="model"',
        b'Content-Disposition:form-data; x=y; name="model"',
        b'Content-Type: text/plain; name="other"\r\nContent-Disposition: form-data; name="model"',
    ],
)
def test_headers_may_be_written_in_other_ways(disposition: bytes) -> None:
    """As clients do."""
    assert read(form(field("", b"w", disposition=disposition))).model == "w"


@pytest.mark.parametrize(
    ("value", "stream"),
    [
        (b"true", True),
        (b"True", True),
        (b" TRUE ", True),
        (b"1", True),
        (b"false", False),
        (b"0", False),
        (b"", False),
        (b"yes, please", False),
    ],
)
def test_stream_is_a_flag(value: bytes, stream: bool) -> None:
    """As pydantic reads it on the worker, near enough: it decides about comments alone."""
    assert read(form(field("stream", value))).stream is stream


def test_an_empty_model_is_one() -> None:
    """That nobody serves."""
    assert read(form(field("model", b""))).model == ""


def test_a_model_that_is_no_text_does_not_fail() -> None:
    """Nobody serves it either."""
    assert read(form(field("model", b"\xff\xfe"))).model == "��"


def test_a_field_that_stands_twice_is_refused() -> None:
    """The worker might take the other one."""
    twice = form(field("model", b"a"), file(), field("model", b"b"))
    assert kind_of(twice) == (Kind.INVALID_VALUE, "model")
    streams = form(field("stream", b"true"), field("stream", b"false"))
    assert kind_of(streams) == (Kind.INVALID_VALUE, "stream")


def test_a_field_that_stands_twice_and_says_the_same_is_one() -> None:
    """There is nothing to mistake."""
    assert read(form(field("model", b"a"), field("model", b"a"))).model == "a"


@given(size=st.integers(0, 4000), points=cut_points)
def test_a_huge_model_is_kept_up_to_its_bound(size: int, points: Sequence[int]) -> None:
    """1 KiB, wherever it is cut: memory is the gateway's to keep."""
    fields = read(*cut(form(field("model", b"m" * size)), points))
    assert fields.model == "m" * min(size, 1024)


def test_huge_fields_of_no_interest_are_not_kept() -> None:
    """Nor files."""
    fields = FormFields(TYPE)
    fields.feed(b'--edge\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n')
    for _ in range(64):
        fields.feed(b"x" * 2**16)
    fields.feed(b"\r\n" + form(field("model", b"w")))
    assert fields.model == "w"
    assert fields._value == b"w"


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"application/json",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary=""',
        b"multipart/form-data; charset=utf-8",
        b"multipart/mixed; boundary=edge",
        b"application/x-www-form-urlencoded; boundary=edge",
        b"boundary=edge",
    ],
)
def test_what_is_no_form_is_refused(content_type: bytes) -> None:
    """Before a byte of it is read."""
    assert kind_of(content_type=content_type) == (Kind.INVALID_VALUE, "content-type")


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data;boundary=edge",
        b'multipart/form-data; boundary="edge"',
        b"Multipart/Form-Data; charset=utf-8; BOUNDARY=edge",
    ],
)
def test_content_types_may_be_written_in_other_ways(content_type: bytes) -> None:
    """RFC 9110, 8.3.1: names have no case, values may stand in quotes."""
    assert read(form(field("model", b"w")), content_type=content_type).model == "w"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"w"}',
        b"--other\r\n" + field("model", b"w"),
        b"--edge\r\nContent Disposition: x\r\n\r\n",
        b"--edge\rx",
        b"--edgex",
    ],
)
def test_a_body_that_is_no_form_is_refused(body: bytes) -> None:
    """With a word about where it goes wrong."""
    assert kind_of(body) == (Kind.INVALID_VALUE, None)


@given(body=st.binary(max_size=300), points=cut_points)
def test_garbage_never_fails_in_another_way(body: bytes, points: Sequence[int]) -> None:
    """It is a form, or it is refused."""
    for start in (b"", b"--edge\r\n", b'--edge\r\nContent-Disposition: form-data; name="model'):
        try:
            read(*cut(start + body, points))
        except GatewayError as error:
            assert error.kind is Kind.INVALID_VALUE  # noqa: PT017 - it may also be a form

"""Reads the few form fields that decide about a multipart upload, while it arrives.

The bytes themselves go on untouched (RFC 7578); python-multipart finds the fields in them.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.errors import GatewayError, Kind

# The value of a field that matters is a name or a flag.
_MOST_FIELD_BYTES = 1024
# RFC 2046, 5.1.1, allows 70 bytes; python-multipart takes 256.
_MOST_BOUNDARY_BYTES = 256
_WANTED = frozenset({b"model", b"stream"})


class FormFields:
    """Feeds on the body; `model` is known as soon as its field has gone by."""

    def __init__(self, content_type: bytes) -> None:
        """GatewayError (INVALID_VALUE) unless the content type is a form's."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 1 <= len(boundary) <= _MOST_BOUNDARY_BYTES:
            raise GatewayError(
                Kind.INVALID_VALUE,
                "Send this request as multipart/form-data, with a boundary in its Content-Type.",
                param="content-type",
            )
        self._fields: dict[bytes, bytes] = {}
        self._name = b""
        self._header = b""
        self._disposition = b""
        self._value = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._part_data,
                "on_part_end": self._end_part,
            },
        )

    @property
    def model(self) -> str | None:
        """The `model` field, once it has gone by."""
        value = self._fields.get(b"model")
        return None if value is None else value.decode("utf-8", "replace")

    @property
    def stream(self) -> bool:
        """The `stream` field says so."""
        return self._fields.get(b"stream", b"").strip().lower() in (b"true", b"1")

    def feed(self, data: bytes) -> None:
        """Read on. GatewayError (INVALID_VALUE) where it is no form."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise GatewayError(
                Kind.INVALID_VALUE, f"The body is not valid multipart/form-data: {error}."
            ) from None

    def _begin_part(self) -> None:
        self._name = self._value = self._disposition = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition += data[start:end]

    def _end_header(self) -> None:
        self._header = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"")
        is_file = b"filename" in options
        self._name = name if name in _WANTED and not is_file else b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name:
            self._value += data[start:end][: _MOST_FIELD_BYTES - len(self._value)]

    def _end_part(self) -> None:
        if self._name:
            # The first one counts for us; a worker that counts the last must not be led astray.
            if self._fields.get(self._name, self._value) != self._value:
                name = self._name.decode()
                raise GatewayError(
                    Kind.INVALID_VALUE,
                    f"`{name}` stands twice in the form: send it once.",
                    param=name,
                )
            self._fields[self._name] = self._value

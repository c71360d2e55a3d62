"""``multipart/form-data`` (RFC 7578), parsed as it arrives; memory does not grow with the files.

Of a file only the beginning is kept, with its size and its digest: enough for the length of a WAV
and for answers that depend on the content. Bounds and words are those of Starlette's parser, which
vLLM uses: 1 MB per text field, 1,000 fields and as many files, and python-multipart's 16 headers.
"""

import hashlib
from dataclasses import dataclass, field
from email.message import Message

MAX_FIELD_BYTES = 1_048_576
MAX_PARTS = 1_000
MAX_HEADER_BYTES = 16_384
KEPT_BYTES = 65_536
"""How much of the beginning of a file is kept."""


class MultipartError(Exception):
    """Why the body is no form."""


@dataclass(slots=True)
class Upload:
    """One file of a form."""

    name: str
    filename: str
    content_type: str
    start: bytes = b""
    """Its first bytes."""
    size: int = 0
    digest: str = ""
    """SHA-256 in hex, once it is complete."""


@dataclass(slots=True)
class Form:
    """A form as it was read."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    files: list[Upload] = field(default_factory=list)
    size: int = 0
    """Bytes of the whole body."""
    digest: str = ""
    """SHA-256 of the whole body, to compare what came with what was sent."""
    error: str | None = None
    """Why it is no form; fields and files are then incomplete."""

    def value(self, name: str) -> str | None:
        """The last text field of this name."""
        return next((v for n, v in reversed(self.fields) if n == name), None)

    def file(self, name: str) -> Upload | None:
        """The first file of this name."""
        return next((one for one in self.files if one.name == name), None)


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a form; None: the content type is no form's. Empty: it has no boundary."""
    message = Message()
    message["content-type"] = content_type
    if message.get_content_type() != "multipart/form-data":
        return None
    return str(message.get_param("boundary", "")).encode("latin-1", "replace")


class FormReader:
    """``feed`` with the body in any cuts, then ``end`` gives the form."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        # The first boundary has no line end before it.
        self._buffer = bytearray(b"\r\n")
        self._step = self._skip
        self._form = Form()
        self._body = hashlib.sha256()
        self._name = ""
        self._text = bytearray()
        self._file: Upload | None = None
        self._content = hashlib.sha256()
        self._parts = 0
        self._complete = False
        if not boundary:
            self._form.error = "Missing boundary in multipart."

    def feed(self, data: bytes) -> None:
        """A part of the body."""
        form = self._form
        form.size += len(data)
        self._body.update(data)
        if form.error is not None or self._complete:
            return
        self._buffer += data
        try:
            while self._step():
                pass
        except MultipartError as error:
            form.error = str(error)
            self._buffer.clear()

    def end(self) -> Form:
        """The body is complete."""
        self._form.digest = self._body.hexdigest()
        if self._form.error is None and not self._complete:
            self._form.error = "There was an error parsing the body"
        return self._form

    # Steps: each takes what it can from the buffer; False: more bytes are needed.

    def _skip(self) -> bool:
        """What stands before the first boundary."""
        return self._until_delimiter(keep=False)

    def _content_of_part(self) -> bool:
        return self._until_delimiter(keep=True)

    def _until_delimiter(self, *, keep: bool) -> bool:
        buffer, delimiter = self._buffer, self._delimiter
        at = buffer.find(delimiter)
        # A delimiter may have begun at the end of what is there.
        take = at if at >= 0 else max(len(buffer) - len(delimiter) + 1, 0)
        if keep and take:
            self._keep(bytes(buffer[:take]))
        if at < 0:
            del buffer[:take]
            return False
        del buffer[: at + len(delimiter)]
        if keep:
            self._finish_part()
        self._step = self._after_delimiter
        return True

    def _after_delimiter(self) -> bool:
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        if buffer.startswith(b"--"):
            self._complete = True
            buffer.clear()
            return False
        if not buffer.startswith(b"\r\n"):
            raise MultipartError("There was an error parsing the body")
        # The line end stays: headers may be none at all.
        self._step = self._headers
        return True

    def _headers(self) -> bool:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > MAX_HEADER_BYTES:
                raise MultipartError("There was an error parsing the body")
            return False
        self._begin_part(bytes(buffer[2:end]) if end else b"")
        del buffer[: end + 4]
        self._step = self._content_of_part
        return True

    def _begin_part(self, head: bytes) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise MultipartError(f"Too many fields. Maximum number of fields is {MAX_PARTS}.")
        message = Message()
        for line in head.decode("utf-8", "replace").split("\r\n"):
            header, colon, value = line.partition(":")
            if colon:
                message[header.strip()] = value.strip()
        name = message.get_param("name", header="content-disposition")
        if not isinstance(name, str):
            raise MultipartError('The Content-Disposition header field "name" must be provided.')
        self._name = name
        filename = message.get_param("filename", header="content-disposition")
        self._text = bytearray()
        self._file = None
        if filename is not None:
            self._file = Upload(self._name, str(filename), message.get_content_type())
            self._content = hashlib.sha256()

    def _keep(self, data: bytes) -> None:
        upload = self._file
        if upload is None:
            self._text += data
            if len(self._text) > MAX_FIELD_BYTES:
                limit = MAX_FIELD_BYTES // 1024
                raise MultipartError(f"Part exceeded maximum size of {limit}KB.")
            return
        upload.size += len(data)
        self._content.update(data)
        room = KEPT_BYTES - len(upload.start)
        if room > 0:
            upload.start += data[:room]

    def _finish_part(self) -> None:
        if self._file is None:
            self._form.fields.append((self._name, self._text.decode("utf-8", "replace")))
        else:
            self._file.digest = self._content.hexdigest()
            self._form.files.append(self._file)

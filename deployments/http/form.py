"""Splits a `multipart/form-data` body that is in memory into its parts. Blocks; a large one belongs into a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from deployments.http.create_fields import MAX_FIELDS
from pipelines.errors import InvalidRequest

PIECE_BYTES = 2**18
"""What is parsed at once, so that no search for a boundary holds the interpreter's lock for long."""
FILES = b"image/", b"application/octet-stream"
"""How the content type of a part begins that is a file even without a name."""


@dataclass(slots=True)
class FormPart:
    """One part of a form."""

    name: str = ""
    data: bytes = b""
    is_file: bool = False


def read_form(content_type: str, body: bytes) -> Sequence[FormPart]:
    """The parts of a form, in their order.

    Raises:
        InvalidRequest: the body is no such form, or has too many parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise _invalid("its content-type has no boundary")
    pieces = range(0, len(body), PIECE_BYTES)
    # The parser takes its time for every one that it finds, also for those that turn out to be data.
    found = sum(body.count(b"\r\n--" + boundary, at, at + PIECE_BYTES) for at in pieces)
    if found > MAX_FIELDS + 1:  # the image is not one of them
        raise _invalid(f"it has more than {MAX_FIELDS} fields")
    parts = _Parts()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_name,
                "on_header_value": parts.header_value,
                "on_header_end": parts.header_end,
                "on_headers_finished": parts.headers_end,
                "on_part_data": parts.data,
                "on_part_end": parts.end,
            },
        )
        for at in pieces:
            parser.write(body[at : at + PIECE_BYTES])
    except FormParserError:
        raise _invalid("its parts are not as its content-type says") from None
    if parts.part is not None:
        raise _invalid("it ends before its last part does")
    return parts.read


def text_of(data: bytes) -> str:
    """The text of a field: UTF-8, or else what every byte is a character of."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


@dataclass(slots=True)
class _Parts:
    """Collects what the parser finds."""

    read: list[FormPart] = field(default_factory=list)
    part: FormPart | None = None
    _pieces: list[bytes] = field(default_factory=list)
    _name: bytes = b""
    _value: bytes = b""
    _disposition: bytes | None = None
    _kind: bytes = b""
    _nameless: bool = True

    def begin(self) -> None:
        self.part, self._pieces, self._disposition, self._kind = FormPart(), [], None, b""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        match self._name.lower():
            case b"content-disposition":
                self._disposition = self._value
            case b"content-type":
                self._kind = self._value.strip().lower()
        self._name = self._value = b""

    def headers_end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        name = options.get(b"name")
        if name is None:
            raise _invalid("a part has no name")
        assert self.part is not None
        self.part.name = text_of(name)
        # OpenAI's client for Java names no file, but says what its content is.
        self.part.is_file = b"filename" in options or self._kind.startswith(FILES)
        self._nameless = not options.get(b"filename")

    def data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def end(self) -> None:
        assert self.part is not None
        self.part.data = b"".join(self._pieces)
        if self._nameless and not self.part.data:
            self.part.is_file = False  # so a page sends a field for a file if none was chosen
        self.read.append(self.part)
        self.part, self._pieces = None, []


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the form cannot be read: {reason}", code="invalid_form")

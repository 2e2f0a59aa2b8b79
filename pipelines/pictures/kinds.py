"""Which kind of file this is, by its first bytes: a name or a media type may say anything."""

from __future__ import annotations

from typing import Literal

from pipelines.errors import InvalidRequest
from pipelines.pictures.opened import TO_SEND, unreadable

Kind = Literal["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"]

_TAKEN: dict[bytes, Kind] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_OTHERS = {
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"\0\0\0\x0cJXL ": "a JPEG XL",
    b"\xff\x0a": "a JPEG XL",
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"\0\0\1\0": "an icon (ICO)",
    b"8BPS": "a Photoshop file",
    b"\x1f\x8b": "compressed with gzip",
    b"PK\3\4": "a zip archive",
    b"\x1aE\xdf\xa3": "a video",
}
_HEVC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AV1 = {b"avif", b"avis"}
_VIDEO = {b"isom", b"iso2", b"mp41", b"mp42", b"qt  ", b"M4V "}


def kind_of(data: bytes) -> Kind:
    """The kind of a file. Raises InvalidRequest with what it is, if it is none that is taken."""
    for begin, kind in _TAKEN.items():
        if data.startswith(begin):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    for begin, name in _OTHERS.items():
        if data.startswith(begin):
            raise _refused(name)
    text = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        raise _refused("an SVG drawing")
    if text.startswith((b"<!doctype html", b"<html")):
        raise _refused("a web page, not a picture")
    raise unreadable()


def _of_brands(data: bytes) -> Kind:
    """The kind of a file of ISO's base media format, by its major and its compatible brands."""
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    # A file may be both; the one it is in the first place comes first.
    for brand in brands:
        if brand in _AV1:
            return "AVIF"
        if brand in _HEVC:
            return "HEIF"
    if brands[0] in {b"mif1", b"msf1"}:
        return "HEIF"
    if brands[0] == b"crx ":
        raise _refused("a camera's raw file")
    raise _refused("a video") if _VIDEO.intersection(brands) else unreadable()


def _refused(name: str) -> InvalidRequest:
    return InvalidRequest(f"the image cannot be read: it is {name}; {TO_SEND}")

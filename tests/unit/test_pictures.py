"""What becomes of an input image: every usual kind, upright, in true depth and complete, or refused with a sentence."""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import InvalidRequest
from pipelines.pictures.read import Limits
from tests.harness.pictures import (
    ASCII,
    DOUBLE,
    EXIF,
    GPS,
    HEIGHT,
    LIMITS,
    LONG,
    ORIENTATION,
    RATIONAL,
    SHORT,
    SRATIONAL,
    WIDTH,
    Pixels,
    Tag,
    chunk,
    eight,
    encoded,
    exif,
    frames,
    near,
    ramp,
    raw_png,
    read,
    scene,
    seen,
    tiff,
    turn,
    upright,
    with_chunks,
    with_segment,
)

SCENE = scene()
JPEG = encoded(SCENE, "JPEG", quality=100, subsampling=0)
PNG = encoded(SCENE, "PNG")
UPRIGHT = upright(SCENE)
"""The scene as each orientation shows it."""


def refusal(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(InvalidRequest) as refused:
        read(data, limits)
    return refused.value.message


@pytest.mark.parametrize(("kind", "within"), [
    ("PNG", 0), ("JPEG", 12), ("WEBP", 60), ("GIF", 60), ("BMP", 0), ("TIFF", 0), ("AVIF", 60), ("MPO", 12),
])  # fmt: skip
def test_takes_every_usual_kind(kind: str, within: int) -> None:
    options = {"quality": 100, "subsampling": 0} if kind in {"JPEG", "MPO"} else {}
    assert near(seen(encoded(SCENE, kind, **options)), SCENE, within)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_turns_a_picture_upright(kind: str, orientation: int) -> None:
    if kind == "TIFF":
        data = tiff((SCENE, [turn(orientation)]))
    else:
        sharp: dict[str, object] = {"lossless": True}
        if kind in {"JPEG", "AVIF"}:
            sharp = {"subsampling": "4:4:4"}
        data = encoded(SCENE, kind, quality=100, exif=exif([turn(orientation)]), **sharp)
    assert near(seen(data), UPRIGHT[orientation], {"JPEG": 12, "AVIF": 12}.get(kind, 0))


ODD: dict[str, tuple[list[Tag], dict[int, Tag]]] = {
    "a longitude's reference as a fraction": ([], {GPS: (3, RATIONAL, 1, struct.pack("<LL", 69, 1))}),
    "a longitude's reference as a number": ([], {GPS: (3, SHORT, 1, struct.pack("<H", 69))}),
    "a latitude as text": ([], {GPS: (2, ASCII, 8, b"48.1374\0")}),
    "GPS' version as text": ([], {GPS: (0, ASCII, 8, b"2.2.0.0\0")}),
    "an altitude's reference out of range": ([], {GPS: (5, SHORT, 1, struct.pack("<H", 256))}),
    "a latitude of zeros": ([], {GPS: (2, RATIONAL, 3, bytes(24))}),
    "software as a number": ([(0x131, DOUBLE, 1, struct.pack("<d", 1.5))], {}),
    "a maker as a fraction": ([(0x10F, RATIONAL, 1, struct.pack("<LL", 1, 1))], {}),
    "a resolution as text": ([(0x11A, ASCII, 3, b"72\0")], {}),
    "the position of chroma as text": ([(0x213, ASCII, 2, b"1\0")], {}),
    "directories that are none": ([(GPS, LONG, 1, b"\xff\xff\0\0"), (EXIF, ASCII, 4, b"abc\0")], {}),
}


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "WEBP"])
@pytest.mark.parametrize("odd", ODD)
def test_is_turned_whatever_else_its_exif_says(odd: str, kind: str) -> None:
    tags, inner = ODD[odd]
    picture = read(with_exif(kind, exif([turn(6), *tags], inner)))
    assert near(seen(with_exif(kind, exif([turn(6), *tags], inner))), UPRIGHT[6], 60)
    assert picture.notes == ()


def with_exif(kind: str, body: bytes) -> bytes:
    """The scene, with EXIF that Pillow's writers would not pass on."""
    if kind == "JPEG":
        return with_segment(JPEG, 0xE1, body)
    if kind == "WEBP":
        return encoded(SCENE, kind, exif=body, lossless=True)
    # The file itself says that it is turned, and its EXIF says so again.
    data = encoded(SCENE, kind, exif=exif([turn(6), (0x10F, ASCII, len(body), b"?" * len(body))]), quality=100)
    at = data.find(b"?" * 20)
    begin = data.rfind(b"II*\0", 0, at)
    return data[:begin] + body[6:].ljust(at - begin + len(body), b"\0") + data[at + len(body) :]


@pytest.mark.parametrize(("order", "body", "orientation"), [
    (">", exif([turn(6, ">")], order=">"), 6),
    ("<", exif([(ORIENTATION, LONG, 1, struct.pack("<L", 6))]), 6),
    ("<", exif([(ORIENTATION, RATIONAL, 1, struct.pack("<LL", 6, 1))]), 6),
    ("<", exif([(ORIENTATION, RATIONAL, 1, bytes(8))]), 1),
    ("<", exif([(ORIENTATION, ASCII, 2, b"6\0")]), 1),
    ("<", exif([(ORIENTATION, SHORT, 0, bytes(4))]), 1),
    ("<", exif([turn(0)]), 1),
    ("<", exif([turn(9)]), 1),
    ("<", b"Exif\0\0" + exif([turn(6)]), 6),
    ("<", exif([turn(6)])[:20], 1),
    ("<", b"Exif\0\0II*\0", 1),
    ("<", b"Exif\0\0", 1),
    ("<", b"Exif\0\0\0\x08\0\2\1\x12\0\3", 1),
], ids=["big-endian", "long", "fraction", "fraction of zero", "text", "none", "0", "9", "written twice", "cut",
        "no directory", "empty", "no header"])  # fmt: skip
def test_exif_that_is_odd_or_broken_turns_as_far_as_it_says_so(order: str, body: bytes, orientation: int) -> None:
    del order
    assert near(seen(with_segment(JPEG, 0xE1, body)), UPRIGHT[orientation], 12)
    assert near(seen(with_chunks(PNG, chunk(b"eXIf", body[6:]))), UPRIGHT[orientation], 0)


@pytest.mark.parametrize("kind", [RATIONAL, SRATIONAL], ids=["fraction", "signed fraction"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_may_be_turned_by_a_fraction(kind: int, order: Literal["<", ">"]) -> None:
    def by(above: int, below: int) -> Tag:
        return ORIENTATION, kind, 1, struct.pack(order + "LL", above, below)

    assert near(seen(tiff((SCENE, [by(6, 1)]), order=order)), UPRIGHT[6], 0)
    assert near(seen(tiff((SCENE, [by(16, 2)]), order=order)), UPRIGHT[8], 0)
    assert near(seen(tiff((SCENE, [by(6, 0)]), order=order)), SCENE, 0)


def test_xmp_turns_where_exif_says_nothing() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="6"/>'
    assert near(seen(with_segment(JPEG, 0xE1, xmp)), UPRIGHT[6], 12)
    both = with_segment(with_segment(JPEG, 0xE1, xmp), 0xE1, exif([turn(1)]))
    assert near(seen(both), SCENE, 12)
    said = b'<x:xmpmeta tiff:Orientation="6"/>'
    assert near(seen(encoded(SCENE, "WEBP", lossless=True, xmp=said)), UPRIGHT[6], 0)


RAMP = ramp()
DEEP = (RAMP * 65535).round().astype(np.uint16)
FULL = (RAMP * (2**32 - 1)).astype(np.uint32)

ORDERS: list[Literal["<", ">"]] = ["<", ">"]


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("levels", [
    DEEP, DEEP.astype(np.int32), (RAMP * (2**31 - 1)).astype(np.int32), (RAMP * 32767).astype(np.int16),
    (RAMP * 255).round().astype(np.int32), RAMP.astype(np.float32), (RAMP * 255).astype(np.float32),
    (RAMP * 65535).astype(np.float32), FULL, DEEP.astype(np.uint32), (RAMP * 255).round().astype(np.uint32),
], ids=["16 bits", "16 bits in 32", "32 bits", "16 bits, signed", "8 bits in 32", "floats up to 1",
        "floats up to 255", "floats up to 65535", "32 bits, unsigned", "16 bits in 32, unsigned",
        "8 bits in 32, unsigned"])  # fmt: skip
def test_gray_of_more_than_8_bits_is_scaled_by_its_depth(
    levels: Pixels, order: Literal["<", ">"], deflated: bool
) -> None:
    assert near(seen(tiff((levels, []), order=order, deflated=deflated)), eight(RAMP))


@pytest.mark.parametrize("order", ORDERS)
def test_a_dark_picture_of_32_bits_without_a_sign_stays_dark(order: Literal["<", ">"]) -> None:
    assert near(seen(tiff(((RAMP * 2**30).astype(np.uint32), []), order=order)), eight(RAMP / 4))
    no_format: Tag = (339, SHORT, 0, bytes(4))  # it is unsigned then
    assert near(seen(tiff((FULL, [no_format]), order=order)), eight(RAMP))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("levels", [
    (RAMP * 255).round().astype(np.uint8), DEEP, RAMP.astype(np.float32), FULL, DEEP.astype(np.uint32),
], ids=["8 bits", "16 bits", "floats", "32 bits, unsigned", "16 bits in 32, unsigned"])  # fmt: skip
def test_white_may_be_zero(levels: Pixels, order: Literal["<", ">"]) -> None:
    white_is_zero: Tag = (262, SHORT, 1, struct.pack(order + "H", 0))
    assert near(seen(tiff((levels, [white_is_zero]), order=order)), eight(1 - RAMP))


def test_what_is_brighter_than_white_in_floats_is_a_highlight() -> None:
    levels = RAMP.astype(np.float32)
    levels[0, 0] = 3.5
    expected = eight(RAMP)
    expected[0, 0] = 255
    assert near(seen(tiff((levels, []))), expected)


def test_floats_that_are_no_numbers_spoil_nothing_else() -> None:
    levels = RAMP.astype(np.float32)
    levels[0, :2] = np.nan, np.inf
    assert near(seen(tiff((levels, [])))[1:], eight(RAMP)[1:])


def test_png_of_16_bits_in_every_color_type() -> None:
    deep = DEEP.astype(">u2")
    colors = (SCENE.astype(np.uint32) * 257).astype(">u2")
    opaque = np.full((HEIGHT, WIDTH, 1), 65535, ">u2")
    gray_alpha = np.concatenate([deep[..., None], opaque // 2], 2).reshape(HEIGHT, -1).astype(">u2")
    assert near(seen(raw_png(16, 0, deep)), eight(RAMP))
    assert near(seen(raw_png(16, 4, gray_alpha)), eight(RAMP / 2))
    assert near(seen(raw_png(16, 2, colors.reshape(HEIGHT, -1))), SCENE)
    assert near(seen(raw_png(16, 6, np.concatenate([colors, opaque], 2).reshape(HEIGHT, -1).astype(">u2"))), SCENE)


def test_tiff_of_16_bits_a_color() -> None:
    for order in ORDERS:
        assert near(seen(tiff(((SCENE.astype(np.uint16) * 257), []), order=order)), SCENE)


def test_one_gray_level_may_be_transparent_at_every_depth() -> None:
    first = eight(RAMP)
    first[:, 0] = 0
    deep = raw_png(16, 0, DEEP.astype(">u2"), chunk(b"tRNS", struct.pack(">H", DEEP[0, 0])))
    assert near(seen(deep), first)
    levels = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))  # of 4 bits, two in a byte
    packed = levels[:, ::2] << 4 | levels[:, 1::2]
    expected = np.repeat((levels * 17)[..., None], 3, 2)
    expected[:, 10] = 0
    assert near(seen(raw_png(4, 0, packed, chunk(b"tRNS", struct.pack(">H", 10)))), expected, 0)
    colors = (SCENE.astype(np.uint32) * 256 + 7).astype(">u2")
    expected = SCENE.copy()
    expected[3, 4] = 0
    key = chunk(b"tRNS", colors[3, 4].tobytes())
    assert near(seen(raw_png(16, 2, colors.reshape(HEIGHT, -1), key)), expected)


def test_what_is_transparent_becomes_black() -> None:
    half = Image.fromarray(SCENE).convert("RGBA")
    half.putalpha(128)
    expected = (SCENE.astype(float) * 128 / 255).round().astype(np.uint8)
    for kind, within in (("PNG", 1), ("WEBP", 1), ("TIFF", 1)):
        assert near(seen(encoded(half, kind, lossless=True)), expected, within)
    palette = Image.fromarray(SCENE).quantize(8)
    opaque = np.asarray(palette.convert("RGB"))
    expected = np.where((np.asarray(palette) == 3)[..., None], 0, opaque).astype(np.uint8)
    assert near(seen(encoded(palette, "PNG", transparency=3)), expected, 0)
    partly = bytes(128 if index == 3 else 255 for index in range(8))
    expected = np.where((np.asarray(palette) == 3)[..., None], opaque * (128 / 255), opaque).round().astype(np.uint8)
    assert near(seen(encoded(palette, "PNG", transparency=partly)), expected)


def test_black_and_white_and_gray_with_alpha() -> None:
    dots = Image.fromarray((RAMP > 0.5).astype(np.uint8) * 255).convert("1")
    assert near(seen(encoded(dots, "PNG")), eight((RAMP > 0.5).astype(float)), 0)
    assert near(seen(encoded(dots, "TIFF", compression="group4")), eight((RAMP > 0.5).astype(float)), 0)
    gray = Image.fromarray((RAMP * 255).round().astype(np.uint8))
    alpha = Image.new("L", gray.size, 51)
    assert near(seen(encoded(Image.merge("LA", (gray, alpha)), "PNG")), eight(RAMP / 5))


def metadata(kind: bytes, length: int) -> bytes:
    body = zlib.compress(b" " * length)
    return {
        b"zTXt": chunk(b"zTXt", b"workflow\0\0" + body),
        b"iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + body),
        b"tEXt": chunk(b"tEXt", b"prompt\0" + b"a" * length),
    }[kind]


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt"])
def test_a_long_comment_does_not_matter(kind: bytes) -> None:
    assert near(seen(with_chunks(PNG, metadata(kind, 2 * 2**20))), SCENE, 0)


def test_a_comment_that_is_broken_does_not_matter() -> None:
    comment = chunk(b"tEXt", b"Author\0x")
    assert near(seen(with_chunks(PNG, comment[:-4] + bytes(4))), SCENE, 0)
    assert near(seen(with_chunks(PNG, chunk(b"zTXt", b"a\0\0no zlib"))), SCENE, 0)
    turned = chunk(b"eXIf", exif([turn(6)])[6:])
    assert near(seen(with_chunks(PNG, turned)), UPRIGHT[6], 0)
    assert near(seen(with_chunks(PNG, turned[:-4] + bytes(4))), SCENE, 0)


def test_pixels_that_are_broken_are_refused() -> None:
    at = PNG.find(b"IDAT")
    length = int.from_bytes(PNG[at - 4 : at], "big")
    assert "cannot be read" in refusal(PNG[: at + 4 + length] + bytes(4) + PNG[at + 8 + length :])
    assert "cannot be read" in refusal(with_chunks(PNG, chunk(b"CgBI", bytes(4))))
    assert "its end is missing" in refusal(PNG[:-40])
    assert "its end is missing" in refusal(PNG[:33])


def test_a_png_without_its_end_or_with_more_behind_it_is_whole() -> None:
    assert near(seen(PNG[:-12]), SCENE, 0)
    assert near(seen(PNG + b"more" * 100), SCENE, 0)


def test_a_png_of_endless_chunks_is_refused() -> None:
    assert "cannot be read" in refusal(with_chunks(PNG, chunk(b"tEXt", b"") * 100_000))


def test_a_jpeg_may_lack_its_end_marker_and_nothing_more() -> None:
    for progressive in (False, True):
        data = encoded(SCENE, "JPEG", quality=95, progressive=progressive)
        assert near(seen(data[:-2]), seen(data), 0)
        assert near(seen(data[:-1]), seen(data), 0)
        for missing in (4, 10, 60):
            assert "its end is missing" in refusal(data[:-missing])
        assert near(seen(data + bytes(500)), seen(data), 0)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_half_a_file_is_refused(kind: str) -> None:
    data = encoded(SCENE, kind)
    assert "the image" in refusal(data[: len(data) * 2 // 3])


def test_one_frame_is_no_animation() -> None:
    assert near(seen(with_chunks(PNG, frames(1))), SCENE, 0)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF", "PNG with another picture before it"])
def test_animations_are_refused(kind: str) -> None:
    options = {"default_image": True} if " " in kind else {}
    others = [Image.fromarray(UPRIGHT[3])]
    data = encoded(SCENE, kind.partition(" ")[0], save_all=True, append_images=others, **options)
    assert "must not be animated" in refusal(data)


def test_a_thumbnail_beside_the_page_is_no_second_page() -> None:
    small, dot = SCENE[::2, ::2], SCENE[:4, :4]
    reduced: Tag = (254, LONG, 1, struct.pack("<L", 1))
    mask: Tag = (254, LONG, 1, struct.pack("<L", 4))
    assert near(seen(tiff((SCENE, []), (small, []))), SCENE, 0)
    assert near(seen(tiff((small, []), (SCENE, []), (dot, []))), SCENE, 0)
    assert near(seen(tiff((SCENE[:-1], [reduced]), (SCENE, []), (SCENE, [mask]))), SCENE, 0)
    assert "several pages" in refusal(tiff((SCENE, []), (SCENE[:-1], [])))
    assert near(seen(tiff((small, [turn(3)]), (SCENE, [turn(6)]))), UPRIGHT[6], 0)


def test_the_pages_of_a_tiff_are_bounded() -> None:
    data = tiff((SCENE, []))
    (count,) = struct.unpack_from("<H", data, 8)
    itself = data[: 10 + 12 * count] + struct.pack("<L", 8) + data[14 + 12 * count :]
    assert near(seen(itself), SCENE, 0)
    assert "several pages" in refusal(tiff((SCENE, []), *[(SCENE[:2, :2], [])] * 70))


@pytest.mark.parametrize(("data", "says"), [
    (b"", "cannot be read; send a complete PNG, JPEG, WebP, HEIC or AVIF"),
    (b"\xef\xbb\xbf" + PNG, "cannot be read; send"),
    (b"%PDF-1.7\n", "it is a PDF"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is PostScript"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG"),
    (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg/>', "it is an SVG"),
    (b"<!DOCTYPE html><html>", "it is a web page"),
    (gzip.compress(PNG), "compressed with gzip"),
    (encoded(Image.fromarray(SCENE), "ICO"), "an icon"),
    (encoded(SCENE, "JPEG2000"), "a JPEG 2000"),
    (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a video"),
    (b"\0\0\0\x18ftypqt  \0\0\0\0qt  qt  ", "a video"),
    (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw file"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "cannot be read; send"),
], ids=["nothing", "a byte order mark", "PDF", "PostScript", "SVG", "SVG in XML", "HTML", "gzip", "ICO", "JPEG 2000",
        "MP4", "QuickTime", "raw", "no HEIC"])  # fmt: skip
def test_says_what_it_is_that_was_sent(data: bytes, says: str) -> None:
    assert says in refusal(data)


def test_large_and_long_pictures_are_refused_before_they_are_decoded() -> None:
    head = struct.pack(">LLBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = PNG[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", b"no zlib") + chunk(b"IEND", b"")
    assert refusal(bomb) == "the image must have at most 1000000 pixels; it is 60000x60000"
    assert "at most 8 times its shorter one; it is 81x10" in refusal(encoded(Image.new("RGB", (81, 10)), "PNG"))
    for kind, options in (("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"exif": exif([])})):
        data = encoded(SCENE, kind, **options)
        read(data, Limits(WIDTH * HEIGHT, 8))
        assert "at most 191 pixels; it is 16x12" in refusal(data, Limits(WIDTH * HEIGHT - 1, 8))


def test_a_webp_is_not_opened_before_its_size_is_known() -> None:
    data = bytearray(encoded(SCENE, "WEBP", exif=exif([])))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xfe\x3f\0\xfe\x3f\0"
    assert "it is 16383x16383" in refusal(bytes(data))


@pytest.mark.parametrize("segment", [
    (0xEE, b"Ado"), (0xE2, b"MPF\0II*\0\xff\xff"), (0xE2, b"MPF\0II*\0\x08\0\0\0" + bytes(6)),
    (0xED, b"Photoshop 3.0\x008BIM"),
], ids=["Adobe", "MPF", "no MPF", "Photoshop"])  # fmt: skip
def test_segments_that_are_cut_do_not_matter(segment: tuple[int, bytes]) -> None:
    assert near(seen(with_segment(JPEG, *segment)), SCENE, 12)

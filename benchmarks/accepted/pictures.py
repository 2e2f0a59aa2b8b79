"""Pictures as people send them: each becomes the first frame as its maker sees it, or is refused with a reason."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import partial

import httpx2
import numpy as np
from PIL import Image, ImageCms

from benchmarks.accepted.cases import GOOD, Case, Service, outcome, refused
from tests.harness.heic import heic
from tests.harness.pictures import (
    ADOBE_XYZ,
    ASCII,
    DOUBLE,
    GPS,
    HEIGHT,
    RATIONAL,
    SHORT,
    SRGB_XYZ,
    WIDTH,
    Pixels,
    chunk,
    eight,
    encoded,
    exif,
    frames,
    near,
    ramp,
    raw_png,
    rgb_profile,
    scene,
    tiff,
    turn,
    upright,
    with_chunks,
    with_segment,
)

SCENE, RAMP = scene(), ramp()
DEEP = (RAMP * 65535).round().astype(np.uint16)
JPEG, PNG = encoded(SCENE, "JPEG", quality=100, subsampling=0), encoded(SCENE, "PNG")
UPRIGHT = upright(SCENE)
TURNED = UPRIGHT[6]
"""The scene as orientation 6 shows it."""
LOSSY = 14
"""Levels by which a JPEG or AVIF of such a small picture may be off."""
PATCH = np.full((HEIGHT, WIDTH, 3), (100, 160, 90), np.uint8)


def picture_cases() -> Iterator[Case]:
    for sent, data, expected, within in _taken():
        yield Case("pictures", sent, partial(_compare, data=data, expected=expected, within=within))
    for sent, data, *words in _refused():
        yield Case("pictures", sent, partial(_refusal, data=data, words=words))


def _refusal(service: Service, data: bytes, words: Sequence[str]) -> str:
    return refused(_sent(service, data), *words)


def _sent(service: Service, data: bytes) -> httpx2.Response:
    return service.create(input_reference="data:image/png;base64," + base64.b64encode(data).decode())


def _compare(service: Service, data: bytes, expected: Pixels, within: float) -> str:
    answer = _sent(service, data)
    if answer.status_code != 200:
        return outcome(answer)
    try:
        (stored,) = (service.data / "artifacts").rglob(f"{answer.json()['id']}/inputs/reference.png")
        pixels = np.asarray(Image.open(io.BytesIO(stored.read_bytes())).convert("RGB"))
    finally:
        service.forget(answer)
    if near(pixels, expected, within):
        return GOOD
    if pixels.shape != expected.shape:
        return f"taken, as {pixels.shape[1]}x{pixels.shape[0]} and not {expected.shape[1]}x{expected.shape[0]}"
    worst = float(np.abs(pixels.astype(int) - expected.astype(int)).max())
    return f"taken, up to {worst:.0f} of 255 levels off"


def _taken() -> Iterator[tuple[str, bytes, Pixels, float]]:
    yield "a JPEG", JPEG, SCENE, LOSSY
    yield "an MPO, as phones write it", encoded(SCENE, "MPO", quality=100, subsampling=0), SCENE, LOSSY
    for kind in ("PNG", "BMP", "TIFF"):
        yield f"a {kind}", encoded(SCENE, kind), SCENE, 0
    yield "a WebP", encoded(SCENE, "WEBP", lossless=True), SCENE, 0
    yield from _turned()
    yield from _deep()
    yield from _colored()
    yield from _with_metadata()
    yield "AVIF", encoded(SCENE, "AVIF", quality=100, subsampling="4:4:4"), SCENE, LOSSY
    large = np.kron(SCENE, np.ones((4, 4, 1), np.uint8))[:48, :64]
    yield "HEIC", heic(large), large, LOSSY
    yield "an APNG of one frame", with_chunks(PNG, frames(1)), SCENE, 0
    yield "a TIFF with a thumbnail as a second page", tiff((SCENE, []), (SCENE[::2, ::2], [])), SCENE, 0
    yield "a JPEG without its end marker", JPEG[:-2], SCENE, LOSSY
    yield "a PNG without its end, or with more behind it", PNG[:-12], SCENE, 0


def _turned() -> Iterator[tuple[str, bytes, Pixels, float]]:
    for orientation, expected in list(UPRIGHT.items())[1:]:
        data = encoded(SCENE, "JPEG", quality=100, subsampling=0, exif=exif([turn(orientation)]))
        yield f"a turned JPEG, orientation {orientation}", data, expected, LOSSY
    yield "a turned PNG", encoded(SCENE, "PNG", exif=exif([turn(6)])), TURNED, 0
    yield "a turned WebP", encoded(SCENE, "WEBP", lossless=True, exif=exif([turn(6)])), TURNED, 0
    yield "a turned TIFF", tiff((SCENE, [turn(6)])), TURNED, 0
    odd = {
        "a maker as a fraction": ([(0x10F, RATIONAL, 1, struct.pack("<LL", 1, 1))], {}),
        "software as a number": ([(0x131, DOUBLE, 1, struct.pack("<d", 1.5))], {}),
        "a resolution as text": ([(0x11A, ASCII, 3, b"72\0")], {}),
        "a longitude's reference as a fraction": ([], {GPS: (3, RATIONAL, 1, struct.pack("<LL", 69, 1))}),
        "an altitude's reference of 256": ([], {GPS: (5, SHORT, 1, struct.pack("<H", 256))}),
        "a latitude as text": ([], {GPS: (2, ASCII, 8, b"48.1374\0")}),
    }
    for what, (tags, inner) in odd.items():
        body = exif([turn(6), *tags], inner)
        yield f"a turned JPEG whose EXIF has {what}", with_segment(JPEG, 0xE1, body), TURNED, LOSSY
    yield "a JPEG whose EXIF is cut", with_segment(JPEG, 0xE1, exif([turn(6)])[:20]), SCENE, LOSSY


def _deep() -> Iterator[tuple[str, bytes, Pixels, float]]:
    gray = eight(RAMP)
    transparent = gray.copy()
    transparent[:, 0] = 0
    key = chunk(b"tRNS", struct.pack(">H", DEEP[0, 0]))
    colors = (SCENE.astype(np.uint32) * 257).astype(">u2").reshape(HEIGHT, -1)
    white_is_zero = (262, SHORT, 1, struct.pack("<H", 0))
    yield "a gray PNG of 16 bits", raw_png(16, 0, DEEP.astype(">u2")), gray, 1
    yield "a gray PNG of 16 bits, one level transparent", raw_png(16, 0, DEEP.astype(">u2"), key), transparent, 1
    yield "a color PNG of 16 bits", raw_png(16, 2, colors), SCENE, 1
    yield "a gray TIFF of 16 bits", tiff((DEEP, [])), gray, 1
    yield "a gray TIFF of 16 bits, big-endian", tiff((DEEP, []), order=">"), gray, 1
    yield "a gray TIFF of 32 bits", tiff(((RAMP * (2**31 - 1)).astype(np.int32), [])), gray, 1
    unsigned = (RAMP * (2**32 - 1)).astype(np.uint32)
    yield "a gray TIFF of 32 bits, unsigned", tiff((unsigned, [])), gray, 1
    yield "a TIFF of floats from 0 to 1", tiff((RAMP.astype(np.float32), [])), gray, 1
    yield "a gray TIFF of 16 bits, white is zero", tiff((DEEP, [white_is_zero])), eight(1 - RAMP), 1


def _colored() -> Iterator[tuple[str, bytes, Pixels, float]]:
    for name, gamma, columns in (("Adobe RGB", 2.19921875, ADOBE_XYZ), ("linear light", 1.0, SRGB_XYZ)):
        profile = rgb_profile(gamma, *columns)
        yield f"a PNG in {name}", encoded(PATCH, "PNG", icc_profile=profile), _srgb(profile), 1
        jpeg = encoded(PATCH, "JPEG", quality=100, subsampling=0, icc_profile=profile)
        yield f"a JPEG in {name}", jpeg, _srgb(profile), 6
    yield "a PNG with a broken color profile", encoded(SCENE, "PNG", icc_profile=b"no profile" * 20), SCENE, 0
    palette = Image.fromarray(SCENE).quantize(8)
    shown = np.where((np.asarray(palette) == 3)[..., None], 0, np.asarray(palette.convert("RGB"))).astype(np.uint8)
    yield "a palette with a transparent color", encoded(palette, "PNG", transparency=3), shown, 0
    gray = Image.fromarray((RAMP * 255).round().astype(np.uint8))
    yield (
        "gray with alpha",
        encoded(Image.merge("LA", (gray, Image.new("L", gray.size, 51))), "PNG"),
        eight(RAMP / 5),
        1,
    )


def _srgb(profile: bytes) -> Pixels:
    """The patch in sRGB, by the reference implementation of ICC profiles."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    shown = ImageCms.profileToProfile(Image.fromarray(PATCH), source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert shown is not None
    return np.asarray(shown)


def _with_metadata() -> Iterator[tuple[str, bytes, Pixels, float]]:
    long = zlib.compress(b" " * 2 * 2**20)
    bad = chunk(b"tEXt", b"Author\0x")
    yield (
        "a PNG with a comment of 2 MiB, compressed",
        with_chunks(PNG, chunk(b"zTXt", b"workflow\0\0" + long)),
        SCENE,
        0,
    )
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + long)
    yield "a PNG with XMP of 2 MiB", with_chunks(PNG, xmp), SCENE, 0
    yield "a PNG with a comment whose checksum is wrong", with_chunks(PNG, bad[:-4] + bytes(4)), SCENE, 0
    yield "a PNG with broken EXIF", with_chunks(PNG, chunk(b"eXIf", b"\0\x08\0\2\1\x12\0\3")), SCENE, 0


def _refused() -> Iterator[tuple[str, bytes, *tuple[str, ...]]]:
    other = [Image.fromarray(SCENE[::-1])]
    for kind, name in (("GIF", "GIF"), ("PNG", "APNG"), ("WEBP", "WebP")):
        data = encoded(SCENE, kind, save_all=True, append_images=other)
        yield f"an animated {name}: refused", data, "must not be animated"
    yield "half a JPEG: refused", JPEG[: len(JPEG) // 2], "its end is missing"
    yield "a JPEG 2000: refused by its name", encoded(SCENE, "JPEG2000"), "JPEG 2000"
    yield "a PDF: refused by its name", b"%PDF-1.7\n", "PDF"
    yield "an SVG: refused by its name", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"
    yield "a PNG in gzip: refused by its name", gzip.compress(PNG), "gzip"

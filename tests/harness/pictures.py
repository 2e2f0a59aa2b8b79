"""Pictures as people send them, made by code: as small as they can be and still have what is odd about them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.pictures.read import Limits, Picture, read_picture

LIMITS = Limits(10**6, 8)
WIDTH, HEIGHT = 16, 12
ORIENTATION, GPS, EXIF = 0x0112, 0x8825, 0x8769
SHORT, LONG, RATIONAL, SRATIONAL, ASCII, DOUBLE = 3, 4, 5, 10, 2, 12

Pixels = NDArray[np.uint8]
Tag = tuple[int, int, int, bytes]
"""Number, type, count, and the value's bytes."""


def ramp() -> NDArray[np.float64]:
    """Gray levels from 0.1 on the left to 0.9 on the right, [H, W]."""
    return np.tile(np.linspace(0.1, 0.9, WIDTH), (HEIGHT, 1))


def scene() -> Pixels:
    """A picture no two turns of which are alike: red grows to the right, green to the bottom, blue to the left."""
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    return np.stack([x, y, 1 - x], 2).__mul__(255).round().astype(np.uint8)


def upright(pixels: Pixels) -> dict[int, Pixels]:
    """A picture as each orientation shows it."""
    return {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).swapaxes(0, 1), 8: np.rot90(pixels),
    }  # fmt: skip


def eight(gray: NDArray[np.float64]) -> Pixels:
    """Gray levels as an RGB picture of 8 bits."""
    return np.repeat((gray * 255).round().astype(np.uint8)[..., None], 3, 2)


def encoded(image: Image.Image | Pixels, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def read(data: bytes, limits: Limits = LIMITS) -> Picture:
    return read_picture(data, limits)


def seen(data: bytes) -> Pixels:
    """The pixels of a picture as it was read, [H, W, 3]."""
    image = Image.open(io.BytesIO(read(data).png))
    assert (image.format, image.mode, sorted(image.info)) == ("PNG", "RGB", [])
    return np.asarray(image)


def near(one: Pixels, other: Pixels, within: float = 1) -> bool:
    """Whether two pictures are of one size and differ by no more than some levels anywhere."""
    return one.shape == other.shape and float(np.abs(one.astype(int) - other.astype(int)).max()) <= within


# EXIF


def exif(tags: Sequence[Tag], inner: Mapping[int, Tag] | None = None, order: str = "<") -> bytes:
    """EXIF with these tags, and directories of one tag each at others."""
    inner = inner or {}
    entries = sorted([*tags, *((pointer, LONG, 1, b"") for pointer in inner)])
    at = 8 + 2 + 12 * len(entries) + 4
    head, behind = b"", b""
    for number, kind, count, given in entries:
        value = given
        if number in inner:
            place = at + len(behind)
            deeper, more = _entry(*inner[number], place + 18, order)
            behind += struct.pack(order + "H", 1) + deeper + bytes(4) + more
            value = struct.pack(order + "L", place)
        entry, more = _entry(number, kind, count, value, at + len(behind), order)
        head, behind = head + entry, behind + more
    begin = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    return b"Exif\0\0" + begin + struct.pack(order + "H", len(entries)) + head + bytes(4) + behind


def _entry(number: int, kind: int, count: int, value: bytes, at: int, order: str) -> tuple[bytes, bytes]:
    head, value = struct.pack(order + "HHL", number, kind, count), value + bytes(len(value) % 2)
    if len(value) <= 4:
        return head + value.ljust(4, b"\0"), b""
    return head + struct.pack(order + "L", at), value


def turn(orientation: int, order: str = "<") -> Tag:
    return ORIENTATION, SHORT, 1, struct.pack(order + "H", orientation)


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 255, marker, len(body) + 2) + body + jpeg[2:]


# PNG


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """With chunks behind the first one."""
    return png[:33] + b"".join(chunks) + png[33:]


def frames(count: int) -> bytes:
    """What makes a PNG animated: the number of its frames, and that the first is the picture itself."""
    shown = struct.pack(">LLLLLHHBB", 0, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0)
    return chunk(b"acTL", struct.pack(">LL", count, 0)) + chunk(b"fcTL", shown)


def raw_png(depth: int, color: int, rows: NDArray[np.generic], *chunks: bytes) -> bytes:
    """A PNG of values that Pillow cannot write: [H, W * channels], of big-endian numbers or packed bytes."""
    head = struct.pack(">LLBBBBB", WIDTH, HEIGHT, depth, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# TIFF


def tiff(
    *pages: tuple[NDArray[np.generic], Sequence[Tag]], order: Literal["<", ">"] = "<", deflated: bool = False
) -> bytes:
    """A TIFF; each page is pixels, [H, W] or [H, W, C], and tags beside or instead of the usual ones."""
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    for index, (pixels, given) in enumerate(pages):
        height, width = pixels.shape[:2]
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        bits = struct.pack(order + f"{channels}H", *[pixels.itemsize * 8] * channels)
        form = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
        data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        if deflated:
            data = zlib.compress(data)
        tags: dict[int, Tag] = {
            number: (number, kind, count, struct.pack(order + ("H" if kind == SHORT else "L"), value))
            for number, kind, count, value in (
                (256, LONG, 1, width), (257, LONG, 1, height), (259, SHORT, 1, 8 if deflated else 1),
                (262, SHORT, 1, 2 if channels == 3 else 1), (277, SHORT, 1, channels), (278, LONG, 1, height),
                (279, LONG, 1, len(data)), (339, SHORT, 1, form),
            )
        }  # fmt: skip
        tags |= {258: (258, SHORT, channels, bits), **{tag[0]: tag for tag in given}}
        tags[273] = (273, LONG, 1, b"\0\0\0\0")
        at = len(out) + 2 + 12 * len(tags) + 4
        behind, entries = b"", b""
        place = at + sum(len(value) + len(value) % 2 for *_, value in tags.values() if len(value) > 4)
        tags[273] = (273, LONG, 1, struct.pack(order + "L", place))
        for number in sorted(tags):
            entry, more = _entry(*tags[number], at + len(behind), order)
            entries, behind = entries + entry, behind + more
        data += bytes(len(data) % 2)
        following = place + len(data) if index + 1 < len(pages) else 0
        out += struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "L", following) + behind + data
    return out


# ICC


def icc(space: bytes, tags: Mapping[bytes, bytes], connection: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """A profile with these tags."""
    white = struct.pack(">4s4x3l", b"XYZ ", 63190, 65536, 54061)
    every = {b"desc": b"desc\0\0\0\0" + struct.pack(">L", 2) + b"a\0" + bytes(78), b"wtpt": white, **tags}
    table, body, at = struct.pack(">L", len(every)), b"", 128 + 4 + 12 * len(every)
    for name, value in every.items():
        table += name + struct.pack(">LL", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">L4sL4s4s4s12x4s28x3l", at + len(body), b"none", 0x02400000, kind, space, connection, b"acsp",
                       63190, 65536, 54061)  # fmt: skip
    return head.ljust(128, b"\0") + table + body


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">LH", 1, round(gamma * 256))


def rgb_profile(gamma: float, red: Sequence[float], green: Sequence[float], blue: Sequence[float]) -> bytes:
    """A profile of three primaries, as XYZ under D50."""
    columns = [struct.pack(">4s4x3l", b"XYZ ", *(round(part * 65536) for part in each)) for each in (red, green, blue)]
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma_curve(gamma))
    return icc(b"RGB ", {**dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)), **curves})


SRGB_XYZ = (0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
ADOBE_XYZ = (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)


def cmyk_profile() -> bytes:
    """A profile in which cyan alone is Lab's (50, -60, -30), black is black, and other inks do nothing."""
    grid = b""
    for inks in range(16):
        cyan, black = bool(inks & 8), bool(inks & 1)
        lightness, a, b = (0, 0, 0) if black else (50, -60, -30) if cyan else (100, 0, 0)
        grid += bytes((round(lightness * 255 / 100), a + 128, b + 128))
    identity = struct.pack(">9l", *(65536 if at % 4 == 0 else 0 for at in range(9)))
    line = bytes(range(256))
    table = b"mft1\0\0\0\0" + struct.pack(">BBBx", 4, 3, 2) + identity + line * 4 + grid + line * 3
    return icc(b"CMYK", {b"A2B0": table, b"A2B1": table}, b"Lab ", b"prtr")

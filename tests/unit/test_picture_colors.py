"""A picture's colors become sRGB's, whichever way its file says what they are; what cannot be used is noted."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pipelines.pictures import colors
from tests.harness.pictures import (
    ADOBE_XYZ,
    HEIGHT,
    SRGB_XYZ,
    WIDTH,
    Pixels,
    chunk,
    cmyk_profile,
    encoded,
    gamma_curve,
    icc,
    near,
    read,
    rgb_profile,
    scene,
    seen,
    with_chunks,
)

SCENE = scene()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LINEAR = rgb_profile(1, *SRGB_XYZ)
ADOBE = rgb_profile(2.19921875, *ADOBE_XYZ)
KINDS = ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"]


def patch(color: tuple[int, int, int]) -> Pixels:
    return np.full((HEIGHT, WIDTH, 3), color, np.uint8)


def file(pixels: Pixels, kind: str, profile: bytes) -> bytes:
    sharp = {} if kind not in {"JPEG", "AVIF"} else {"subsampling": "4:4:4"}
    return encoded(pixels, kind, quality=100, lossless=True, icc_profile=profile, **sharp)


def srgb_of(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB's curve, IEC 61966-2-1, to 255."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055) * 255


def by_hand(color: tuple[int, int, int], gamma: float, columns: tuple[tuple[float, ...], ...]) -> Pixels:
    """What a color of a matrix profile is in sRGB, by ICC's own formula."""
    light = np.array(columns).T @ (np.array(color) / 255) ** gamma
    there = srgb_of(np.linalg.inv(np.array(SRGB_XYZ).T) @ light).clip(0, 255)
    return patch((round(float(there[0])), round(float(there[1])), round(float(there[2]))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("color", [(100, 160, 90), (200, 120, 130), (60, 60, 60), (255, 255, 255), (0, 0, 0)], ids=str)
def test_adobe_rgb_becomes_srgb(kind: str, color: tuple[int, int, int]) -> None:
    expected = by_hand(color, 2.19921875, ADOBE_XYZ)
    assert near(seen(file(patch(color), kind, ADOBE)), expected, 6 if kind in {"JPEG", "AVIF"} else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_light_becomes_srgb(kind: str) -> None:
    assert near(seen(file(patch((55, 128, 10)), kind, LINEAR)), by_hand((55, 128, 10), 1, SRGB_XYZ), 4)


def test_srgbs_own_profile_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    apply = ImageCms.applyTransform

    def counted(image: Image.Image, *given: object, **named: object) -> Image.Image | None:
        sizes.append(image.size)
        return apply(image, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageCms, "applyTransform", counted)
    assert near(seen(file(SCENE, "PNG", SRGB)), SCENE, 0)
    assert len(sizes) == 1
    assert (WIDTH, HEIGHT) not in sizes
    seen(file(SCENE, "PNG", ADOBE))
    assert (WIDTH, HEIGHT) in sizes


def test_gray_profiles_and_gray_pictures() -> None:
    gray = Image.new("L", (WIDTH, HEIGHT), 100)
    of_gamma = icc(b"GRAY", {b"kTRC": gamma_curve(1)})
    expected = patch((int(srgb_of(np.array(100 / 255)).round()),) * 3)
    assert near(seen(encoded(gray, "PNG", icc_profile=of_gamma)), expected)
    alpha = Image.merge("LA", (gray, Image.new("L", gray.size, 255)))
    assert near(seen(encoded(alpha, "PNG", icc_profile=of_gamma)), expected)
    assert near(seen(encoded(gray, "PNG", icc_profile=LINEAR)), expected), "gray is a color of every RGB"
    assert near(seen(encoded(gray.convert("P"), "PNG", icc_profile=LINEAR)), expected)
    assert read(encoded(patch((9, 80, 9)), "PNG", icc_profile=of_gamma)).notes == (colors.UNUSABLE,)


def inks(cyan: int, magenta: int, yellow: int, black: int) -> Image.Image:
    return Image.new("CMYK", (WIDTH, HEIGHT), (cyan, magenta, yellow, black))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile(kind: str) -> None:
    assert near(seen(encoded(inks(255, 0, 0, 0), kind, quality=100)), patch((0, 255, 255)), 3)
    assert near(seen(encoded(inks(0, 51, 102, 51), kind, quality=100)), patch((204, 163, 122)), 4)


def test_cmyk_of_a_jpeg_without_adobes_marker_or_as_ycck() -> None:
    data = encoded(inks(255, 0, 0, 0), "JPEG", quality=100)
    at = data.find(b"\xff\xee")
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    assert near(seen(data[:at] + data[at + 2 + length :]), patch((0, 255, 255)), 3)
    # Adobe's transform 2: three are YCbCr, of what the file's inverted inks would be as RGB; no ink is black's.
    ycck = Image.merge("CMYK", [Image.new("L", (WIDTH, HEIGHT), 255 - value) for value in (179, 171, 0, 255)])
    data = encoded(ycck, "JPEG", quality=100)
    at = data.find(b"Adobe") + 11
    assert near(seen(data[:at] + b"\2" + data[at + 1 :]), patch((255, 0, 0)), 4)


def test_a_cmyk_profile_is_used() -> None:
    lab = Image.new("LAB", (1, 1), (round(50 * 255 / 100), 128 - 60, 128 - 30))
    there = lab.convert("RGB").getpixel((0, 0))
    assert isinstance(there, tuple)
    for kind in ("JPEG", "TIFF"):
        shown = seen(encoded(inks(255, 0, 0, 0), kind, quality=100, icc_profile=cmyk_profile()))
        assert np.abs(shown[0, 0].astype(int) - there).max() <= 6
        assert near(
            seen(encoded(inks(0, 0, 0, 255), kind, quality=100, icc_profile=cmyk_profile())), patch((0,) * 3), 3
        )
    assert read(encoded(inks(9, 9, 9, 9), "TIFF", icc_profile=ADOBE)).notes == (colors.UNUSABLE,)
    assert read(encoded(SCENE, "PNG", icc_profile=cmyk_profile())).notes == (colors.UNUSABLE,)


def test_lab_stays_right() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.fromarray(SCENE), to_lab)
    assert lab is not None
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture = encoded(lab, "TIFF", icc_profile=profile)
    assert near(seen(picture), SCENE, 40)
    assert read(picture).notes == ()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_broken_profile_is_noted_and_the_picture_taken(kind: str) -> None:
    picture = file(SCENE, kind, b"not a profile")
    assert read(picture).notes == (colors.UNUSABLE,)
    assert near(seen(picture), SCENE, 15 if kind in {"JPEG", "AVIF"} else 0)


def test_what_is_transparent_has_its_profile_too() -> None:
    half = Image.fromarray(patch((55, 128, 10))).convert("RGBA")
    half.putalpha(128)
    expected = (by_hand((55, 128, 10), 1, SRGB_XYZ) * (128 / 255)).round().astype(np.uint8)
    assert near(seen(encoded(half, "PNG", icc_profile=LINEAR)), expected)


GREEN = patch((55, 128, 10))
PLAIN = encoded(GREEN, "PNG")
LIT = by_hand((55, 128, 10), 1, SRGB_XYZ)
GAMMA_1, GAMMA_22 = chunk(b"gAMA", struct.pack(">L", 100_000)), chunk(b"gAMA", struct.pack(">L", 45_455))
SRGB_CHUNK = chunk(b"sRGB", b"\0")
ICCP = chunk(b"iCCP", b"p\0\0" + zlib.compress(LINEAR))
CORNERS = struct.pack(">8L", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


@pytest.mark.parametrize(("chunks", "expected"), [
    ([GAMMA_1], LIT),
    ([GAMMA_1, SRGB_CHUNK], GREEN),
    ([GAMMA_22], GREEN),
    ([GAMMA_22, chunk(b"cHRM", CORNERS)], GREEN),
    ([GAMMA_1, chunk(b"cHRM", CORNERS)], LIT),
    ([ICCP], LIT),
    ([chunk(b"iCCP", b"p\0\0" + zlib.compress(LINEAR + bytes(2 * 2**20)))], LIT),
    ([SRGB_CHUNK, ICCP], LIT),
    ([chunk(b"cICP", bytes((1, 13, 0, 1))), ICCP], GREEN),
    ([chunk(b"cICP", bytes((1, 8, 0, 1)))], LIT),
    ([chunk(b"cICP", bytes((1, 1, 0, 1)))], GREEN),
    ([chunk(b"gAMA", bytes(4))], GREEN),
    ([GAMMA_1, chunk(b"cHRM", bytes(32))], GREEN),
], ids=["gAMA", "sRGB before gAMA", "usual gAMA", "usual gAMA and cHRM", "gAMA and cHRM", "iCCP", "long iCCP",
        "iCCP before sRGB", "cICP before iCCP", "linear cICP", "video's cICP", "no gamma", "no corners"])  # fmt: skip
def test_of_several_ways_to_say_it_a_png_is_shown_by_the_one_that_browsers_go_by(
    chunks: list[bytes], expected: Pixels
) -> None:
    assert near(seen(with_chunks(PLAIN, *chunks)), expected)


def test_a_gamma_alone_is_used_if_it_is_not_near_srgbs() -> None:
    shown = seen(with_chunks(PLAIN, chunk(b"gAMA", struct.pack(">L", round(1e5 / 1.8)))))
    assert near(shown, by_hand((55, 128, 10), 1.8, SRGB_XYZ))


@pytest.mark.parametrize("primaries", [
    (struct.pack(">8L", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), 12),
    (struct.pack(">8L", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600), 9),
], ids=["Display P3", "BT.2020"])  # fmt: skip
def test_primaries_are_those_of_their_corners(primaries: tuple[bytes, int]) -> None:
    corners, code = primaries
    x, y = np.array(struct.unpack(">8L", corners)).reshape(4, 2).T / 1e5
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    to_xyz = xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0])
    usual_x, usual_y = np.array(struct.unpack(">8L", CORNERS)).reshape(4, 2).T / 1e5
    usual = np.stack([usual_x / usual_y, np.ones(4), (1 - usual_x - usual_y) / usual_y])
    to_usual = np.linalg.inv(usual[:, 1:] * np.linalg.solve(usual[:, 1:], usual[:, 0]))
    color = np.array((120, 100, 90)) / 255

    def expected(light: NDArray[np.float64]) -> Pixels:
        return np.broadcast_to(srgb_of(to_usual @ to_xyz @ light).round().astype(np.uint8), GREEN.shape)

    plain = encoded(patch((120, 100, 90)), "PNG")
    by_corners = with_chunks(plain, chunk(b"gAMA", struct.pack(">L", 50_000)), chunk(b"cHRM", corners))
    assert near(seen(by_corners), expected(color**2), 2)
    by_code = with_chunks(plain, chunk(b"cICP", bytes((code, 13, 0, 1))))
    assert near(seen(by_code), expected(np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)), 2)


@pytest.mark.parametrize("broken", [
    lambda: chunk(b"iCCP", b"p\0\0junk"), lambda: chunk(b"iCCP", b"junk"), lambda: chunk(b"cHRM", b"") + GAMMA_1,
    lambda: chunk(b"cICP", b"\1"),
], ids=["iCCP", "no name", "cHRM", "cICP"])  # fmt: skip
def test_what_a_png_says_brokenly_of_its_colors_is_noted(broken: Callable[[], bytes]) -> None:
    picture = read(with_chunks(PLAIN, broken()))
    assert [note for note in picture.notes if "color" in note]
    assert near(seen(with_chunks(PLAIN, broken())), GREEN, 0)

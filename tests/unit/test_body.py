"""What becomes of an input image."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from deployments.http.images import check_image
from pipelines.errors import InvalidRequest


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def checked(data: bytes, max_pixels: int = 10**6) -> Image.Image:
    return Image.open(io.BytesIO(check_image(data, max_pixels, 8)))


NOISE = Image.effect_noise((40, 30), 60).convert("RGB")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_takes_every_usual_kind(kind: str) -> None:
    image = checked(encoded(NOISE, kind))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (40, 30))


def test_a_phone_picture_with_a_second_one_behind_it_is_no_animation() -> None:
    assert checked(encoded(NOISE, "MPO", save_all=True, append_images=[NOISE])).size == (40, 30)


def test_turns_a_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    assert checked(encoded(NOISE, "JPEG", exif=exif)).size == (30, 40)


def test_transparent_parts_become_black() -> None:
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    pixel = checked(encoded(half, "PNG")).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    assert (abs(pixel[0] - 128) <= 1, pixel[1:]) == (True, (0, 0))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read"),
        (encoded(NOISE, "PNG")[:-200], "cannot be read"),
        (encoded(NOISE, "JPEG")[:-200], "cannot be read"),
        (encoded(NOISE, "PNG", exif=b"Exif\0\0II*\0"), "cannot be read"),
        (encoded(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)]), "animated"),
        (encoded(NOISE, "WEBP", save_all=True, append_images=[NOISE.rotate(90)]), "animated"),
        (encoded(NOISE.resize((81, 10)), "PNG"), "at most 8 times its shorter one; it is 81x10"),
        (encoded(Image.new("1", (1001, 1000)), "PNG"), "at most 1000000 pixels; it is 1001x1000"),
    ],
    ids=str,
)
def test_refuses_with_a_sentence(data: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        check_image(data, 10**6, 8)

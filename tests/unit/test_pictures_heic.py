"""HEIC, as phones write it: upright once and not twice, the primary picture of several, in its own colors."""

from __future__ import annotations

import io
import struct

import numpy as np
import pi_heif
import pytest

from pipelines.errors import InvalidRequest
from tests.harness.heic import NCLX_BT709, TURNS, Pixels, heic
from tests.harness.pictures import exif, near, read, scene, seen, turn, upright

SCENE = scene().repeat(4, 0).repeat(4, 1)[:48, :64]  # x265 takes no smaller ones
UPRIGHT = upright(SCENE)


@pytest.mark.parametrize("orientation", TURNS)
def test_is_turned_once_though_its_exif_says_it_again(orientation: int) -> None:
    data = heic(SCENE, turn=TURNS[orientation], exif=exif([turn(orientation)]))
    assert near(seen(data), UPRIGHT[orientation], 2)


def test_its_exif_alone_turns_nothing() -> None:
    assert near(seen(heic(SCENE, exif=exif([turn(6)]))), SCENE, 2)


def test_a_burst_is_its_primary_picture() -> None:
    others: list[Pixels] = [SCENE[::-1].copy(), SCENE // 2]
    assert near(seen(heic(others[0], SCENE, others[1], primary=1)), SCENE, 2)
    assert near(seen(heic(SCENE, *others)), SCENE, 2)


def test_half_a_file_is_refused() -> None:
    data = heic(SCENE)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read(data[: len(data) // 2])


def test_its_colors_may_be_given_by_numbers() -> None:
    halves = np.full_like(SCENE, 120)
    halves[:, 32:, 1] = 200
    shown = seen(heic(halves, colr=struct.pack(">4sHHHB", b"nclx", 12, 13, 1, 128))).astype(int)
    assert np.abs(shown[:, :32] - 120).max() <= 2
    # By the corners of Display P3's triangle, in linear light.
    assert np.abs(shown[:, 32:] - (89, 203, 110)).max() <= 3
    picture = read(heic(halves, colr=struct.pack(">4sHHHB", b"nclx", 1, 16, 1, 128)))
    assert picture.notes == ("the image is coded for HDR screens (PQ); its brightness is taken as sRGB's",)


HDR = struct.pack(">4sHHHB", b"nclx", 1, 16, 1, 128)


@pytest.mark.parametrize("wide", [False, True])
def test_its_colors_are_those_of_its_primary_picture(wide: bool) -> None:
    def notes(colr: list[bytes], primary: int) -> int:
        return len(read(heic(SCENE, SCENE // 2, colr=colr, primary=primary, wide=wide)).notes)

    assert notes([HDR, NCLX_BT709], primary=1) == 0
    assert notes([NCLX_BT709, HDR], primary=1) == 1
    assert notes([HDR, NCLX_BT709], primary=0) == 1
    assert notes([HDR, b""], primary=1) == 1, "as of the tiles of a picture that says nothing of its own"


def test_what_says_whose_the_colors_are_may_be_broken() -> None:
    data = heic(SCENE, colr=HDR, turn=TURNS[6])
    for name in (b"pitm", b"ipma"):
        begin = data.index(name)
        for at in range(begin - 4, begin + 24):
            for value in (0, 1, 0x7F, 0xFF):
                spoiled = data[:at] + bytes([value]) + data[at + 1 :]
                assert is_taken(spoiled) == decodes(spoiled), "only the decoder refuses a picture"


def is_taken(data: bytes) -> bool:
    try:
        return bool(read(data))
    except InvalidRequest:
        return False


def decodes(data: bytes) -> bool:
    try:
        file = pi_heif.HeifFile(io.BytesIO(data))
        return bool(file[file.primary_index].to_pillow())
    except Exception:  # it raises many types
        return False

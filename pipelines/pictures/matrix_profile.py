"""ICC profiles for files that say in numbers what their colors are: primaries, and a curve or a gamma.

Sources: ICC.1:2001-04 for the bytes; ITU-T H.273 for the codes; PNG's third edition for gAMA, cHRM and cICP.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

Row = tuple[float, float, float]
Matrix = tuple[Row, Row, Row]
Corner = tuple[float, float]
"""x and y of a color."""

D65: Corner = (0.3127, 0.3290)
_REC709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_PRIMARIES: dict[int, tuple[Corner, Corner, Corner]] = {
    1: _REC709,
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""By H.273's code: BT.709 and sRGB, BT.601 of 625 and 525 lines, SMPTE 240M, BT.2020, Display P3. All with D65."""
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
"""Curves that differ from sRGB's on a screen. Those of video cameras are shown with sRGB's, as all others are."""
_HDR = {16: "PQ", 18: "HLG"}

NEAR = 0.05
"""libpng's own threshold: a gamma that is no further from sRGB's is not worth a conversion."""
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_D50: Row = (0.9642, 1.0, 0.8249)
_BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def profile_of_code(primaries: int, transfer: int) -> tuple[bytes | None, tuple[str, ...]]:
    """The profile that H.273's codes stand for, None where it is sRGB's, and notes on what is left out of account."""
    notes: tuple[str, ...] = ()
    if transfer in _HDR:
        notes = (f"the image is coded for HDR screens ({_HDR[transfer]}); its brightness is taken as sRGB's",)
    corners = _PRIMARIES.get(primaries, _REC709)
    gamma = _GAMMAS.get(transfer)
    if gamma is None and corners == _REC709:
        return None, notes
    return _matrix_profile(corners, D65, gamma), notes


def profile_of_gamma(gamma: int, corners: Sequence[int] | None) -> bytes | None:
    """The profile of PNG's gAMA and cHRM, whose numbers are 100,000 times as large; None where it is as good as sRGB's.

    Args:
        corners: x and y of white, red, green and blue.

    Raises:
        ValueError, ZeroDivisionError: the numbers make no sense.
    """
    if not 1000 <= gamma <= 1_000_000:
        raise ValueError("no display has such a gamma")
    white, red, green, blue = D65, *_REC709
    if corners is not None:
        white, red, green, blue = ((corners[at] / 1e5, corners[at + 1] / 1e5) for at in range(0, 8, 2))
    said = [*white, *red, *green, *blue]
    usual = [*D65, *(part for corner in _REC709 for part in corner)]
    near = all(abs(one - other) < 0.005 for one, other in zip(said, usual, strict=True))
    if near and abs(gamma * 2.2 / 1e5 - 1) < NEAR:
        return None
    return _matrix_profile((red, green, blue), white, 1e5 / gamma)


def _matrix_profile(corners: Sequence[Corner], white: Corner, gamma: float | None) -> bytes:
    """A profile of three primaries and one curve: sRGB's, or a gamma."""
    columns = zip(*_to_d50(corners, white), strict=True)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">L", 2) + b"-\0" + bytes(78),
        b"wtpt": _xyz(_D50),
        **dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, columns), strict=True)),
    }
    curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, _SRGB_CURVE))
    if gamma is not None:
        curve = b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _fixed(gamma)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, at = struct.pack(">L", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag + struct.pack(">LL", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">L4sL4s4s4s12x4s28x", at + len(body), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return (head + b"".join(map(_fixed, _D50))).ljust(128, b"\0") + table + body


def _to_d50(corners: Sequence[Corner], white: Corner) -> Matrix:
    """From linear RGB to XYZ as it looks under D50, as profiles have it (Bradford's adaptation)."""
    unscaled = _transposed(tuple(map(_lifted, corners)))
    shares = _times(_inverse(unscaled), _lifted(white))
    seen, wanted = _times(_BRADFORD, _lifted(white)), _times(_BRADFORD, _D50)
    ratios = [after / before for after, before in zip(wanted, seen, strict=True)]
    scaled = [[ratio * part for part in row] for ratio, row in zip(ratios, _BRADFORD, strict=True)]
    adapted = _inverse(_BRADFORD)
    columns = []
    for share, corner in zip(shares, corners, strict=True):
        cones = [sum(a * b for a, b in zip(row, _lifted(corner), strict=True)) * share for row in scaled]
        columns.append(_times(adapted, (cones[0], cones[1], cones[2])))
    return _transposed((columns[0], columns[1], columns[2]))


def _lifted(corner: Corner) -> Row:
    """XYZ of a color whose Y is 1."""
    x, y = corner
    return x / y, 1.0, (1 - x - y) / y


def _transposed(rows: Sequence[Row]) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = rows
    return (a, d, g), (b, e, h), (c, f, i)


def _times(matrix: Matrix, column: Row) -> Row:
    one, two, three = (sum(a * b for a, b in zip(row, column, strict=True)) for row in matrix)
    return one, two, three


def _inverse(matrix: Matrix) -> Matrix:
    """Raises ZeroDivisionError."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    one, two, three = ((x / det, y / det, z / det) for x, y, z in rows)
    return one, two, three


def _xyz(color: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, color))


def _fixed(value: float) -> bytes:
    """Raises struct.error if it is too large."""
    return struct.pack(">l", round(value * 65536))

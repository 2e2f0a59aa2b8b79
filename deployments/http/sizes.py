"""How large the body of a request is, as far as its headers say."""

from __future__ import annotations

from starlette.datastructures import Headers

LARGE = 65536
"""A body of so many bytes or more is large: most of them have a picture."""
_DIGITS = 18


def declared_bytes(headers: Headers) -> int | None:
    """The length of a body that says it; 0 where there is none, and None where its end will tell.

    A length of more digits than any body has is as large as a number of `_DIGITS` digits: to read more takes its time.
    """
    length = headers.get("content-length")
    if length is None:
        return None if "transfer-encoding" in headers else 0
    digits = length.lstrip("0") or "0"
    if not digits.isdecimal() or not digits.isascii():
        return None  # the HTTP server refuses it
    return int(digits) if len(digits) <= _DIGITS else 10**_DIGITS

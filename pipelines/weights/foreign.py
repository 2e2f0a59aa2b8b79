"""What stands in place of a checkpoint's file when a download or a clone went wrong."""

from __future__ import annotations

BEGINNING = 512
"""How many bytes tell what a file is."""


def stand_in(beginning: bytes) -> str | None:
    """The rest of a sentence that begins with the file: what it is instead; None if that is not known.

    Args:
        beginning: the first `BEGINNING` bytes of the file.
    """
    if not beginning:
        return "is empty: fetch it again"
    if beginning.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file: run `git lfs pull` where it was cloned, or fetch it again"
    if beginning.lstrip()[:1] == b"<":
        return "is a web page, perhaps one that asks to log in: fetch the file itself, with `./kinoray prefetch`"
    return None

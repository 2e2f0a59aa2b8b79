"""Reads the path under which a service stands: its own `route_prefix`, or what a proxy says that it has taken off."""

from __future__ import annotations

import re

LONGEST = 256
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


def read_prefix(text: str) -> str:
    """A prefix without a slash at its end; empty for the root.

    Links are made with it, so it can be nothing but a plain path: `//host` would lead to another host.

    Raises:
        ValueError: with a sentence that does not repeat the text.
    """
    prefix = text.removesuffix("/")
    if len(prefix) > LONGEST or not _PATH.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
        raise ValueError("must be a path such as /videos, of letters, digits, hyphens, dots, underscores and tildes")
    return prefix

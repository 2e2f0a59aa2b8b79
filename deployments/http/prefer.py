"""How long a client asks to wait for the answer."""

from __future__ import annotations

import re


def parse_prefer(header: str | None, at_most_s: float) -> float | None:
    """The seconds of `Prefer: wait=N` (RFC 7240), at most `at_most_s`; None when the header asks for no wait."""
    found = re.search(r"(?:^|[,;\s])wait=\"?(\d{1,9})", header or "")
    return min(float(found[1]), at_most_s) if found else None

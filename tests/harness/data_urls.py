"""Pictures as data URLs."""

from __future__ import annotations

import base64

from pipelines.paths import ROOT


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


EXAMPLE = data_url((ROOT / "models/svd-tiny/example.png").read_bytes())
"""A picture that every model takes."""

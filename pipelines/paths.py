"""Where this checkout is: the code is run from it, with its models and configs beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

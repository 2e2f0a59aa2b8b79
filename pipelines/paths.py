"""The root of this checkout, from which the code runs, with its models and configs beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

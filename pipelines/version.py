"""Which Kinoray this is. `kinoray --version`, /openapi.json, what is kept of a job and the images' labels say it."""

from __future__ import annotations

VERSION = "0.2.0"

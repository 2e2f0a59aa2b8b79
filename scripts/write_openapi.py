"""Writes docs/openapi.json: what GET /openapi.json of a service says that stands at the root of its address."""

from __future__ import annotations

import json

from deployments.api import app
from pipelines.paths import ROOT

if __name__ == "__main__":
    (ROOT / "docs" / "openapi.json").write_text(json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n")

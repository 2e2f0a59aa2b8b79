"""Writes one log line per event, with the job's id, stage and model, on Ray Serve's own logger.

`logging_config: {encoding: JSON}` in the config file makes the lines JSON. Prompts are never logged.
"""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger("ray.serve")


def emit(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event, such as `emit("stage.finished", job_id=..., stage=..., model=..., seconds=...)`."""
    shown = " ".join(f"{key}={value}" for key, value in fields.items())
    log.log(level, f"{event} {shown}", extra={"ray_serve_extra_fields": {"event": event, **fields}})

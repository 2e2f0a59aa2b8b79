"""One job as a value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import uuid_utils

from jobs.lifecycle import ENDED, Leg, Status


def new_job_id() -> str:
    """`video_` and a UUIDv7: ids sort by creation time, so paging is a comparison of keys."""
    return f"video_{uuid_utils.uuid7().hex}"


def is_job_id(text: str) -> bool:
    """Whether a text has the shape of an id; what has not, no store needs to look up."""
    return re.fullmatch(r"video_[0-9a-f]{32}", text) is not None


@dataclass(frozen=True, slots=True)
class Job:
    """The row of a job. Times are seconds since the epoch."""

    id: str
    model: str
    prompt: str
    parameters: dict[str, Any]  # pipelines.requests.Parameters as JSON
    created_at: float
    has_image: bool = False
    user: str | None = None
    status: Status = Status.QUEUED
    leg: Leg | None = None
    progress: int = 0
    attempts: int = 0
    not_before: float = 0.0  # a retry waits until then
    started_at: float | None = None  # of the first attempt
    completed_at: float | None = None  # when it ended, either way
    leg_seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # what was found out: bytes, attention kernel, ...
    error_code: str | None = None
    error_message: str | None = None
    lease_owner: str | None = None
    lease_token: str | None = None
    lease_expires_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

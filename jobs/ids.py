"""The ids of jobs and uploads: each says when it was made, so that none outlives its time and all sort by it."""

from __future__ import annotations

import re
import time

import uuid_utils

UPLOAD_KEPT_S = 24 * 3600.0
"""How long an uploaded file may be used."""
CLOCKS_DIFFER_S = 60.0


def new_job_id() -> str:
    """`video_` and a UUIDv7: ids sort by creation time, so paging is a comparison of keys."""
    return f"video_{uuid_utils.uuid7().hex}"


def is_job_id(text: str) -> bool:
    """Whether a text has the shape of an id; what has not, no store needs to look up."""
    return re.fullmatch(r"video_[0-9a-f]{32}", text) is not None


def made_at(named: str) -> float:
    """When an id such as `video_` and a UUIDv7 was made, in seconds since the epoch: a UUIDv7 begins with it."""
    return int(named.rpartition("_")[2][:12], 16) / 1000


def new_upload_id() -> str:
    """`upload_` and a UUIDv7, which says when it was made."""
    return f"upload_{uuid_utils.uuid7().hex}"


def is_outdated(upload_id: str, kept_s: float = UPLOAD_KEPT_S) -> bool:
    """Whether an upload has had its time. An id from the future is nobody's: here none was given out."""
    return not -CLOCKS_DIFFER_S <= time.time() - made_at(upload_id) <= kept_s


def is_upload_id(text: str) -> bool:
    return re.fullmatch(r"upload_[0-9a-f]{32}", text) is not None

"""The ids of jobs and uploads. Each id holds its creation time, so ids sort by it and upload ids can expire."""

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
    """Whether a text has the form of a job id; the store need not look up any other text."""
    return re.fullmatch(r"video_[0-9a-f]{32}", text) is not None


def made_at(named: str) -> float:
    """The creation time of an id, in seconds since the epoch: the UUIDv7 after the prefix begins with it."""
    return int(named.rpartition("_")[2][:12], 16) / 1000


def new_upload_id() -> str:
    """`upload_` and a UUIDv7, which holds the creation time."""
    return f"upload_{uuid_utils.uuid7().hex}"


def is_outdated(upload_id: str, kept_s: float = UPLOAD_KEPT_S) -> bool:
    """Whether an upload is too old. An id from the future counts as too old, because the service never issued it."""
    return not -CLOCKS_DIFFER_S <= time.time() - made_at(upload_id) <= kept_s


def is_upload_id(text: str) -> bool:
    return re.fullmatch(r"upload_[0-9a-f]{32}", text) is not None

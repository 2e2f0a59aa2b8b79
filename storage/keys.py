"""Where in a store everything is: the names of its objects."""

from __future__ import annotations

import time
from string import Formatter
from typing import Protocol

KINDS = VIDEOS, CHECKPOINTS, UPLOADS = "videos/", "checkpoints/", "uploads/"
JOB_STORE = "job-store"
"""Says whose jobs these files are of: see `Retention.store_id`."""
DATE = {"date": "%Y-%m-%d", "year": "%Y", "month": "%m", "day": "%d"}
"""Fields of a template of folders, of when a job was accepted, in UTC."""
MAX_PARTS = 8
"""How deep a job's folder may be; nobody looks for one further down."""


class Owner(Protocol):
    """A job, which has files."""

    @property
    def id(self) -> str: ...

    @property
    def folder(self) -> str | None:
        """Where they are among all videos; None where that is the id."""


def job_folder(template: str, *, job_id: str, model: str, accepted_at: float) -> str:
    """The folder of a new job: `{date}/{model}/{id}` filled in."""
    moment = time.gmtime(accepted_at)
    dates = {field: time.strftime(form, moment) for field, form in DATE.items()}
    return template.format(id=job_id, model=model, **dates)


def check_template(template: str) -> str:
    """Raise ValueError for a template that does not give each job a folder of its own."""
    fields = [(name, form, conversion) for _, name, form, conversion in Formatter().parse(template) if name is not None]
    known = {"id", "model", *DATE}
    if unknown := {name for name, _, _ in fields} - known:
        raise ValueError(f"no such field: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    if any(form or conversion for _, form, conversion in fields):
        raise ValueError("a field is a name in braces, without a format")
    parts = template.split("/")
    if {".", ".."} & set(parts):
        raise ValueError("a dot alone is not a name")
    if parts[-1] != "{id}" or "" in parts or len(parts) > MAX_PARTS:
        raise ValueError(f"it must have at most {MAX_PARTS} parts and end in one that is {{id}}, its job's own")
    return template


def job_prefix(job: Owner) -> str:
    """Everything a job owns is under here, except its checkpoints."""
    return f"{VIDEOS}{job.folder or job.id}/"


def video_key(job: Owner) -> str:
    return job_prefix(job) + "video.mp4"


def thumbnail_key(job: Owner) -> str:
    return job_prefix(job) + "thumbnail.webp"


def spritesheet_key(job: Owner) -> str:
    return job_prefix(job) + "spritesheet.webp"


def metadata_key(job: Owner) -> str:
    return job_prefix(job) + "metadata.json"


def input_key(job: Owner) -> str:
    return job_prefix(job) + "inputs/reference.png"


def upload_prefix(upload_id: str) -> str:
    return f"{UPLOADS}{upload_id}/"


def upload_key(upload_id: str) -> str:
    """A file that a client sent before the job that is to use it."""
    return upload_prefix(upload_id) + "file"


def checkpoint_prefix(job_id: str) -> str:
    """Apart from the videos, so that what an unfinished job leaves can be swept without walking every video."""
    return f"{CHECKPOINTS}{job_id}/"


def prefixes_of(job: Owner) -> tuple[str, str]:
    """Everything that a job owns."""
    return job_prefix(job), checkpoint_prefix(job.id)


def checkpoint_key(job_id: str, step: int, token: str) -> str:
    """A listing of a job's checkpoints is in the order of their steps. Two leases never write the same key."""
    return checkpoint_prefix(job_id) + f"{step:06d}-{token[:12]}.safetensors"


def download_name(key: str) -> str:
    """What a file of a job is called where it stands alone: `video_ID.mp4`, `video_ID.thumbnail.webp`."""
    job_id, name = key.split("/")[-2:]
    return f"{job_id}.{name.removeprefix('video.')}"

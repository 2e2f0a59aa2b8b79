"""The keys of all objects in a store."""

from __future__ import annotations

import time
from string import Formatter
from typing import Protocol

KINDS = VIDEOS, CHECKPOINTS, UPLOADS = "videos/", "checkpoints/", "uploads/"
JOB_STORE = "job-store"
"""The key of the object that names the job store whose files these are; see `Retention.store_id`."""
DATE = {"date": "%Y-%m-%d", "year": "%Y", "month": "%m", "day": "%d"}
"""The fields of a folder template that hold the time at which a job was accepted, in UTC."""
MAX_PARTS = 8
"""The greatest depth of a job's folder; the sweeper does not search further down."""


class Owner(Protocol):
    """A job that owns files."""

    @property
    def id(self) -> str: ...

    @property
    def folder(self) -> str | None:
        """The folder of its files under `videos/`; None when that is the job's id."""


def job_folder(template: str, *, job_id: str, model: str, accepted_at: float) -> str:
    """The folder of a new job: a template such as `{date}/{model}/{id}`, filled in."""
    moment = time.gmtime(accepted_at)
    dates = {field: time.strftime(form, moment) for field, form in DATE.items()}
    return template.format(id=job_id, model=model, **dates)


def check_template(template: str) -> str:
    """Return the template; raise ValueError if it does not give each job its own folder."""
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
    """The prefix of everything a job owns except its checkpoints."""
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
    """The key of a file that a client uploaded before the job that will use it."""
    return upload_prefix(upload_id) + "file"


def checkpoint_prefix(job_id: str) -> str:
    """The prefix of a job's checkpoints, apart from the videos so that the sweeper need not list every video."""
    return f"{CHECKPOINTS}{job_id}/"


def prefixes_of(job: Owner) -> tuple[str, str]:
    """The prefixes of everything that a job owns."""
    return job_prefix(job), checkpoint_prefix(job.id)


def checkpoint_key(job_id: str, node: str, step: int, token: str) -> str:
    """The key of a checkpoint of one node of the job's stage graph.

    A listing of a node is in the order of the steps, and two leases never write the same key.
    """
    return checkpoint_prefix(job_id) + f"{node}-{step:06d}-{token[:12]}.safetensors"


def download_name(key: str) -> str:
    """The name of a job's file outside its folder: `video_ID.mp4`, `video_ID.thumbnail.webp`."""
    job_id, name = key.split("/")[-2:]
    return f"{job_id}.{name.removeprefix('video.')}"

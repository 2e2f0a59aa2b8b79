"""A job record as a value."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy.engine import Row

from jobs.lifecycle import ENDED, Status
from jobs.priority import Priority
from jobs.stored import Checkpoints, ResultMetadata
from pipelines.stages import Stage


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
    api_key: str = ""  # the name of the key that submitted it; empty where none is configured
    priority: Priority = Priority.NORMAL
    work: dict[str, float] = field(default_factory=dict)  # per stage, in units that `stage_costs` turns into seconds
    cost_s: float = 0.0  # estimated seconds of computing
    fair_start: float = 0.0  # where its turn begins on its model's virtual clock, in seconds of work
    queue_rank: float = 0.0  # its turn: `fair_start` plus the handicap of its priority; it never changes
    fresh: bool = True  # it has not had its turn; requeued jobs, which had theirs, go before all fresh ones
    output: dict[str, Any] = field(default_factory=dict)  # pipelines.video.Output as JSON
    webhook_url: str | None = None
    expires_in_s: float | None = None  # how long the artifacts stay once it is completed
    expires_at: float | None = None
    expired: bool = False  # the artifacts are gone
    remixed_from: str | None = None
    folder: str | None = None  # of its files, see storage/keys.py
    status: Status = Status.QUEUED
    stage: Stage | None = None
    replica: str | None = None  # the Serve replica that works on the stage
    progress: int = 0
    step: int | None = None  # denoising steps done
    checkpoint: Checkpoints | None = None  # what its denoises have committed
    attempts: int = 0
    not_before: float = 0.0  # a retry waits until then
    started_at: float | None = None  # of the first attempt
    completed_at: float | None = None  # when it ended, completed or failed
    stage_seconds: dict[str, float] = field(default_factory=dict)
    result_metadata: ResultMetadata = field(default_factory=ResultMetadata)
    error_code: str | None = None
    error_message: str | None = None
    lease_owner: str | None = None
    lease_token: str | None = None
    lease_expires_at: float | None = None
    version: int = 0  # counts the changes that a client can see; it is also the id of the change's event

    @property
    def ended(self) -> bool:
        return self.status in ENDED


_COLUMNS = tuple(column.name for column in fields(Job))


def read_job(row: Row[Any]) -> Job:
    """Convert a row of the jobs table to a `Job`."""
    values = {name: row._mapping[name] for name in _COLUMNS}
    values["status"] = Status(values["status"])
    values["priority"] = Priority(values["priority"])
    values["stage"] = Stage.named(values["stage"])
    return Job(**values)


def columns_of(job: Job) -> dict[str, Any]:
    """The columns of a job's row."""
    return {column.name: getattr(job, column.name) for column in fields(job)}

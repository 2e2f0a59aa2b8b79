"""How long a job has waited in the queue."""

from __future__ import annotations

from jobs.record import Job


def first_wait_s(job: Job) -> float | None:
    """Seconds from a claimed job's acceptance to its first claim; None if it had been claimed before.

    An attempt that does not count is taken back, so the number of attempts does not tell: a job that waited for the
    artifact store is in its first attempt again. Acceptance is a job's first change, and its first claim the second.
    """
    if job.version != 2 or job.started_at is None:
        return None
    return max(job.started_at - job.created_at, 0.0)  # by the clocks of two machines

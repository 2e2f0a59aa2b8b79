"""The limits of a request, and the error that a client gets when it reaches one."""

from __future__ import annotations

from deployments.configuration.settings import Settings
from deployments.http.auth import Caller
from deployments.http.errors import TooManyRequests
from jobs.admission import Limits, Refused

WHY_REFUSED = {
    "max_queued": "this model's queue is full",
    "max_backlog_s": "this model has more work waiting than it may",
    "requests_per_minute": "this API key has made as many requests as it may in a minute",
    "live_jobs": "this API key has as many videos waiting or in progress as it may",
    "gpu_seconds_per_day": "this API key has used as much computing as it may in a day",
}


def limits_of(settings: Settings, caller: Caller) -> Limits:
    return Limits(settings.max_queued, settings.max_backlog_s, **caller.limits.model_dump())


def too_many(refused: Refused) -> TooManyRequests:
    """The error that a client gets when its request reaches a limit."""
    seconds = refused.retry_after_s
    message = f"{WHY_REFUSED[refused.limit]}; try again in {seconds:.0f} s"
    return TooManyRequests(message, retry_after_s=seconds, code=f"{refused.limit}_exceeded")

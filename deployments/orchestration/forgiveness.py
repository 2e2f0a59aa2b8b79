"""Decides whether a denoise that ended in an error did so through no fault of its job, which then keeps its attempt."""

from __future__ import annotations

from ray.exceptions import ActorDiedError

from deployments.orchestration.stage_call import StageCall, cause_of
from deployments.stages.messages import Stopped
from pipelines.errors import ReplicaUnavailable
from pipelines.stages import Stage


class Forgiveness:
    """What one job run has been forgiven: each reason once, because a second time it is no accident.

    There are three reasons. The denoiser died before it began this job. It has no weights, and others do or soon will.
    Or the denoiser stopped by itself because it found the job's lease expired: after an outage of the store it may have
    looked before the conductor could renew. If that happens twice, the denoiser's clock is wrong.
    """

    def __init__(self) -> None:
        self._given: set[type[BaseException]] = set()

    def forgives(self, call: StageCall, error: BaseException) -> bool:
        """Whether the job may go on at another denoiser."""
        reason: type[BaseException] | None = None
        if isinstance(error, ActorDiedError) and not call.started:
            reason = ActorDiedError
        elif isinstance(cause := cause_of(error), Stopped | ReplicaUnavailable):
            reason = type(cause)
        if call.stage is not Stage.DENOISE or reason is None or reason in self._given:
            return False
        self._given.add(reason)
        return True

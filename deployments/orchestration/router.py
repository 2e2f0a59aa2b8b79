"""Routes a denoise request to the denoiser assigned to its job.

Serve's own router tries two replicas at random. When only one of 32 is free, it seldom finds that one before it waits
for up to half a second.
"""

from __future__ import annotations

from collections.abc import Iterable

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from deployments.stages.messages import DenoiseRequest


class ToItsDenoiser(RequestRouter):
    """Chooses the replica that a call's denoise request names; a call without a denoise request may go to any."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The assigned replica. If it is gone, the job run cancels the call."""
        denoiser = None if pending_request is None else named_denoiser(pending_request.args)
        if pending_request is None or denoiser is None:
            return [candidate_replicas]
        own = [each for each in candidate_replicas if each.replica_id.unique_id == denoiser]
        if not pending_request.routing_context.should_backoff:
            # First trust the store that the replica is free: asking the replica takes a round trip, which is long where
            # no core is idle.
            for each in own:
                self.replica_queue_len_cache.update(each.replica_id, 0)
        pending_request.routing_context.should_backoff = True
        return [own]


def named_denoiser(arguments: Iterable[object]) -> str | None:
    """The replica that the denoise request among a call's arguments names; None if there is no denoise request."""
    return next((each.denoiser for each in arguments if isinstance(each, DenoiseRequest)), None)

"""Brings a job to the denoiser that is its own. Serve's own router tries two at random, and of 32 that are busy but
for one it seldom finds that one before it waits for up to half a second."""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from deployments.stages.messages import DenoiseRequest


class ToItsDenoiser(RequestRouter):
    """Goes by the replica that a call's denoise request names; any will do for a call without one."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The one replica. Where it is gone, the job run takes the call back."""
        requests = (
            []
            if pending_request is None
            else [each for each in pending_request.args if isinstance(each, DenoiseRequest)]
        )
        if pending_request is None or not requests:
            return [candidate_replicas]
        own = [each for each in candidate_replicas if each.replica_id.unique_id == requests[0].denoiser]
        if not pending_request.routing_context.should_backoff:
            # At first the store knows better how busy it is: to ask it takes a round trip, long where no core is idle.
            for each in own:
                self.replica_queue_len_cache.update(each.replica_id, 0)
        pending_request.routing_context.should_backoff = True
        return [own]

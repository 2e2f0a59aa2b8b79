"""Runs the denoising step loop, with one control point per step: progress, cancellation, lease and checkpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import RequestRouterConfig

from deployments import metrics
from deployments.background import ended
from deployments.configuration.settings import Settings, data_dir, database_url
from deployments.stages.event_queue import EventQueue
from deployments.stages.loading import LoadedWeights, load
from deployments.stages.memory import within_memory
from deployments.stages.messages import CheckpointRef, DenoiseRequest, Stopped
from deployments.stages.starting import Starting, here
from deployments.stages.worker import Control, Worker
from jobs.database import Database
from jobs.leases import Leases
from jobs.stored import Fingerprint, ResultMetadata
from pipelines.card import ModelCard
from pipelines.families import family_of, stages_of
from pipelines.finite import require_finite
from pipelines.protocols import DenoiseInputs, DenoiseStage, StageOutput
from pipelines.stages import Stage
from pipelines.version import VERSION
from storage.store import open_checkpoints

if TYPE_CHECKING:
    from pipelines.card import Parameters
    from pipelines.families import Conditioning

ROUTER = RequestRouterConfig(
    request_router_class="deployments.orchestration.router:ToItsDenoiser", initial_backoff_s=0.02, max_backoff_s=0.2
)


ENDING_S, ENDING_SHARE = 1.5, 0.2
"""The remaining seconds, and share of the steps, below which a denoise reports that it is ending.

The next job can be sent then, which takes a few hundredths of a second or, on a machine without an idle core, far
longer. The rest is at most the last step or fifth of the steps, because the client sees no steps from then on."""


@dataclass(frozen=True, slots=True)
class LoadedDenoiser:
    """A denoiser, and what its checkpoints are made from beside their input."""

    weights: LoadedWeights[DenoiseStage[Parameters, Conditioning, Conditioning, StageOutput, StageOutput]]
    revision: str
    state_format: str

    def result_metadata(self, request: DenoiseRequest) -> dict[str, Any]:
        """The weights that led to the finished latents: an attempt that takes them over runs no earlier stage again."""
        if not self.weights.revisions:
            return {"model_revision": self.revision}
        return {"revisions": {**request.revisions, **self.weights.revisions}}


# The job store assigns it one job, and the next when that one is ending; an earlier job's stream may still be open.
@serve.deployment(
    name="Denoiser", max_ongoing_requests=4, graceful_shutdown_timeout_s=600, request_router_config=ROUTER
)
class Denoiser:
    """Denoises one video at a time; the next may wait. When cancelled, it commits at the next step, then is free."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        from deployments.stages.checkpoints import Commits, Writer, read_committed

        self.writer = Writer()
        self.commits, self.read_committed = Commits, read_committed
        self.card = card
        self.settings = settings
        # Not `open_database`: the conductor that claims a job has created the tables before the job comes here.
        self.leases = Leases(Database(database_url()))
        self.artifacts = open_checkpoints(settings.bucket, data_dir())
        # A denoise says at once that it has begun: one whose denoiser died before that is forgiven.
        self.worker = Worker(settings.step_timeout_s, partial(EventQueue, started_after_s=0.0))
        self.denoiser = Starting(self.worker, partial(self._load, card, settings), here())

    async def run(
        self,
        request: DenoiseRequest,
        *,
        text: Conditioning = None,
        image: Conditioning = None,
        latents: StageOutput | CheckpointRef | None = None,
    ) -> AsyncIterator[bytes | StageOutput]:
        """Run one denoise; `latents` are the result of the pass before, where there is one."""

        def work(control: Control) -> StageOutput:
            loaded = self.denoiser.stage()
            return self._denoise(control, loaded, request, DenoiseInputs(text, image, self._latents(latents)))

        try:
            async with aclosing(self.worker.stream(within_memory(Stage.DENOISE, work))) as items:
                async for item in items:
                    yield item
        except BaseException:
            # The next replica or attempt continues from what is committed by the end of this call.
            await ended(asyncio.ensure_future(asyncio.to_thread(self.writer.wait)))
            raise

    def check_health(self) -> None:
        self.worker.check()
        self.denoiser.check()

    def __del__(self) -> None:
        """Wait for the last checkpoint; Serve lets a replica do so before it ends the process."""
        self.writer.close()

    @staticmethod
    def _load(card: ModelCard, settings: Settings) -> LoadedDenoiser:
        from pipelines.serialization import format_of

        weights = load(Stage.DENOISE, lambda stages: stages.denoise, card, settings)
        revision = family_of(card).revision(weights.card)
        return LoadedDenoiser(weights, revision, format_of(stages_of(card).state))

    def _latents(self, latents: StageOutput | CheckpointRef | None) -> StageOutput | None:
        if isinstance(latents, CheckpointRef):
            return self.read_committed(self.artifacts, latents, stages_of(self.card).latents)
        return latents

    def _denoise(
        self,
        control: Control,
        loaded: LoadedDenoiser,
        request: DenoiseRequest,
        inputs: DenoiseInputs[Conditioning, Conditioning, StageOutput],
    ) -> StageOutput:
        denoiser = loaded.weights.stage
        fingerprint = Fingerprint(input=request.input, revision=loaded.revision, state=loaded.state_format)
        commits = self.commits(
            self.leases, self.artifacts, request, fingerprint, self.settings.checkpoint_every_s, self.writer
        )
        run = denoiser.begin(request.parameters, inputs, commits.resume(stages_of(self.card).state))
        begun_at = run.step_index
        ending = False
        try:
            while run.step_index < run.num_steps:
                if ending:
                    control.begin()
                else:
                    control.step(run.step_index, run.num_steps)
                commits.require_lease()
                started = time.perf_counter()
                run.step()
                denoiser.placement.synchronize()
                step_s = time.perf_counter() - started
                metrics.step_seconds().observe(step_s, {"model": self.card.id})
                left = run.num_steps - run.step_index
                if not ending and left * step_s < ENDING_S and left <= max(1, run.num_steps * ENDING_SHARE):
                    ending = True
                    control.ending()
                if commits.due() and run.step_index < run.num_steps:
                    state = run.state
                    require_finite(state, Stage.DENOISE, denoiser.placement)
                    commits.save(state, run.step_index)
        except Stopped:
            # The next replica or attempt continues from this step; if the lease is gone, nothing is recorded. A run
            # that came no further leaves what is committed, perhaps by a replica with other weights.
            if run.step_index > begun_at:
                commits.save(run.state, run.step_index)
            raise
        control.result_metadata = ResultMetadata(
            **denoiser.placement.result_metadata(),
            **loaded.result_metadata(request),
            resumed_at_step=begun_at or None,
            kinoray_version=VERSION,
        )
        final = run.result()
        require_finite(final, Stage.DENOISE, denoiser.placement)
        commits.save_final(final, run.num_steps, control.result_metadata)
        return final

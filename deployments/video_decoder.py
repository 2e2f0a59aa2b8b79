"""Decodes latents to a video's files. Raw frames never leave this process.

Models that use the same checkpoint share a deployment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from ray import serve

from deployments import metrics
from deployments.configuration.settings import Settings, data_dir
from deployments.stages.loading import LoadedWeights, load
from deployments.stages.messages import CheckpointRef, DecodeRequest, Event
from deployments.stages.starting import Starting, here
from deployments.stages.worker import Control, Worker
from jobs.stored import ResultMetadata
from pipelines.card import ModelCard
from pipelines.families import family_of, stages_of
from pipelines.output import RenderedVideo
from pipelines.protocols import Audio, DecodeStage, StageOutput
from pipelines.stages import Stage
from storage.store import open_checkpoints

if TYPE_CHECKING:
    from pipelines.card import Parameters
    from pipelines.frames import Picture
    from pipelines.protocols import Frame, Pixels


# Serve asks a replica for its queue length before each call that could find it full; at a limit of two that would be
# nearly every call.
@serve.deployment(name="VideoDecoder", max_ongoing_requests=4, graceful_shutdown_timeout_s=300)
class VideoDecoder:
    """Decodes and encodes one video at a time; the video encoder works while the next chunk is decoded."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        from deployments.stages.checkpoints import read_committed
        from pipelines import frames

        self.frames = frames
        self.read_committed = read_committed
        self.family = family_of(card)
        self.encoder_threads = settings.threads.video_encode
        self.artifacts = open_checkpoints(settings.bucket, data_dir())
        self.worker = Worker(settings.step_timeout_s)
        self.decoder = Starting(self.worker, partial(self._load, card, settings), here())

    async def run(
        self, request: DecodeRequest, *latents: StageOutput | CheckpointRef
    ) -> AsyncIterator[Event | RenderedVideo | Picture]:
        """Decode the latents of one denoise or several, in order."""

        def work(control: Control) -> RenderedVideo | Picture:
            return self._decode(control, request, latents)

        async with aclosing(self.worker.stream(work)) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()
        self.decoder.check()

    @staticmethod
    def _load(card: ModelCard, settings: Settings) -> LoadedWeights[DecodeStage[Parameters, StageOutput]]:
        return load(Stage.DECODE, lambda stages: stages.decode, card, settings)

    def _decode(
        self, control: Control, request: DecodeRequest, latents: Sequence[StageOutput | CheckpointRef]
    ) -> RenderedVideo | Picture:
        loaded = self.decoder.stage()
        kind = stages_of(loaded.card).latents
        there = [
            self.read_committed(self.artifacts, each, kind) if isinstance(each, CheckpointRef) else each
            for each in latents
        ]
        control.result_metadata = ResultMetadata(**loaded.result_metadata())

        def chunks() -> Iterator[Pixels | Audio]:
            for chunk in loaded.stage.chunks(there, request.parameters):
                control.begin()  # raises when the call was cancelled
                yield chunk

        if request.last_frame:
            return self.frames.last_frame(chunks())
        return self._render(control, request, chunks())

    def _render(self, control: Control, request: DecodeRequest, chunks: Iterable[Pixels | Audio]) -> RenderedVideo:
        num_frames = request.video.num_frames
        metadata = self.family.metadata(request.model, request.video)

        def counted(items: Iterable[Frame | Audio]) -> Iterator[Frame | Audio]:
            done = 0
            for item in items:
                if done:  # zero frames need no report: the caller knows
                    control.step(done, num_frames)
                yield item
                done += not isinstance(item, Audio)

        def render(items: Iterable[Frame | Audio]) -> RenderedVideo:
            return self.family.render(
                counted(items), request.video, metadata, request.output, threads=self.encoder_threads
            )

        rendered = self.frames.consume_meanwhile(self.frames.to_frames(chunks), render)
        metrics.frames_total().inc(num_frames, {"model": request.model})
        control.result_metadata = control.result_metadata.updated(
            ResultMetadata(frames=num_frames, bytes=len(rendered.mp4))
        )
        return rendered

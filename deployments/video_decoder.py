"""Decodes latents to a video's files. Raw frames never leave this process.

Models that use the same checkpoint share a deployment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from ray import serve

from deployments import metrics
from deployments.configuration.settings import Settings, data_dir
from deployments.stages.messages import CheckpointRef
from deployments.stages.worker import Control, Worker, load
from pipelines.catalogue import ModelCard
from pipelines.families import outputs, video
from pipelines.output import Output, RenderedVideo
from pipelines.requests import Parameters
from pipelines.stages import Stage
from storage.store import open_checkpoints


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
        self.video = video(card.family)
        self.encoder_threads = settings.threads.video_encode
        self.artifacts = open_checkpoints(settings.bucket, data_dir())
        self.latents = outputs(card.family).FinalLatents
        self.worker = Worker(settings.step_timeout_s)
        self.decoder = self.worker.run(load, Stage.DECODE, card, settings)

    async def run(self, model: str, latents: Any, parameters: Parameters, output: Output) -> AsyncIterator[Any]:
        def work(control: Control) -> RenderedVideo:
            return self._decode(control, model, latents, parameters, output)

        async with aclosing(self.worker.stream(work)) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()

    def _decode(
        self, control: Control, model: str, latents: Any, parameters: Parameters, output: Output
    ) -> RenderedVideo:
        if isinstance(latents, CheckpointRef):
            latents = self.read_committed(self.artifacts, latents, self.latents)
        metadata = self.video.metadata_of(model, parameters)

        def chunks() -> Any:
            for chunk in self.decoder.chunks(latents, parameters):
                control.begin()  # raises when the call was cancelled
                yield chunk

        def counted(frames: Any) -> Any:
            for index, frame in enumerate(frames):
                if index:  # zero frames need no report: the caller knows
                    control.step(index, parameters.num_frames)
                yield frame

        def render(frames: Any) -> RenderedVideo:
            return self.video.render(counted(frames), parameters, metadata, output, threads=self.encoder_threads)

        rendered = self.frames.consume_meanwhile(self.frames.to_frames(chunks()), render)
        metrics.frames_total().inc(parameters.num_frames, {"model": model})
        control.result_metadata.update(frames=parameters.num_frames, bytes=len(rendered.mp4))
        return rendered

"""Leg 3: latents to an mp4. Raw frames never leave this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ray import serve

from deployments import metrics
from deployments.leg import Control, Worker, load
from deployments.settings import Settings
from pipelines.catalogue import ModelCard
from pipelines.requests import Parameters


@serve.deployment(name="VideoDecoder", max_ongoing_requests=2, graceful_shutdown_timeout_s=300)
class VideoDecoder:
    """Decodes and encodes one video at a time; the video encoder works while the next chunk is being decoded."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        from pipelines import frames, video

        self.card = card
        self.frames = frames
        self.video = video
        self.mp4_threads = settings.threads.mp4
        self.worker = Worker(settings.step_timeout_s)
        self.decoder = self.worker.run(load, "decode", card, settings)

    async def run(self, latents: Any, parameters: Parameters) -> AsyncIterator[Any]:
        async for item in self.worker.stream(lambda control: self._decode(control, latents, parameters)):
            yield item

    def check_health(self) -> None:
        self.worker.check()

    def _decode(self, control: Control, latents: Any, parameters: Parameters) -> bytes:
        metadata = self.video.metadata_of(self.card.id, parameters)

        def chunks() -> Any:
            for chunk in self.decoder.chunks(latents, parameters):
                control.begin()  # raises when the call was cancelled
                yield chunk

        def counted(frames: Any) -> Any:
            for index, frame in enumerate(frames):
                control.step(index, parameters.num_frames)
                yield frame

        def encode(frames: Any) -> Any:
            return self.video.encode_mp4(counted(frames), parameters.fps, metadata, threads=self.mp4_threads)

        mp4: bytes = self.frames.consume_meanwhile(self.frames.to_frames(chunks()), encode)
        metrics.frames_total().inc(parameters.num_frames, {"model": self.card.id})
        control.facts.update(frames=parameters.num_frames, bytes=len(mp4))
        return mp4

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
    """Decodes and encodes one video at a time."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        from pipelines.video import encode_mp4

        self.card = card
        self.encode_mp4 = encode_mp4
        self.mp4_threads = settings.threads.mp4
        self.worker = Worker(settings.step_timeout_s)
        self.decoder = load("decode", card, settings)

    async def run(self, latents: Any, parameters: Parameters) -> AsyncIterator[Any]:
        async for item in self.worker.stream(lambda control: self._decode(control, latents, parameters)):
            yield item

    def check_health(self) -> None:
        self.worker.check()

    def _decode(self, control: Control, latents: Any, parameters: Parameters) -> bytes:
        metadata = {
            "model": self.card.id,
            "seed": parameters.seed,
            "steps": parameters.num_inference_steps,
            "size": f"{parameters.width}x{parameters.height}",
            "fps": parameters.fps,
        }
        frames = self.decoder.frames(latents, parameters)

        def counted() -> Any:
            for index, frame in enumerate(frames):
                control.step(index, parameters.num_frames)
                yield frame

        mp4: bytes = self.encode_mp4(counted(), parameters.fps, metadata, threads=self.mp4_threads)
        metrics.frames_total().inc(parameters.num_frames, {"model": self.card.id})
        control.facts.update(frames=parameters.num_frames, bytes=len(mp4))
        return mp4

"""Encodes prompts and images to conditioning. Models that use the same checkpoint share a deployment."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from ray import serve

from deployments.configuration.settings import Settings, data_dir
from deployments.stages.messages import Event, ImageRequest, TextRequest
from deployments.stages.worker import Control, Worker, load
from jobs.stored import ResultMetadata
from pipelines.card import ModelCard, Parameters
from pipelines.families import stages_of
from pipelines.protocols import ImageStage, TextStage
from pipelines.stages import Stage
from storage.store import open_store

if TYPE_CHECKING:
    from pipelines.families import Conditioning
    from pipelines.frames import Picture


@serve.deployment(name="TextEncoder", max_ongoing_requests=8, graceful_shutdown_timeout_s=60)
class TextEncoder:
    """Encodes prompts to embeddings, one prompt per forward pass."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        self.worker = Worker(settings.step_timeout_s)
        self.encoder = self.worker.run(self._load, card, settings)

    async def run(self, request: TextRequest) -> AsyncIterator[Event | Conditioning]:
        async with aclosing(self.worker.stream(lambda control: self._encode(control, request))) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()

    @staticmethod
    def _load(card: ModelCard, settings: Settings) -> TextStage[Parameters, Conditioning]:
        return load(Stage.TEXT_ENCODE, lambda: stages_of(card).text, card, settings)

    def _encode(self, control: Control, request: TextRequest) -> Conditioning:
        if self.encoder.truncates(request.prompt, request.parameters):
            control.result_metadata = ResultMetadata(prompt_truncated=True)
        return self.encoder.encode(request.prompt, request.parameters)


@serve.deployment(name="ImageEncoder", max_ongoing_requests=8, graceful_shutdown_timeout_s=60)
class ImageEncoder:
    """Encodes images to conditioning. It reads a job's image from the artifact store, where the API put it."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        self.worker = Worker(settings.step_timeout_s)
        self.encoder = self.worker.run(self._load, card, settings)
        self.store = open_store(settings.bucket, data_dir(), fail_fast=True)

    async def run(self, request: ImageRequest, frame: Picture | None = None) -> AsyncIterator[Event | Conditioning]:
        """Encode the image that the request names, or a frame that was decoded for this."""
        async with aclosing(self.worker.stream(lambda _: self._encode(request, frame))) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()

    @staticmethod
    def _load(card: ModelCard, settings: Settings) -> ImageStage[Parameters, Conditioning]:
        return load(Stage.IMAGE_ENCODE, lambda: stages_of(card).image, card, settings)

    def _encode(self, request: ImageRequest, frame: Picture | None) -> Conditioning:
        from PIL import Image

        if request.key is None:
            assert frame is not None, "neither a key nor a frame"
            return self.encoder.encode(frame.image(), request.parameters)
        with Image.open(io.BytesIO(self.store.get(request.key))) as image:
            return self.encoder.encode(image.convert("RGB"), request.parameters)

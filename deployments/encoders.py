"""Encodes prompts and images to conditioning. Models that use the same checkpoint share a deployment."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from ray import serve

from deployments.configuration.settings import Settings, data_dir
from deployments.stages.messages import Event
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

    async def run(self, prompt: str, parameters: Parameters) -> AsyncIterator[Event | Conditioning]:
        async with aclosing(self.worker.stream(lambda control: self._encode(control, prompt, parameters))) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()

    @staticmethod
    def _load(card: ModelCard, settings: Settings) -> TextStage[Parameters, Conditioning]:
        return load(Stage.TEXT_ENCODE, lambda: stages_of(card).text, card, settings)

    def _encode(self, control: Control, prompt: str, parameters: Parameters) -> Conditioning:
        if self.encoder.truncates(prompt, parameters):
            control.result_metadata = ResultMetadata(prompt_truncated=True)
        return self.encoder.encode(prompt, parameters)


@serve.deployment(name="ImageEncoder", max_ongoing_requests=8, graceful_shutdown_timeout_s=60)
class ImageEncoder:
    """Encodes images to conditioning. It reads a job's image from the artifact store, where the API put it."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        self.worker = Worker(settings.step_timeout_s)
        self.encoder = self.worker.run(self._load, card, settings)
        self.store = open_store(settings.bucket, data_dir(), fail_fast=True)

    async def run(self, image: str | Picture, parameters: Parameters) -> AsyncIterator[Event | Conditioning]:
        """Encode the image with a key in the artifact store, or a frame that was decoded for this."""
        async with aclosing(self.worker.stream(lambda _: self._encode(image, parameters))) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()

    @staticmethod
    def _load(card: ModelCard, settings: Settings) -> ImageStage[Parameters, Conditioning]:
        return load(Stage.IMAGE_ENCODE, lambda: stages_of(card).image, card, settings)

    def _encode(self, image: str | Picture, parameters: Parameters) -> Conditioning:
        from PIL import Image

        if not isinstance(image, str):
            return self.encoder.encode(image.image(), parameters)
        with Image.open(io.BytesIO(self.store.get(image))) as opened:
            return self.encoder.encode(opened.convert("RGB"), parameters)

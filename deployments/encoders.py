"""Encodes prompts and images to conditioning. Models that use the same checkpoint share a deployment."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from ray import serve

from deployments.configuration.settings import Settings, data_dir
from deployments.stages.worker import Control, Worker, load
from pipelines.catalogue import ModelCard
from pipelines.requests import Parameters
from pipelines.stages import Stage
from storage.store import open_store


@serve.deployment(name="TextEncoder", max_ongoing_requests=8, graceful_shutdown_timeout_s=60)
class TextEncoder:
    """Encodes prompts to embeddings, one prompt per forward pass."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        self.worker = Worker(settings.step_timeout_s)
        self.encoder = self.worker.run(load, Stage.TEXT_ENCODE, card, settings)

    async def run(self, prompt: str, parameters: Parameters) -> AsyncIterator[Any]:
        async with aclosing(self.worker.stream(lambda control: self._encode(control, prompt, parameters))) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()

    def _encode(self, control: Control, prompt: str, parameters: Parameters) -> Any:
        if self.encoder.truncates(prompt, parameters):
            control.result_metadata["prompt_truncated"] = True
        return self.encoder.encode(prompt, parameters)


@serve.deployment(name="ImageEncoder", max_ongoing_requests=8, graceful_shutdown_timeout_s=60)
class ImageEncoder:
    """Encodes images to conditioning. It reads the image from the artifact store, where the API put it."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        self.worker = Worker(settings.step_timeout_s)
        self.encoder = self.worker.run(load, Stage.IMAGE_ENCODE, card, settings)
        self.store = open_store(settings.bucket, data_dir(), fail_fast=True)

    async def run(self, key: str, parameters: Parameters) -> AsyncIterator[Any]:
        async with aclosing(self.worker.stream(lambda _: self._encode(key, parameters))) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()

    def _encode(self, key: str, parameters: Parameters) -> Any:
        from PIL import Image

        with Image.open(io.BytesIO(self.store.get(key))) as image:
            return self.encoder.encode(image.convert("RGB"), parameters)

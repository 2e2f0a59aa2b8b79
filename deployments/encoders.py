"""Encodes prompts and images to conditioning. Models that use the same checkpoint share a deployment."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from ray import serve

from deployments.configuration.settings import Settings, data_dir
from deployments.stages.loading import LoadedWeights, load
from deployments.stages.memory import within_memory
from deployments.stages.messages import ImageRequest, TextRequest
from deployments.stages.starting import Starting, here
from deployments.stages.worker import Control, Worker
from jobs.stored import ResultMetadata
from pipelines.card import ModelCard, Parameters
from pipelines.finite import require_finite
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
        self.encoder = Starting(self.worker, partial(self._load, card, settings), here())

    async def run(self, request: TextRequest) -> AsyncIterator[bytes | Conditioning]:
        work = within_memory(Stage.TEXT_ENCODE, lambda control: self._encode(control, request))
        async with aclosing(self.worker.stream(work)) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()
        self.encoder.check()

    @staticmethod
    def _load(card: ModelCard, settings: Settings) -> LoadedWeights[TextStage[Parameters, Conditioning]]:
        return load(Stage.TEXT_ENCODE, lambda stages: stages.text, card, settings)

    def _encode(self, control: Control, request: TextRequest) -> Conditioning:
        loaded = self.encoder.stage()
        truncated = loaded.stage.truncates(request.prompt, request.parameters)
        control.result_metadata = ResultMetadata(prompt_truncated=truncated or None, **loaded.result_metadata())
        conditioning = loaded.stage.encode(request.prompt, request.parameters)
        require_finite(conditioning, Stage.TEXT_ENCODE, loaded.stage.placement)
        return conditioning


@serve.deployment(name="ImageEncoder", max_ongoing_requests=8, graceful_shutdown_timeout_s=60)
class ImageEncoder:
    """Encodes images to conditioning. It reads a job's image from the artifact store, where the API put it."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        self.store = open_store(settings.bucket, data_dir(), fail_fast=True)
        self.worker = Worker(settings.step_timeout_s)
        self.encoder = Starting(self.worker, partial(self._load, card, settings), here())

    async def run(self, request: ImageRequest, frame: Picture | None = None) -> AsyncIterator[bytes | Conditioning]:
        """Encode the image that the request names, or a frame that was decoded for this."""
        work = within_memory(Stage.IMAGE_ENCODE, lambda control: self._encode(control, request, frame))
        async with aclosing(self.worker.stream(work)) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()
        self.encoder.check()

    @staticmethod
    def _load(card: ModelCard, settings: Settings) -> LoadedWeights[ImageStage[Parameters, Conditioning]]:
        return load(Stage.IMAGE_ENCODE, lambda stages: stages.image, card, settings)

    def _encode(self, control: Control, request: ImageRequest, frame: Picture | None) -> Conditioning:
        from PIL import Image

        loaded = self.encoder.stage()
        control.result_metadata = ResultMetadata(**loaded.result_metadata())
        if request.key is None:
            assert frame is not None, "neither a key nor a frame"
            picture = frame.image()
        else:
            with Image.open(io.BytesIO(self.store.get(request.key))) as image:
                picture = image.convert("RGB")
        conditioning = loaded.stage.encode(picture, request.parameters)
        require_finite(conditioning, Stage.IMAGE_ENCODE, loaded.stage.placement)
        return conditioning

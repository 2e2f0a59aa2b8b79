"""Leg 2: the step loop, with one control point per step."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from ray import serve

from deployments import metrics
from deployments.leg import Control, Worker, load
from deployments.settings import Settings
from pipelines.catalogue import ModelCard
from pipelines.requests import Parameters


@serve.deployment(name="Denoiser", max_ongoing_requests=1, graceful_shutdown_timeout_s=600)
class Denoiser:
    """One video at a time. Cancelled, it stops at the next step and only then is free again."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        self.card = card
        self.worker = Worker(settings.step_timeout_s)
        self.denoiser = self.worker.run(load, "denoise", card, settings)

    async def run(self, parameters: Parameters, text: Any, image: Any) -> AsyncIterator[Any]:
        async for item in self.worker.stream(lambda control: self._denoise(control, parameters, text, image)):
            yield item

    def check_health(self) -> None:
        self.worker.check()

    def _denoise(self, control: Control, parameters: Parameters, text: Any, image: Any) -> Any:
        run = self.denoiser.begin(parameters, text, image)
        while run.step_index < run.num_steps:
            control.step(run.step_index, run.num_steps)
            started = time.perf_counter()
            run.step()
            metrics.step_seconds().observe(time.perf_counter() - started, {"model": self.card.id})
        placement = self.denoiser.placement
        control.facts.update(
            device=placement.device.type,
            dtype=str(placement.dtype).removeprefix("torch."),
            attention=placement.attention,
        )
        return run.result()

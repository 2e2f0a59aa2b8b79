"""Loads a stage of a model in a replica: the weights that this service has pinned, on the GPU that Ray gave it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import ray
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_delay, wait_random

from deployments import metrics
from deployments.configuration.settings import Settings, database_url
from deployments.events import emit, log
from jobs.database import UNREACHABLE, Database
from jobs.pins import Pins
from jobs.schema import pins
from pipelines.card import CheckpointCard, Component, ModelCard
from pipelines.families import stages_of
from pipelines.protocols import Loaded, Loader, Resources
from pipelines.stages import Stage
from pipelines.weights.pin import pin, unpinned

if TYPE_CHECKING:
    from pipelines.families import AnyStages

PATIENCE_S = 60.0
"""How long a replica that starts waits for a job store out of reach. Without it, it cannot know its weights' commit."""


@dataclass(frozen=True, slots=True)
class LoadedWeights(Generic[Loaded]):
    """A stage that is ready, and what it was loaded from."""

    stage: Loaded
    card: ModelCard
    """The model's card with every commit pinned."""
    revisions: dict[Component, str]
    """The revision of each component that the stage has loaded; empty for a family without checkpoints."""

    def result_metadata(self) -> dict[str, Any]:
        """What a job's result says of the weights."""
        return {"revisions": self.revisions} if self.revisions else {}


def load(
    stage: Stage, loader: Callable[[AnyStages], Loader[ModelCard, Loaded] | None], card: ModelCard, settings: Settings
) -> LoadedWeights[Loaded]:
    """Load and warm up one stage of a model in this replica.

    Args:
        loader: returns the one of the family's stages that loads this stage.

    Raises:
        WeightsUnavailable: the weights are not here and cannot be fetched, or are not what the card says.
        StageUnavailable: Ray lent this replica a GPU that CUDA cannot use.
    """
    started = time.perf_counter()
    # Importing torch and diffusers creates millions of objects that live as long as the process: garbage collection
    # over them costs a tenth of the start-up time, and again at every full collection later.
    gc.disable()
    try:
        lent = ray.get_gpu_ids()
        # A family without checkpoints, such as the simulated one, computes nothing on the GPU that it occupies.
        if lent and isinstance(card, CheckpointCard) and not settings.fake_gpus:
            from pipelines.devices import require_cuda

            require_cuda(lent)
        card = pinned(card, stage)
        load_stage = loader(stages_of(card))
        assert load_stage is not None, f"{card.family} has no stage {stage}, but a deployment of it"
        loaded = load_stage(card, Resources(bool(lent), getattr(settings.threads, stage)))
        loaded.warm_up()
        revisions = revisions_of(card, stage)
        gc.freeze()
    finally:
        gc.enable()
    seconds = time.perf_counter() - started
    metrics.model_load_seconds().observe(seconds, {"model": card.id, "stage": stage})
    where: dict[str, Any] = loaded.placement.result_metadata()
    emit("stage.loaded", stage=stage, model=card.id, seconds=round(seconds, 3), **where)
    return LoadedWeights(loaded, card, revisions)


def pinned(card: ModelCard, stage: Stage) -> ModelCard:
    """The card with the commits, the same in every replica, of the hub repositories that a stage loads from."""
    components = card.STAGES[stage]
    if not unpinned(card, components):
        return card  # and the job store is not needed
    from pipelines.weights.located import commit_to_pin

    def pin_all() -> ModelCard:
        with Database(database_url()) as database:
            database.ensure(pins)
            record = Pins(database)

            def commit(repo: str, revision: str | None) -> str:
                return record.pinned(repo, revision, lambda: commit_to_pin(card, repo, revision, components))

            return pin(card, commit, components)

    return Retrying(
        retry=retry_if_exception_type(UNREACHABLE),
        stop=stop_after_delay(PATIENCE_S),
        wait=wait_random(0.2, 2),
        before_sleep=before_sleep_log(log, 30),
        reraise=True,
    )(pin_all)


def revisions_of(card: ModelCard, stage: Stage) -> dict[Component, str]:
    """The revision of each component of a stage's checkpoint; none for a card that names no checkpoint."""
    if not isinstance(card, CheckpointCard):
        return {}
    from pipelines.weights.revision import revision_of

    return {component: revision_of(card, component) for component in card.STAGES[stage]}

"""A stage whose memory runs out frees what the job had taken, so that the next job finds the replica as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from deployments.events import emit
from deployments.stages.starting import sentence_of
from deployments.stages.worker import Control
from pipelines.errors import OutOfMemory
from pipelines.memory import free_memory, ran_out_of_memory
from pipelines.stages import Stage

T = TypeVar("T")


def within_memory(stage: Stage, work: Callable[[Control], T]) -> Callable[[Control], T]:
    """The same work, which raises OutOfMemory where memory ran out."""

    def guarded(control: Control) -> T:
        try:
            return work(control)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            report(stage, error)
        # The error is gone here, and with it what its frames held.
        free_memory()
        raise OutOfMemory(
            f"the stage {stage} ran out of memory: ask for a smaller size or fewer frames. The operator can give the "
            "stage a GPU with more memory, or a larger num_gpus, so that fewer stages share one"
        )

    return guarded


def report(stage: Stage, error: Exception) -> None:
    """Log that memory ran out, with what PyTorch says of how much there was."""
    emit("stage.out_of_memory", level=logging.WARNING, stage=stage, sentence=sentence_of(error))

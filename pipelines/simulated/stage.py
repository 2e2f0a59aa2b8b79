"""The base class of simulated stages: a card, and the time that loading takes."""

from __future__ import annotations

import time

from pipelines.protocols import Resources
from pipelines.simulated.card import SimulatedCard
from pipelines.simulated.placement import Nowhere


class SimulatedStage:
    """A simulated stage that takes `timings.load_s` to load."""

    def __init__(self, card: SimulatedCard, resources: Resources) -> None:  # noqa: ARG002 it uses none
        self.card = card
        self.placement = Nowhere()

    def warm_up(self) -> None:
        time.sleep(self.card.timings.load_s)

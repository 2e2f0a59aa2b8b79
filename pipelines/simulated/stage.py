"""The base class of simulated stages: a card, and the time that loading takes."""

from __future__ import annotations

import time

from pipelines.simulated.card import SimulatedCard
from pipelines.simulated.placement import Nowhere


class SimulatedStage:
    """A simulated stage that takes `timings.load_s` to load."""

    def __init__(self, card: SimulatedCard, placement: Nowhere) -> None:
        self.card = card
        self.placement = placement

    def warm_up(self) -> None:
        time.sleep(self.card.timings.load_s)

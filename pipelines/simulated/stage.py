"""What every simulated stage is: a card, and the time that it takes to be ready."""

from __future__ import annotations

import time

from pipelines.simulated.card import SimulatedCard
from pipelines.simulated.placement import Nowhere


class SimulatedStage:
    """Loads for `timings.load_s`."""

    def __init__(self, card: SimulatedCard, placement: Nowhere) -> None:
        self.card = card
        self.placement = placement

    def warm_up(self) -> None:
        time.sleep(self.card.timings.load_s)

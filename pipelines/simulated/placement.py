"""Where a simulated stage computes: nowhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Nowhere:
    """The counterpart of `pipelines.devices.Placement`."""

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def result_metadata(self) -> dict[str, str]:
        return {"device": "simulated", "dtype": "float32", "attention": "none"}

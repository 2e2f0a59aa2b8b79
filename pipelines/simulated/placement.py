"""The placement of a simulated stage, which uses no device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Nowhere:
    """The counterpart of `pipelines.devices.Placement`."""

    def synchronize(self) -> None:
        """Return at once: a simulated stage launches no work."""

    def result_metadata(self) -> dict[str, str]:
        return {"device": "simulated", "dtype": "float32", "attention": "none"}

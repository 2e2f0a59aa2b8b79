"""What a row of the table says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement; `good` is None where nothing was promised."""

    what: str
    bound: str
    measured: str
    good: bool | None

    def __str__(self) -> str:
        verdict = {True: "kept", False: "**missed**", None: ""}[self.good]
        return f"| {self.what} | {self.bound} | {self.measured} | {verdict} |"

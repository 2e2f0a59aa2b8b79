"""Staged output against diffusers' own pipelines, bit for bit, on random-weight checkpoints: `make fidelity`.

Each case is computed three times from one seed: by the reference in one call, by the stages one after the other, and by
the stages with the denoise stopped after every step, serialised to bytes and begun anew from them.
"""

from __future__ import annotations

from benchmarks.fidelity.comparison import PROMPT, Case, Subject, in_memory, largest, picture, verdict

__all__ = ["PROMPT", "Case", "Subject", "in_memory", "largest", "picture", "verdict"]

"""NaN and infinity in what a stage has computed. Imports no torch, because a family need not."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from pipelines.errors import NanInOutput
from pipelines.protocols import Placement
from pipelines.stages import Stage


def require_finite(output: object, stage: Stage, placement: Placement) -> None:
    """Check a stage output, or a tensor or array of it, where it lies.

    Raises:
        NanInOutput: a part of it is NaN or infinite. The same weights compute the same again.
    """
    if all(_finite(part) for part in _parts(output)):
        return
    dtype = placement.result_metadata().get("dtype", "an unknown dtype")
    if dtype == "float16":
        hint = "float16 ends at 65504; the operator can set `dtype` to bfloat16 or float32 on the model's card"
    else:
        hint = "a lower guidance_scale may help; if not, the operator should fetch the model's weights again"
    raise NanInOutput(f"the output of the stage {stage}, computed in {dtype}, holds NaN or infinity: {hint}")


def _parts(output: object) -> list[object]:
    if dataclasses.is_dataclass(output):
        return [getattr(output, field.name) for field in dataclasses.fields(output)]
    return [output]


def _finite(part: object) -> bool:
    if isinstance(part, np.ndarray):
        return part.dtype.kind != "f" or bool(np.isfinite(part).all())
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(part, torch.Tensor) or not part.is_floating_point():
        return True
    # NaN and infinity survive a sum, which takes no second tensor as large as this one, as `isfinite` does. A sum may
    # be infinite without them, so that one is looked at closely.
    return bool(part.sum(dtype=torch.float32).isfinite()) or bool(part.isfinite().all())

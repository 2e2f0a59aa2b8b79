"""One guided prediction: the forward passes of a step, and what is made of their results.

Sources: diffusers' LTX pipelines for classifier-free guidance; LTX-Video, `pipeline_ltx_video.py`, for spatio-temporal
guidance beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipelines.ltx.guidance_settings import Guidance, Pass

Forward = Callable[[Sequence[Pass]], Tensor]
"""Runs some passes as one batch: their predictions, [B, S, C]."""


def guided_prediction(guidance: Guidance, forward: Forward, *, jointly: bool, star: bool) -> Tensor:
    """The prediction of one step, [1, S, C].

    Args:
        jointly: whether the step's passes run as one batch.
        star: whether the positive prediction's projection onto the negative one stands for the latter.
    """
    passes = guidance.passes
    batches = [passes] if jointly else [(each,) for each in passes]
    predictions = torch.cat([forward(batch) for batch in batches]).chunk(len(passes))
    return combined(guidance, dict(zip(passes, predictions, strict=True)), star=star)


def combined(guidance: Guidance, predictions: dict[Pass, Tensor], *, star: bool) -> Tensor:
    """Both guidances together, in the dtype of the predictions, each [1, S, C]."""
    positive = predictions["positive"]
    prediction = positive
    if "negative" in predictions:
        negative = predictions["negative"]
        if star:
            negative = _projected(negative, positive)
        prediction = negative + guidance.scale * (positive - negative)
        if guidance.rescale > 0:
            rescaled = prediction * _deviations(positive, prediction)
            prediction = guidance.rescale * rescaled + (1 - guidance.rescale) * prediction
    if "perturbed" in predictions:
        prediction = prediction + guidance.stg_scale * (positive - predictions["perturbed"])
        if guidance.stg_rescale > 0:
            share = guidance.stg_rescale
            prediction = prediction * (share * _deviations(positive, prediction) + (1 - share))
    return prediction


def _deviations(wanted: Tensor, actual: Tensor) -> Tensor:
    """The quotient of two predictions' standard deviations, [1, 1, 1]."""
    return wanted.std(dim=(1, 2), keepdim=True) / actual.std(dim=(1, 2), keepdim=True)


def _projected(negative: Tensor, positive: Tensor) -> Tensor:
    """The projection of the positive prediction onto the negative one."""
    dot = (positive * negative).sum(dim=(1, 2), keepdim=True)
    square = (negative**2).sum(dim=(1, 2), keepdim=True) + 1e-8
    return dot / square * negative

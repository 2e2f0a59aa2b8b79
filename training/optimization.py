"""One way to train: Muon and AdamW on a schedule, clipped gradients, an average of the weights, saved in bfloat16."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.muon import optimizers

CLIP = 1.0


class Optimization:
    """Trains some modules together.

    Args:
        rate: the share of `learning_rate` at a step.
        average: how much of the averaged weights one step keeps; None keeps no average.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        learning_rate: float,
        rate: Callable[[int], float],
        average: float | None = None,
    ) -> None:
        self._parameters = [p for module in modules for p in module.parameters()]
        self._optimizers = optimizers(modules, learning_rate)
        self._learning_rate = learning_rate
        self._rate = rate
        self._decay = average
        self._average = [p.detach().clone() for p in self._parameters] if average is not None else []
        self._step = 0

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate * self._rate(self._step)
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, CLIP)
        for optimizer in self._optimizers:
            optimizer.step()
        if self._decay is not None:
            decay = min(self._decay, (1 + self._step) / (10 + self._step))
            with torch.no_grad():
                torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1 - decay)
        self._step += 1

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The modules with their averaged weights, to look at or save; training goes on with their own."""
        own = [p.detach().clone() for p in self._parameters]
        _assign(self._parameters, self._average)
        try:
            yield
        finally:
            _assign(self._parameters, own)


def cosine(steps: int) -> Callable[[int], float]:
    """Warm-up over 200 steps, within a cosine over all of them: how the denoisers are trained."""
    return lambda step: min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def flat_then_cosine(steps: int) -> Callable[[int], float]:
    """Warm-up over 100 steps, flat, then a cosine over the last 60 %: how the autoencoders are trained."""

    def rate(step: int) -> float:
        done = step / steps
        decay = 1.0 if done < 0.4 else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - 0.4) / 0.6))
        return min(1.0, (step + 1) / 100) * decay

    return rate


def in_bfloat16(**modules: nn.Module) -> dict[str, nn.Module]:
    """Copies to save, at half the size; training goes on in float32."""
    return {name: copy.deepcopy(module).to(torch.bfloat16) for name, module in modules.items()}


@torch.no_grad()
def _assign(parameters: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)

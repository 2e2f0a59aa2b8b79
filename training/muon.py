"""Muon: momentum whose update is orthogonalised, for weights that are matrices.

Source: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024); the learning-rate scale is
Moonshot's 0.2 * sqrt(max(rows, columns)), which lets one rate serve Muon and AdamW. `torch.optim.Muon` takes matrices
only and iterates in bfloat16, which a CPU without bf16 units runs some hundred times slower; convolution kernels are
the bulk of these models, so this one flattens them and stays in float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum, orthogonalised by five Newton-Schulz steps."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                average = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(average, group["momentum"]).flatten(1)
                scale = 0.2 * max(update.shape) ** 0.5
                weight.add_(_orthogonalized(update).view_as(weight), alpha=-group["lr"] * scale)


def optimizers(modules: Iterable[nn.Module], lr: float) -> list[torch.optim.Optimizer]:
    """Muon for kernels and matrices, AdamW for token embeddings, tables, norms and biases."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            is_matrix = (
                parameter.ndim >= 2 and "table" not in name and "embed_tokens" not in name and "shared" not in name
            )
            (matrices if is_matrix else others).append(parameter)
    return [Muon(matrices, lr), torch.optim.AdamW(others, lr, betas=(0.9, 0.99), weight_decay=0.0)]


def _orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values land between 0.7 and 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x

"""The modules of a network whose weights stay quantised."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter, dequantize_gguf_tensor
from torch import Tensor, nn

NUMBERS_AT_ONCE = 2**19


class PackedLinear(GGUFLinear):
    """diffusers' linear layer, which makes numbers of its weight for each call.

    On a CPU it does so for some rows at a time: they and what they are made of then stay in the cache, which takes half
    the time and little memory. Each row's numbers are the same.
    """

    def forward_native(self, inputs: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]; diffusers calls it where its CUDA kernels are not in use."""
        if self.weight.device.type != "cpu":
            on_device: Tensor = super().forward_native(inputs)
            return on_device
        blocks, rows = self.weight.as_tensor(), max(NUMBERS_AT_ONCE // self.in_features, 1)
        weight = torch.empty(self.out_features, self.in_features, dtype=self.compute_dtype)
        for start in range(0, self.out_features, rows):
            part = GGUFParameter(blocks[start : start + rows], quant_type=self.weight.quant_type)
            weight[start : start + rows] = dequantize_gguf_tensor(part)
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return nn.functional.linear(inputs, weight, bias)


class PackedEmbedding(nn.Module):
    """An embedding that makes numbers of the rows that it looks up."""

    def __init__(self, weight: GGUFParameter, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = weight  # [rows, bytes of a row]; a row is whole blocks
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Look up `ids` of any shape; the result has one more axis, in `dtype`."""
        rows = GGUFParameter(self.weight.as_tensor()[ids], quant_type=self.weight.quant_type)
        numbers: Tensor = dequantize_gguf_tensor(rows).to(self.dtype)
        return numbers


class PackedFeedForward(nn.Module):
    """T5's gated feed-forward layer over a packed output projection.

    transformers' own (`T5DenseGatedActDense`) casts activations to the dtype of that projection's weight, which are
    bytes here.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.wi_0, self.wi_1, self.act = stock.wi_0, stock.wi_1, stock.act
        self.wo: GGUFLinear = stock.wo

    def forward(self, hidden: Tensor) -> Tensor:
        """Both [B, S, d_model]."""
        gated = self.act(self.wi_0(hidden)) * self.wi_1(hidden)
        projected: Tensor = self.wo(gated.to(self.wo.compute_dtype))
        return projected

"""The perturbation of spatio-temporal guidance: blocks without self-attention (arXiv 2411.18664)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import LTXVideoTransformer3DModel


@dataclass(frozen=True, slots=True)
class _WithoutSelfAttention:
    """An attention processor: the last `rows` of the batch take their values where attention would mix them."""

    processor: Any
    rows: int

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """As diffusers' `LTXVideoAttnProcessor`, [B, S, D]."""
        mixed, values = hidden_states[: -self.rows], attn.to_v(hidden_states[-self.rows :])
        for layer in attn.to_out:
            values = layer(values)
        if not len(mixed):
            return values
        rotary = None if image_rotary_emb is None else tuple(part[: -self.rows] for part in image_rotary_emb)
        return torch.cat([self.processor(attn, mixed, encoder_hidden_states, attention_mask, rotary), values])


@contextmanager
def without_self_attention(transformer: LTXVideoTransformer3DModel, blocks: Sequence[int], rows: int) -> Iterator[None]:
    """Leave the self-attention of some blocks out, for the last `rows` of each batch (STG's mode `attention_values`).

    diffusers' hooks for it cannot be used on this transformer: they ask its attention for what it does not have.
    """
    attentions = [transformer.transformer_blocks[block].attn1 for block in blocks] if rows else []
    processors = [attention.processor for attention in attentions]
    for attention, processor in zip(attentions, processors, strict=True):
        attention.processor = _WithoutSelfAttention(processor, rows)
    try:
        yield
    finally:
        for attention, processor in zip(attentions, processors, strict=True):
            attention.processor = processor

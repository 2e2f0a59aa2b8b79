"""T5 encoders in GGUF files, as llama.cpp's converter names their tensors: `enc.blk.0.ffn_gate.weight`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.weights.gguf_network import GGUFLayout
from pipelines.weights.header import Header
from pipelines.weights.recipe import Layout, Part, Recipe, Target

if TYPE_CHECKING:
    from torch import Tensor


def _find(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Recipe:
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH.T5ENCODER, len(expected))  # a bound of the number of blocks
    found = {name: names.get_name(name, try_suffixes=(".weight",)) or "" for name in expected}
    return {name: Part(other) for name, other in found.items() if other in stored}


def _check(header: Header, network: Any, target: Target) -> str | None:
    """A GGUF file does not say which activation its T5 has: the configuration must, and be right."""
    config = network.config
    if config.is_gated_act and config.dense_act_fn == "gelu_new":
        return None
    return (
        f"{target.config}/{target.component}/config.json says feed_forward_proj {config.feed_forward_proj!r}, and "
        f"the T5 v1.1 in {header.title} needs 'gated-gelu': take the configuration of the model's own text encoder"
    )


def _finish(network: Any) -> None:
    from diffusers.quantizers.gguf.utils import GGUFLinear

    from pipelines.weights.gguf_modules import PackedFeedForward

    for block in network.encoder.block:
        layer = block.layer[-1]
        if isinstance(layer.DenseReluDense.wo, GGUFLinear):
            layer.DenseReluDense = PackedFeedForward(layer.DenseReluDense)


T5_GGUF = GGUFLayout(
    title="a T5 encoder",
    architectures=frozenset({"t5encoder", "t5", "pig"}),
    layout=Layout(_find),
    example="t5-v1_1-xxl-encoder-Q8_0.gguf",
    ignored=(r"^dec\.", r"^output\.weight$"),  # a whole T5 has a decoder too
    check=_check,
    finish=_finish,
)

"""Small networks, and GGUF files of their weights, for the tests of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LTXVideoTransformer3DModel
from gguf.quants import dequantize
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from benchmarks.gguf_files import QUANTISED, Kind, Stored, random_blocks, stored, t5_name, write_gguf
from benchmarks.releases.ltx_names import transformer_name
from pipelines.errors import WeightsUnavailable
from pipelines.ltx.gguf_t5 import T5_GGUF
from pipelines.ltx.gguf_transformer import LTX_GGUF
from pipelines.weights.gguf_file import open_gguf, read_gguf_header
from pipelines.weights.gguf_network import GGUFLayout, load_gguf, make_gguf_recipe
from pipelines.weights.network import MetaNetwork, Network, build_on_meta
from pipelines.weights.recipe import Recipe, Target

CPU = torch.device("cpu")
DEVIATION = 0.02  # of random weights
IDS = torch.arange(3, 35)[None]
T5 = {
    "vocab_size": 512, "d_model": 256, "d_kv": 32, "d_ff": 512, "num_layers": 3, "num_heads": 8,
    "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0,
}  # fmt: skip
T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
LTX = {
    "in_channels": 8, "out_channels": 8, "num_attention_heads": 4, "attention_head_dim": 64,
    "cross_attention_dim": 256, "num_layers": 2, "caption_channels": 64,
}  # fmt: skip
WRITABLE = {Kind.F32: 1.0, Kind.F16: 0.999999, Kind.BF16: 0.9999, Kind.Q8_0: 0.999, Kind.Q5_1: 0.99,
            Kind.Q5_0: 0.99, Kind.Q4_1: 0.95, Kind.Q4_0: 0.95}  # fmt: skip
"""The least cosine to the float32 network that each type leaves of a random one."""
BYTES_ONLY = tuple(kind for kind in QUANTISED if kind not in WRITABLE)


class Checkpoint:
    """A configuration, a network without weights made of it, and GGUF files to fill it from."""

    def __init__(self, folder: Path, component: str, kind: Any, config: Mapping[str, object], gguf: GGUFLayout) -> None:
        self.folder, self.component, self.kind, self.gguf = folder, component, kind, gguf
        (folder / component).mkdir(parents=True, exist_ok=True)
        (folder / component / "config.json").write_text(json.dumps(config))
        self.target = Target(component, str(folder))

    def empty(self) -> MetaNetwork:
        return build_on_meta(Network(lambda: self.kind), self.folder, self.component)

    def recipe(self, path: Path) -> Recipe:
        return make_gguf_recipe(self.gguf, read_gguf_header(path), self.empty(), self.target)

    def load(self, path: Path, dtype: torch.dtype = torch.float32) -> Any:
        header, empty = read_gguf_header(path), self.empty()
        recipe = make_gguf_recipe(self.gguf, header, empty, self.target)
        return load_gguf(self.gguf, header, empty, recipe, dtype=dtype, device=CPU)

    def refusal(self, path: Path) -> str:
        """The one sentence with which a file is refused, its path taken off."""
        with pytest.raises(WeightsUnavailable) as caught:
            self.recipe(path)
        assert caught.value.message.startswith(str(path)), caught.value.message
        assert "\n" not in caught.value.message
        return caught.value.message.removeprefix(str(path)).strip()


def t5_checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "checkpoint", "text_encoder", T5EncoderModel, T5, T5_GGUF)


def ltx_checkpoint(folder: Path) -> Checkpoint:
    config = {"_class_name": "LTXVideoTransformer3DModel", **LTX}
    return Checkpoint(folder / "checkpoint", "transformer", LTXVideoTransformer3DModel, config, LTX_GGUF)


def random_t5(**changes: object) -> Any:
    torch.manual_seed(0)
    network = T5EncoderModel(T5Config(**{**T5, **changes})).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, DEVIATION)
            else:
                parameter.uniform_(0.5, 1.5)
    return network


def t5_tensors(network: nn.Module, kind: Kind | Callable[[str], Kind]) -> dict[str, Stored]:
    """Norms in F32 and the position bias in F16, as the converter leaves them; everything else in `kind`."""
    random = np.random.default_rng(0)
    tensors = {}
    for name, tensor in network.state_dict().items():
        if (other := t5_name(name)) is None:
            continue
        numbers = tensor.numpy()
        chosen = kind if isinstance(kind, Kind) else kind(other)
        if numbers.ndim == 1 or "attn_rel_b" in other:
            tensors[other] = stored(numbers, Kind.F32 if numbers.ndim == 1 else Kind.F16)
        elif chosen in WRITABLE:
            tensors[other] = stored(numbers, chosen)
        else:
            tensors[other] = packed(numbers.shape, chosen, random)
    return tensors


def t5_file(folder: Path, kind: Kind | Callable[[str], Kind], architecture: str = "t5encoder") -> Path:
    return write_gguf(folder / "t5.gguf", architecture, t5_tensors(random_t5(), kind))


def packed(shape: tuple[int, ...], kind: Kind, random: np.random.Generator) -> Stored:
    blocks = random_blocks(random, shape, kind, DEVIATION)
    return Stored(shape, kind, lambda: blocks)


def ltx_tensors(kind: Kind, prefix: str = "") -> dict[str, Stored]:
    """The blocks' weights quantised and the rest in high precision, as in the files that people have."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    tensors = {}
    for name, tensor in LTXVideoTransformer3DModel(**LTX).state_dict().items():
        original = prefix + transformer_name(name)
        numbers = tensor.numpy()
        if numbers.ndim == 1 or "scale_shift_table" in name or "transformer_blocks" not in name:
            tensors[original] = stored(numbers, Kind.F32)
        else:
            tensors[original] = packed(numbers.shape, kind, random)
    return tensors


def dequantised(path: Path) -> dict[str, Tensor]:
    """The numbers of a file by the gguf package's own arithmetic."""
    return {
        tensor.name: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in open_gguf(path).tensors
    }


def dequantised_t5(path: Path) -> Any:
    network, numbers = random_t5(), dequantised(path)
    state = {name: numbers[t5_name(name) or "token_embd.weight"] for name in network.state_dict()}
    network.load_state_dict(state, strict=True)
    return network


@torch.no_grad()
def embed(network: Any) -> Tensor:
    return network(IDS)[0]


@torch.no_grad()
def predict(network: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(1)
    return network(
        hidden_states=torch.randn(1, 12, 8).to(dtype), encoder_hidden_states=torch.randn(1, 6, 64).to(dtype),
        timestep=torch.tensor([500.0]), encoder_attention_mask=torch.ones(1, 6), num_frames=2, height=2, width=3,
        rope_interpolation_scale=(0.3, 32, 32),
    )[0]  # fmt: skip


def cosine(one: Tensor, other: Tensor) -> float:
    return float(nn.functional.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


def weight_bytes(network: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in network.parameters())

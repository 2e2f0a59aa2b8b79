"""GGUF files: what a header says, networks that stay quantised, and a sentence for every file that cannot be loaded."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import GGUFQuantizationConfig, LTXVideoTransformer3DModel
from diffusers.quantizers.gguf.utils import (
    SUPPORTED_GGUF_QUANT_TYPES,
    GGUFLinear,
    GGUFParameter,
    dequantize_gguf_tensor,
)
from gguf import GGUFEndian, GGUFWriter
from gguf.quants import dequantize
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from benchmarks.gguf_files import QUANTISED, Kind, Stored, mixed, random_blocks, stored, t5_name, write_gguf
from pipelines.errors import WeightsUnavailable
from pipelines.ltx.gguf_t5 import T5_GGUF
from pipelines.ltx.gguf_transformer import LTX_GGUF
from pipelines.weights.gguf_file import PLAIN, open_gguf, read_gguf_header
from pipelines.weights.gguf_modules import NUMBERS_AT_ONCE, PackedEmbedding, PackedLinear
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


# --- The folder with the configuration, the network it makes, and its files


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


@pytest.fixture
def t5(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "checkpoint", "text_encoder", T5EncoderModel, T5, T5_GGUF)


@pytest.fixture
def ltx(tmp_path: Path) -> Checkpoint:
    config = {"_class_name": "LTXVideoTransformer3DModel", **LTX}
    return Checkpoint(tmp_path / "checkpoint", "transformer", LTXVideoTransformer3DModel, config, LTX_GGUF)


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
        original = name.replace("proj_in", "patchify_proj").replace("time_embed", "adaln_single")
        original = prefix + original.replace("norm_q", "q_norm").replace("norm_k", "k_norm")
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


# --- The blocks


def test_every_quantisation_of_diffusers_is_tried_here() -> None:
    """What it learns to read later needs blocks here to compare; the header's reader would let it pass at once."""
    assert {Kind(each).name for each in SUPPORTED_GGUF_QUANT_TYPES} - PLAIN == {kind.name for kind in QUANTISED}


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_diffusers_makes_the_numbers_that_gguf_makes(kind: Kind) -> None:
    """Within half precision, in which diffusers computes."""
    blocks = random_blocks(np.random.default_rng(0), (64, 512), kind, deviation=0.05)
    expected = dequantize(blocks, kind)
    made = dequantize_gguf_tensor(GGUFParameter(torch.from_numpy(blocks), quant_type=kind)).float().numpy()
    assert made.shape == expected.shape == (64, 512)
    assert 0.04 < expected.std() < 0.06
    assert abs(made - expected).max() <= 1e-3 * abs(expected).max()


@pytest.mark.parametrize("rows", [511, 512, 1000, 1300])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_by_rows_is_that_of_diffusers(rows: int, bias: bool) -> None:
    """512 rows of 1024 are made at a time."""
    assert NUMBERS_AT_ONCE == 512 * 1024
    blocks = random_blocks(np.random.default_rng(0), (rows, 1024), Kind.Q4_K, DEVIATION)
    layers = [kind(1024, rows, bias=bias, compute_dtype=torch.bfloat16) for kind in (GGUFLinear, PackedLinear)]
    for layer in layers:
        layer.weight = GGUFParameter(torch.from_numpy(blocks), quant_type=Kind.Q4_K)
        if bias:
            layer.bias = nn.Parameter(torch.linspace(-1, 1, rows))
    inputs = torch.randn(2, 3, 1024).bfloat16()
    stock, by_rows = (layer(inputs) for layer in layers)
    assert stock.shape == (2, 3, rows)
    assert torch.equal(stock, by_rows)


# --- The header


def test_the_header_says_what_is_in_the_file(tmp_path: Path) -> None:
    """Shapes are of the numbers, in torch's order."""
    path = t5_file(tmp_path, Kind.Q4_K)
    header = read_gguf_header(path)
    assert header.files == (path,)
    assert header.metadata["general.architecture"] == "t5encoder"
    assert len(header.entries) == 3 * 9 + 3
    assert (header.entries["enc.blk.1.ffn_down.weight"].dtype, header.entries["enc.blk.1.ffn_down.weight"].shape) == (
        "Q4_K",
        (256, 512),
    )
    assert header.entries["enc.blk.0.attn_rel_b.weight"].dtype == "F16"
    assert header.entries["enc.output_norm.weight"].shape == (256,)


def test_a_file_is_never_written_to(tmp_path: Path) -> None:
    path = t5_file(tmp_path, Kind.Q4_K)
    before = path.read_bytes()
    reader = open_gguf(path)
    reader.tensors[0].data[:] = 0
    reader.data.flush()
    assert path.read_bytes() == before


def test_a_text_encoder_of_the_real_size_is_judged_without_reading_it(tmp_path: Path) -> None:
    """The file is a header and five gigabytes of nothing, which take no room on the disk."""
    t5 = Checkpoint(tmp_path, "text_encoder", T5EncoderModel, T5_XXL, T5_GGUF)
    writer = GGUFWriter(tmp_path / "t5.gguf", "t5encoder")
    size = 0
    for name, tensor in t5.empty().expected.items():
        kind, shape = (Kind.F32, tuple(tensor.shape)) if tensor.ndim == 1 else (Kind.Q8_0, tuple(tensor.shape))
        count = tensor.numel() * 4 if tensor.ndim == 1 else tensor.numel() // 32 * 34
        writer.add_tensor_info(
            t5_name(name) or "", (*shape[:-1], shape[-1] // 32 * 34) if kind == Kind.Q8_0 else shape,
            np.dtype(np.float32 if kind == Kind.F32 else np.uint8), count,
            raw_dtype=kind if kind == Kind.Q8_0 else None,
        )  # fmt: skip
        size += count
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header_size = (tmp_path / "t5.gguf").stat().st_size
    os.truncate(tmp_path / "t5.gguf", header_size + size + 32)
    before = _resident()
    recipe = t5.recipe(tmp_path / "t5.gguf")
    assert len(recipe) == 219
    assert 5.0e9 < (tmp_path / "t5.gguf").stat().st_size < 5.1e9
    assert _resident() - before < 2e8

    os.truncate(tmp_path / "t5.gguf", header_size + size // 2)
    assert t5.refusal(tmp_path / "t5.gguf").startswith("is cut short at 2530 MB, or damaged: fetch it again")


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- T5


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_t5_is_close_to_the_network_that_was_quantised(t5: Checkpoint, tmp_path: Path, kind: Kind) -> None:
    path = t5_file(tmp_path, kind)
    embeds = embed(t5.load(path))
    assert cosine(embeds, embed(random_t5())) >= WRITABLE[kind] - 1e-9
    assert torch.allclose(embeds, embed(dequantised_t5(path)), atol=0.02, rtol=0)


def test_t5_in_float32_is_the_network_bit_for_bit(t5: Checkpoint, tmp_path: Path) -> None:
    """But for the position bias, which these files have in half precision."""
    stock = random_t5()
    bias = stock.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    bias.data = bias.data.half().float()
    assert torch.equal(embed(t5.load(t5_file(tmp_path, Kind.F32))), embed(stock))


@pytest.mark.parametrize("kind", BYTES_ONLY, ids=lambda kind: kind.name)
def test_t5_of_blocks_is_the_network_of_its_numbers(t5: Checkpoint, tmp_path: Path, kind: Kind) -> None:
    path = t5_file(tmp_path, kind)
    assert cosine(embed(t5.load(path)), embed(dequantised_t5(path))) > 0.99999


@pytest.mark.parametrize("kind", [Kind.Q5_K, Kind.Q4_K], ids=lambda kind: f"{kind.name}_M")
def test_a_file_of_several_types_loads(t5: Checkpoint, tmp_path: Path, kind: Kind) -> None:
    path = t5_file(tmp_path, lambda name: mixed(name, kind, layers=3))
    kinds = {name: entry.dtype for name, entry in read_gguf_header(path).entries.items()}
    assert set(kinds.values()) == {kind.name, "Q6_K", "F32", "F16"}
    assert kinds["token_embd.weight"] == "Q6_K"
    assert cosine(embed(t5.load(path)), embed(dequantised_t5(path))) > 0.99999


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_t5_takes_no_more_memory_than_its_file(t5: Checkpoint, tmp_path: Path, kind: Kind) -> None:
    """The norms and the position bias are numbers; every other byte is as it is in the file."""
    path = t5_file(tmp_path, kind)
    network = t5.load(path)
    stored_bytes = sum(int(tensor.n_bytes) for tensor in open_gguf(path).tensors)
    bias_bytes = 32 * 8 * 2  # the position bias is F16 there and float32 here
    assert weight_bytes(network) == stored_bytes + bias_bytes
    assert sum(isinstance(each, PackedLinear) for each in network.modules()) == 3 * 7
    embeddings = [network.shared, network.encoder.embed_tokens]
    assert all(isinstance(each, PackedEmbedding) for each in embeddings)
    assert embeddings[0] is embeddings[1]


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16], ids=lambda kind: kind.name)
def test_numbers_of_torch_are_not_made_anew_for_each_call(t5: Checkpoint, tmp_path: Path, kind: Kind) -> None:
    network = t5.load(t5_file(tmp_path, kind), torch.bfloat16)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert not any(isinstance(each, GGUFLinear | PackedEmbedding) for each in network.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.F16], ids=lambda kind: kind.name)
def test_t5_computes_in_the_placements_dtype(t5: Checkpoint, tmp_path: Path, kind: Kind, dtype: torch.dtype) -> None:
    path = t5_file(tmp_path, kind)
    network = t5.load(path, dtype)
    embeds = embed(network)
    assert embeds.dtype == network.dtype == network.shared(IDS).dtype == dtype
    assert cosine(embeds, embed(dequantised_t5(path))) > 0.999


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.F16], ids=lambda kind: kind.name)
def test_the_output_projection_stays_in_float32_beside_half_precision(
    t5: Checkpoint, tmp_path: Path, kind: Kind
) -> None:
    """As in transformers: T5's activations are beyond what half precision holds there."""
    path = t5_file(tmp_path, kind)
    feed_forward = t5.load(path, torch.float16).encoder.block[2].layer[1].DenseReluDense
    wo, wi = feed_forward.wo, feed_forward.wi_0
    if kind is Kind.F16:
        assert (wo.weight.dtype, wi.weight.dtype) == (torch.float32, torch.float16)
    else:
        assert (wo.compute_dtype, wi.compute_dtype) == (torch.float32, torch.float16)
    large = t5.load(path, torch.float16)
    for block in large.encoder.block:
        up = block.layer[1].DenseReluDense.wi_1
        if kind is Kind.F16:
            up.weight.data *= 3000
        else:
            up.weight = GGUFParameter(_scaled(up.weight.as_tensor(), 3000), quant_type=up.weight.quant_type)
    assert torch.isfinite(embed(large)).all()


def _scaled(blocks: Tensor, factor: float) -> Tensor:
    """Q8_0 blocks whose numbers are `factor` times as large."""
    each = blocks.reshape(-1, 34).clone()
    each[:, :2] = (each[:, :2].contiguous().view(torch.float16).float() * factor).half().view(torch.uint8)
    return each.reshape(blocks.shape)


def test_the_activation_is_the_configurations(t5: Checkpoint, tmp_path: Path) -> None:
    """A GGUF file does not name it, and another one gives other embeddings without an error."""
    path = t5_file(tmp_path, Kind.Q8_0)
    other = random_t5(feed_forward_proj="gated-relu")
    assert cosine(embed(t5.load(path)), embed(random_t5())) > 0.999
    assert cosine(embed(t5.load(path)), embed(other)) < 0.99
    for activation in ("gated-relu", "gated-silu", "gelu_new", "relu"):
        wrong = Checkpoint(tmp_path / activation, "text_encoder", T5EncoderModel,
                           {**T5, "feed_forward_proj": activation}, T5_GGUF)  # fmt: skip
        with pytest.raises(WeightsUnavailable) as caught:
            wrong.recipe(path)
        assert caught.value.message == (
            f"{tmp_path / activation}/text_encoder/config.json says feed_forward_proj '{activation}', and the T5 v1.1 "
            f"in {path} needs 'gated-gelu': take the configuration of the model's own text encoder"
        )


def test_a_whole_t5_gives_its_encoder(t5: Checkpoint, tmp_path: Path) -> None:
    tensors = t5_tensors(random_t5(), Kind.Q8_0)
    more = {
        "dec.blk.0.attn_q.weight": tensors["enc.blk.0.attn_q.weight"],
        "output.weight": tensors["token_embd.weight"],
    }
    whole = write_gguf(tmp_path / "whole.gguf", "t5", {**tensors, **more})
    assert torch.equal(embed(t5.load(whole)), embed(t5.load(t5_file(tmp_path, Kind.Q8_0))))


def test_the_network_outlives_its_file(t5: Checkpoint, tmp_path: Path) -> None:
    """What is mapped would change, or end the process, when somebody replaces the file."""
    path = t5_file(tmp_path, lambda name: Kind.F32 if "attn_q" in name else Kind.Q8_0)
    network = t5.load(path)
    before = embed(network)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(embed(network), before)


# --- The LTX-Video transformer


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_K, Kind.Q6_K, Kind.Q3_K], ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_transformer_is_that_of_diffusers(ltx: Checkpoint, tmp_path: Path, kind: Kind, dtype: torch.dtype) -> None:
    path = write_gguf(tmp_path / "ltx.gguf", "ltxv", ltx_tensors(kind))
    stock = LTXVideoTransformer3DModel.from_single_file(
        str(path), config=str(ltx.folder), subfolder="transformer", dtype=dtype,
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
    ).eval()  # fmt: skip
    network = ltx.load(path, dtype)
    assert torch.equal(predict(network, dtype), predict(stock, dtype))
    assert network.dtype == dtype
    assert weight_bytes(network) == weight_bytes(stock)
    assert sum(isinstance(each, GGUFLinear) for each in network.modules()) == 2 * 10
    assert not network.training


def test_the_transformer_is_the_network_of_its_numbers(ltx: Checkpoint, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "ltx.gguf", "ltxv", ltx_tensors(Kind.Q5_K))
    numbers = dequantised(path)
    stock = LTXVideoTransformer3DModel(**LTX).eval()
    recipe = ltx.recipe(path)
    stock.load_state_dict({name: numbers[part.name] for name, part in recipe.items()}, strict=True)
    network = ltx.load(path)
    assert cosine(predict(network), predict(stock)) > 0.99999
    moved = network.to(torch.device("cpu")).to(torch.float32).eval()
    assert moved.transformer_blocks[0].attn1.to_q.weight.quant_type == Kind.Q5_K
    assert torch.equal(predict(moved), predict(network))


@pytest.mark.parametrize(("architecture", "prefix"), [("pig", ""), ("ltxv", "model.diffusion_model.")])
def test_other_names_for_the_same_transformer(ltx: Checkpoint, tmp_path: Path, architecture: str, prefix: str) -> None:
    expected = write_gguf(tmp_path / "expected.gguf", "ltxv", ltx_tensors(Kind.Q8_0))
    other = write_gguf(tmp_path / "other.gguf", architecture, ltx_tensors(Kind.Q8_0, prefix))
    assert torch.equal(predict(ltx.load(other)), predict(ltx.load(expected)))


def test_all_of_a_transformer_may_be_quantised_or_bfloat16(ltx: Checkpoint, tmp_path: Path) -> None:
    """Its tables, norms and biases become numbers, whatever type they have."""
    torch.manual_seed(0)
    tensors = {}
    for (name, tensor), expected in zip(ltx_tensors(Kind.Q8_0).items(), ltx.empty().expected.values(), strict=True):
        numbers = torch.randn(expected.shape).numpy() * 0.05
        kind = Kind.Q8_0 if tensor.shape[-1] % 32 == 0 and "table" not in name else Kind.BF16
        tensors[name] = stored(numbers, kind)
    path = write_gguf(tmp_path / "ltx.gguf", "ltxv", tensors)
    stock, values = LTXVideoTransformer3DModel(**LTX).eval(), dequantised(path)
    stock.load_state_dict({name: values[part.name] for name, part in ltx.recipe(path).items()}, strict=True)
    network = ltx.load(path)
    assert network.transformer_blocks[0].attn1.norm_q.weight.dtype == torch.float32
    assert cosine(predict(network), predict(stock)) > 0.9999


# --- What is refused, from the header alone


def test_files_of_another_kind(t5: Checkpoint, tmp_path: Path) -> None:
    def named(content: bytes) -> Path:
        (tmp_path / "file.gguf").write_bytes(content)
        return tmp_path / "file.gguf"

    assert t5.refusal(named(b"")) == "is empty: fetch it again"
    assert t5.refusal(named(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")) == (
        "is a Git LFS pointer, not the file: run `git lfs pull` where it was cloned, or fetch it again"
    )
    assert t5.refusal(named(b"\n<!DOCTYPE html><html></html>")) == (
        "is a web page, perhaps one that asks to log in: fetch the file itself, with `./kinoray prefetch`"
    )
    assert t5.refusal(named(struct.pack("<Q", 2) + b"{}")) == (
        "is a safetensors file: name it so that it ends with .safetensors"
    )
    assert t5.refusal(named(b"PK\x03\x04 and more")) == "is no GGUF file: fetch it again"
    assert t5.refusal(named(b"GGUF" + struct.pack("<I", 1) + bytes(100))) == (
        "is a GGUF file of version 1, from 2023: take a newer file of the same weights"
    )
    assert t5.refusal(named(b"GGUF" + struct.pack("<I", 4) + bytes(100))) == (
        "is a GGUF file of version 4, too new for the gguf package here: `pip install --upgrade gguf`"
    )
    assert t5.refusal(tmp_path / "none.gguf") == "cannot be read: No such file or directory"


def test_a_big_endian_file(t5: Checkpoint, tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "big.gguf", "t5encoder", endianess=GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert t5.refusal(tmp_path / "big.gguf") == (
        "is a big-endian GGUF file: take one for ordinary machines, which are little-endian"
    )


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.003, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_short(t5: Checkpoint, tmp_path: Path, share: float) -> None:
    path = t5_file(tmp_path, Kind.Q4_K)
    os.truncate(path, int(path.stat().st_size * share))
    size = path.stat().st_size / 1e6
    assert t5.refusal(path) == f"is cut short at {size:.0f} MB, or damaged: fetch it again"


def test_a_quantisation_that_cannot_be_read(t5: Checkpoint, tmp_path: Path) -> None:
    tensors = t5_tensors(random_t5(), Kind.Q8_0)
    shape = tensors["enc.blk.0.ffn_up.weight"].shape
    tensors["enc.blk.0.ffn_up.weight"] = Stored(
        shape, Kind.IQ2_XXS, lambda: np.zeros((shape[0], shape[1] // 256 * 66), np.uint8)
    )
    path = write_gguf(tmp_path / "t5.gguf", "t5encoder", tensors)
    assert t5.refusal(path) == (
        ": enc.blk.0.ffn_up.weight is IQ2_XXS, which cannot be read here; take Q8_0, or Q5_K_M or Q4_K_M where memory "
        "is short"
    )
    content = bytearray(path.read_bytes())
    at = content.index(b"enc.blk.0.ffn_up.weight") + len(b"enc.blk.0.ffn_up.weight") + 4 + 16
    assert struct.unpack_from("<I", content, at) == (int(Kind.IQ2_XXS),)
    struct.pack_into("<I", content, at, 99)
    path.write_bytes(content)
    assert t5.refusal(path) == (
        "has a quantisation that is not known here (99); take Q8_0, or Q5_K_M or Q4_K_M where memory is short"
    )


def test_one_part_of_a_file(t5: Checkpoint, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "t5-00001-of-00003.gguf", "t5encoder", {}, {"split.count": 3})
    assert t5.refusal(path) == (
        "is one of 3 parts: join them with `llama-gguf-split --merge`, and name the file that it makes"
    )


def test_another_architecture(t5: Checkpoint, ltx: Checkpoint, tmp_path: Path) -> None:
    text = t5_file(tmp_path, Kind.Q8_0)
    video = write_gguf(tmp_path / "ltx.gguf", "ltxv", ltx_tensors(Kind.Q8_0))
    unknown = write_gguf(tmp_path / "gpt.gguf", "gpt2", {})
    assert t5.refusal(video) == (
        "holds an LTX-Video transformer, not a T5 encoder: name a file such as t5-v1_1-xxl-encoder-Q8_0.gguf for "
        "text_encoder"
    )
    assert ltx.refusal(text) == (
        "holds a T5 encoder, not an LTX-Video transformer: name a file such as ltx-video-2b-v0.9-Q8_0.gguf for "
        "transformer"
    )
    assert t5.refusal(unknown).startswith("holds a model of the architecture 'gpt2', not a T5 encoder")
    disguised = write_gguf(tmp_path / "disguised.gguf", "pig", t5_tensors(random_t5(), Kind.Q8_0))
    assert ltx.refusal(disguised).startswith("holds no transformer")


@pytest.mark.parametrize(
    ("name", "network_name"),
    [
        ("enc.blk.1.ffn_gate.weight", "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"),
        ("token_embd.weight", "shared.weight"),
        ("enc.blk.0.attn_rel_b.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ],
)
def test_a_tensor_is_missing(t5: Checkpoint, tmp_path: Path, name: str, network_name: str) -> None:
    tensors = t5_tensors(random_t5(), Kind.Q8_0)
    del tensors[name]
    refusal = t5.refusal(write_gguf(tmp_path / "t5.gguf", "t5encoder", tensors))
    assert f"such as {network_name}:" in refusal


def test_a_tensor_is_left_over(t5: Checkpoint, ltx: Checkpoint, tmp_path: Path) -> None:
    tensors = t5_tensors(random_t5(), Kind.Q8_0)
    tensors["enc.blk.3.attn_q.weight"] = tensors["enc.blk.2.attn_q.weight"]
    refusal = t5.refusal(write_gguf(tmp_path / "t5.gguf", "t5encoder", tensors))
    assert "such as enc.blk.3.attn_q.weight:" in refusal
    tensors = ltx_tensors(Kind.Q8_0)
    tensors["transformer_blocks.2.attn1.to_q.bias"] = tensors["transformer_blocks.1.attn1.to_q.bias"]
    refusal = ltx.refusal(write_gguf(tmp_path / "ltx.gguf", "ltxv", tensors))
    assert "such as transformer_blocks.2.attn1.to_q.bias:" in refusal


def test_a_tensor_of_another_shape(t5: Checkpoint, tmp_path: Path) -> None:
    """Packed bytes are counted as the numbers that they make."""
    wide = random_t5(d_ff=768)
    path = write_gguf(tmp_path / "t5.gguf", "t5encoder", t5_tensors(wide, Kind.Q4_K))
    refusal = t5.refusal(path)
    assert "enc.blk.0.ffn_gate.weight has the shape [768, 256], not [512, 256]" in refusal


def test_an_autoencoder_in_the_same_file(ltx: Checkpoint, tmp_path: Path) -> None:
    tensors = {**ltx_tensors(Kind.Q8_0), "vae.decoder.conv_in.conv.bias": stored(np.zeros(32, np.float32))}
    assert ltx.refusal(write_gguf(tmp_path / "ltx.gguf", "ltxv", tensors)) == (
        "has the autoencoder in it (vae.decoder.conv_in.conv.bias), which cannot be read from a GGUF file: take a "
        "file of the transformer alone, and the autoencoder from a safetensors file or a diffusers folder"
    )


def test_a_file_that_changes_between_check_and_load(t5: Checkpoint, tmp_path: Path) -> None:
    path = t5_file(tmp_path, Kind.Q8_0)
    header, empty = read_gguf_header(path), t5.empty()
    recipe = make_gguf_recipe(T5_GGUF, header, empty, t5.target)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(WeightsUnavailable, match="is cut short at 1 MB, or damaged"):
        load_gguf(T5_GGUF, replace(header), empty, recipe, dtype=torch.float32, device=CPU)

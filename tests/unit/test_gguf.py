"""Networks from GGUF files stay quantised, and compute what their numbers do."""

from __future__ import annotations

from pathlib import Path

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
from gguf.quants import dequantize
from torch import Tensor, nn
from transformers import T5EncoderModel

from benchmarks.gguf_files import QUANTISED, Kind, mixed, random_blocks, stored, write_gguf
from pipelines.errors import WeightsUnavailable
from pipelines.ltx.gguf_t5 import T5_GGUF
from pipelines.weights.gguf_file import PLAIN, open_gguf, read_gguf_header
from pipelines.weights.gguf_modules import NUMBERS_AT_ONCE, PackedEmbedding, PackedLinear
from tests.unit.gguf_world import (
    BYTES_ONLY,
    DEVIATION,
    IDS,
    LTX,
    T5,
    WRITABLE,
    Checkpoint,
    cosine,
    dequantised,
    dequantised_t5,
    embed,
    ltx_checkpoint,
    ltx_tensors,
    predict,
    random_t5,
    t5_checkpoint,
    t5_file,
    t5_tensors,
    weight_bytes,
)


@pytest.fixture
def t5(tmp_path: Path) -> Checkpoint:
    return t5_checkpoint(tmp_path)


@pytest.fixture
def ltx(tmp_path: Path) -> Checkpoint:
    return ltx_checkpoint(tmp_path)


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

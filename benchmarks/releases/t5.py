"""T5 v1.1 XXL's encoder as people have it: four float32 shards, or one file in half precision or fp8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from benchmarks.releases.files import Tensors, cast_to, write_file, write_json, write_weights
from benchmarks.releases.networks import Width, random_network
from benchmarks.releases.tokenizer import SIZE

LAYERS = 24
NAMES = 219
"""The tensors of the encoder; its embedding counts once, though the network has it under two names."""
SHARED, TOKENS = "shared.weight", "encoder.embed_tokens.weight"
FP8 = torch.float8_e4m3fn


def t5_config(width: Width) -> Mapping[str, Any]:
    """The encoder's `config.json`, with every layer of the original."""
    sizes = (
        {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "vocab_size": 32128}
        if width is Width.FULL
        else {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "vocab_size": 128 * (SIZE // 128 + 1)}
    )
    return {
        "architectures": ["T5EncoderModel"], "model_type": "t5", "num_layers": LAYERS, "num_decoder_layers": LAYERS,
        "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True, "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0, "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32, "is_encoder_decoder": True, "tie_word_embeddings": False,
        "use_cache": True, "output_past": True, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
        "torch_dtype": "float32", "transformers_version": "4.49.0", **sizes,
    }  # fmt: skip


def t5_tensors(width: Width) -> Tensors:
    """The encoder's float32 tensors under their names in a transformers folder."""

    def build() -> Any:
        return T5EncoderModel(T5Config(**{key: value for key, value in t5_config(width).items() if key not in DERIVED}))

    state = random_network("t5", width, build).state_dict()
    return {name: tensor for name, tensor in state.items() if name != TOKENS}


DERIVED = ("architectures", "model_type", "dense_act_fn", "is_gated_act", "torch_dtype", "transformers_version")


def write_t5(folder: Path, width: Width) -> None:
    """Write the `text_encoder` folder of the LTX-Video repositories."""
    write_json(folder / "config.json", t5_config(width))
    write_weights(folder, "model", t5_tensors(width), shards=4)


def write_t5_files(folder: Path) -> None:
    """Write the single files of `comfyanonymous/flux_text_encoders`. They hold the embedding under both its names."""
    halves = cast_to(torch.float16, t5_tensors(Width.SMALL))
    halves = {**halves, TOKENS: halves[SHARED]}
    write_file(folder / "t5xxl_fp16.safetensors", halves)
    write_file(folder / "t5xxl_fp8_e4m3fn.safetensors", cast_to(FP8, halves))
    write_file(folder / "t5xxl_fp8_e4m3fn_scaled.safetensors", _scaled(halves))


def _scaled(halves: Tensors) -> Tensors:
    """Every linear layer's weight in fp8 with one scale of its own, and the marker of that format."""
    tensors: dict[str, Tensor] = {"scaled_fp8": torch.empty(0, dtype=FP8)}
    for name, tensor in halves.items():
        linear = tensor.ndim == 2 and name not in (SHARED, TOKENS) and "relative_attention_bias" not in name
        if not linear:
            tensors[name] = tensor
            continue
        scale = tensor.abs().max().float() / torch.finfo(FP8).max
        tensors[name] = (tensor.float() / scale).to(FP8)
        tensors[name.removesuffix("weight") + "scale_weight"] = scale
    return tensors

"""GGUF files with random weights.

The gguf package cannot quantise to the K types, so their blocks are made of random bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quant_shape_to_byte_shape, quantize
from numpy.typing import NDArray

Kind = GGMLQuantizationType
Array = NDArray[np.generic]
Shape = tuple[int, ...]

SCALES: Mapping[Kind, tuple[tuple[int, float], ...]] = {
    Kind.Q8_0: ((0, 1),),
    Kind.Q5_0: ((0, 1),),
    Kind.Q5_1: ((0, 1), (2, -15.5)),
    Kind.Q4_0: ((0, 1),),
    Kind.Q4_1: ((0, 1), (2, -7.5)),
    Kind.Q6_K: ((208, 1),),
    Kind.Q5_K: ((0, 1), (2, 15.5)),
    Kind.Q4_K: ((0, 1), (2, 7.5)),
    Kind.Q3_K: ((108, 1),),
    Kind.Q2_K: ((80, 1), (82, 1.5)),
    Kind.IQ4_NL: ((0, 1),),
    Kind.IQ4_XS: ((0, 1),),
}
"""Where a block has its scales, which are halves, and how large each is beside the first so that the mean is near 0."""
QUANTISED = tuple(SCALES)
T5_NAMES = get_tensor_name_map(MODEL_ARCH.T5ENCODER, 24)


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file."""

    shape: Shape
    kind: Kind
    make: Callable[[], Array]
    """Numbers or, for a quantised type, the bytes of its blocks; asked for when the file is written."""


def stored(numbers: Array, kind: Kind = Kind.F32) -> Stored:
    """A tensor with these numbers; `kind` is one that the gguf package can write."""
    return Stored(numbers.shape, kind, lambda: quantize(np.ascontiguousarray(numbers), kind))


def random_blocks(random: np.random.Generator, shape: Shape, kind: Kind, deviation: float) -> NDArray[np.uint8]:
    """Valid blocks of random bytes, whose numbers have about this standard deviation; [..., bytes of a row]."""
    block, size = GGML_QUANT_SIZES[kind]
    count = int(np.prod(shape)) // block
    blocks = np.frombuffer(random.bytes(count * size), dtype=np.uint8).reshape(count, size).copy()
    sample = blocks[:256].copy()
    _set_scales(sample, kind, np.ones(len(sample)))
    unit = deviation / float(np.std(dequantize(sample.reshape(1, -1), kind)))
    _set_scales(blocks, kind, unit * random.uniform(0.7, 1.3, count))
    return blocks.reshape(quant_shape_to_byte_shape(shape, kind))


def write_gguf(
    path: Path, architecture: str, tensors: Mapping[str, Stored], metadata: Mapping[str, int] | None = None
) -> Path:
    """Write a file, holding one tensor at a time."""
    writer = GGUFWriter(path, architecture)
    for name, number in (metadata or {}).items():
        writer.add_uint32(name, number)
    for name, tensor in tensors.items():
        block, size = GGML_QUANT_SIZES[tensor.kind]
        plain = {Kind.F32: np.float32, Kind.F16: np.float16}.get(tensor.kind)
        shape = tensor.shape if plain else quant_shape_to_byte_shape(tensor.shape, tensor.kind)
        writer.add_tensor_info(
            name, shape, np.dtype(plain or np.uint8), int(np.prod(tensor.shape)) // block * size,
            raw_dtype=None if plain else tensor.kind,
        )  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors.values():
        writer.write_tensor_data(np.ascontiguousarray(tensor.make()))
    writer.close()
    return path


def t5_name(name: str) -> str | None:
    """The name in a GGUF file of one of transformers' T5 encoder's tensors; None for the embedding's second name."""
    found = T5_NAMES.get_name(name, try_suffixes=(".weight",))
    assert found or name == "encoder.embed_tokens.weight"
    return found


def mixed(name: str, kind: Kind, layers: int) -> Kind:
    """The type that llama.cpp gives to a tensor of a T5 in a `Q4_K_M` or `Q5_K_M` file (`llama_tensor_get_type`).

    It gives more bits to the embedding, and to half of the value and output projections.
    """
    if name == "token_embd.weight":
        return Kind.Q6_K
    if ".attn_v." in name or ".ffn_down." in name:
        layer, eighth = int(name.split(".")[2]), layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            return Kind.Q6_K
    return kind


def _set_scales(blocks: NDArray[np.uint8], kind: Kind, units: NDArray[np.float64]) -> None:
    for offset, share in SCALES[kind]:
        halves = (units * share).astype(np.float16)
        blocks[:, offset : offset + 2] = halves.view(np.uint8).reshape(-1, 2)

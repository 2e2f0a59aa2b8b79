"""A T5 encoder with random weights on the disk: the published float32 shards, and GGUF files of the same network.

Only one tensor is in memory at a time, so that the real size, 19 GB, can be made on a small machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from huggingface_hub import split_torch_state_dict_into_shards
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gguf_files import Stored, mixed, random_blocks, stored, t5_name, write_gguf
from pipelines.ltx.networks import NETWORKS
from pipelines.weights.network import build_on_meta

Q8_0, Q5_K, Q4_K = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q5_K, GGMLQuantizationType.Q4_K
COMPONENT = "text_encoder"
SMALL = {"d_model": 256, "d_kv": 32, "d_ff": 512, "num_heads": 8, "vocab_size": 1024}
"""Widths for a quick try; the K types need multiples of 256."""


class T5Files:
    """The files of one encoder in a folder; equal seeds give equal numbers in all of them."""

    def __init__(self, folder: Path, *, layers: int, small: bool) -> None:
        """Write the configuration. The weights are written by the methods."""
        from benchmarks.releases.networks import Width  # late: they import diffusers
        from benchmarks.releases.t5 import t5_config

        self.folder = folder / COMPONENT
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config: dict[str, Any] = {
            **t5_config(Width.FULL), **(SMALL if small else {}), "num_layers": layers, "num_decoder_layers": layers,
        }  # fmt: skip
        (self.folder / "config.json").write_text(json.dumps(self.config))
        self.expected: Mapping[str, Tensor] = build_on_meta(NETWORKS[COMPONENT], folder, COMPONENT).expected

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.expected.items()}

    def write_shards(self) -> None:
        """Write float32 safetensors in four shards, split as transformers splits them."""
        size = sum(math.prod(shape) for shape in self.shapes().values()) * 4
        split = split_torch_state_dict_into_shards(
            dict(self.expected), filename_pattern="model{suffix}.safetensors",
            max_shard_size=min(5 * 10**9, math.ceil(size / 3.8)),
        )  # fmt: skip
        for file, names in split.filename_to_tensors.items():
            self._write_shard(self.folder / file, names)
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def remove_shards(self) -> None:
        for path in self.folder.glob("model*"):
            path.unlink()

    def write_q8_0(self, path: Path) -> Path:
        """Quantise the same numbers to Q8_0, which the gguf package can."""
        return self._write_gguf(path, lambda name: Q8_0)  # noqa: ARG005

    def write_k_mix(self, path: Path, kind: GGMLQuantizationType) -> Path:
        """Write random blocks in the mix of types of a Q5_K_M or Q4_K_M file, which the package cannot quantise to."""
        return self._write_gguf(path, lambda name: mixed(name, kind, self.config["num_layers"]))

    def _write_shard(self, path: Path, names: list[str]) -> None:
        """Write the safetensors format by hand: the package's writer wants the whole shard in memory."""
        shapes, header, end = self.shapes(), {}, 0
        for name in names:
            start, end = end, end + math.prod(shapes[name]) * 4
            header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [start, end]}
        text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                self._numbers(name).tofile(file)

    def _write_gguf(self, path: Path, kind_of: Callable[[str], GGMLQuantizationType]) -> Path:
        tensors = {}
        for name in self.expected:
            other = t5_name(name)
            assert other is not None
            tensors[other] = self._stored(name, kind_of(other))
        return write_gguf(path, "t5encoder", tensors)

    def _stored(self, name: str, kind: GGMLQuantizationType) -> Stored:
        """Norms stay float32 and the position bias half precision, as llama.cpp leaves them."""
        shape, deviation = self.shapes()[name], self._deviation(name)
        if len(shape) == 1:
            kind = GGMLQuantizationType.F32
        elif "relative_attention_bias" in name:
            kind = GGMLQuantizationType.F16
        elif kind is not Q8_0:
            return Stored(shape, kind, lambda: random_blocks(self._random(name), shape, kind, deviation))
        return Stored(shape, kind, lambda: stored(self._numbers(name), kind).make())

    def _numbers(self, name: str) -> NDArray[np.float32]:
        shape, deviation = self.shapes()[name], self._deviation(name)
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        numbers = self._random(name).standard_normal(shape, dtype=np.float32)
        numbers *= np.float32(deviation)
        return numbers

    def _random(self, name: str) -> np.random.Generator:
        return np.random.default_rng(list(self.expected).index(name))

    def _deviation(self, name: str) -> float:
        """Of T5's own initial weights (transformers `T5PreTrainedModel._init_weights`): it keeps activations near 1."""
        config = self.config
        if name == "shared.weight":
            return 1.0
        if ".SelfAttention.q." in name:
            return float((config["d_model"] * config["d_kv"]) ** -0.5)
        if ".SelfAttention.o." in name:
            return float((config["num_heads"] * config["d_kv"]) ** -0.5)
        if ".wo." in name:
            return float(config["d_ff"] ** -0.5)
        return float(config["d_model"] ** -0.5)

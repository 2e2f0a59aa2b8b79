"""Write what a repository holds: JSON, tensors in one file or in shards with their index, and names of variants."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def cast_to(dtype: torch.dtype, tensors: Tensors) -> Tensors:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_file(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file. `format: pt` in its metadata is what the libraries write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(own, path, metadata={"format": "pt", **(metadata or {})})


def write_weights(folder: Path, stem: str, tensors: Tensors, *, shards: int = 1, variant: str | None = None) -> None:
    """Write a component's weights as diffusers and transformers do.

    Args:
        stem: `diffusion_pytorch_model` or `model`.
        shards: the number of files; with more than one, an index says which tensor is where.
        variant: such as `fp16`, in the names `model.fp16.safetensors` and `model.fp16-00001-of-00004.safetensors`.
    """
    named = f"{stem}.{variant}" if variant else stem
    if shards == 1:
        write_file(folder / f"{named}.safetensors", tensors)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(_split(tensors, shards), start=1):
        file = f"{named}-{number:05d}-of-{shards:05d}.safetensors"
        write_file(folder / file, {name: tensors[name] for name in names})
        places |= dict.fromkeys(names, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    ending = f"index.{variant}.json" if variant else "index.json"
    write_json(folder / f"{stem}.safetensors.{ending}", {"metadata": {"total_size": total}, "weight_map": places})


def _split(tensors: Tensors, shards: int) -> Iterator[list[str]]:
    """The names in order, in as many groups of about the same number of bytes; no group is empty."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    names, passed = list(tensors), 0
    group: list[str] = []
    left = shards
    for position, name in enumerate(names):
        group.append(name)
        passed += tensors[name].nbytes
        enough = passed * shards >= total * (shards - left + 1)
        if left > 1 and (enough or len(names) - position - 1 == left - 1):
            yield group
            group, left = [], left - 1
    yield group

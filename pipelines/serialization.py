"""Hand-over values as bytes: tensors in safetensors, everything else as JSON in its header.

A serialised denoise state *is* the checkpoint, so this is also the checkpoint's format. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypeVar

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

HEADER = "kinoray"

T = TypeVar("T")


def to_bytes(value: Any) -> bytes:
    """Serialise a flat dataclass of tensors and JSON values."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if isinstance(item, Tensor):
            tensors[field.name] = item.detach().cpu().contiguous()
        else:
            facts[field.name] = item
    header = json.dumps({"type": type(value).__name__, "facts": facts}, sort_keys=True)
    return safetensors.torch.save(tensors, metadata={HEADER: header})


def from_bytes(kind: type[T], data: bytes) -> T:
    """Rebuild a value that `to_bytes` wrote.

    Raises:
        ValueError: the bytes hold another type, or fields that this version does not know, or are damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][HEADER])
        tensors = safetensors.torch.load(data)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"these bytes hold no {kind.__name__}: {type(error).__name__}") from error
    if header["type"] != kind.__name__:
        raise ValueError(f"these bytes hold a {header['type']}, not a {kind.__name__}")
    fields = {**header["facts"], **tensors}
    if unknown := fields.keys() - {field.name for field in dataclasses.fields(kind)}:  # type: ignore[arg-type]
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}; another version wrote this checkpoint")
    return kind(**fields)

"""Stage outputs as bytes: tensors in safetensors, everything else as JSON in its header.

A serialised denoise state *is* the checkpoint, so this is also the checkpoint's format. It names its class and that
class's `VERSION`, which is 1 unless the class says otherwise: a class whose fields change raises it, and so does one
whose fields change their meaning. This module unpickles nothing.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from pipelines.protocols import StageOutput

if TYPE_CHECKING:
    from torch import Tensor

HEADER = "kinoray"
NUMPY = "numpy"
"""The header's mark of values that hold NumPy arrays, so that a family without torch can read them without torch."""

T = TypeVar("T", bound=StageOutput)


def format_of(kind: type[StageOutput]) -> str:
    """The name and version of a stage output's format."""
    return f"{kind.__name__} {getattr(kind, 'VERSION', 1)}"


def to_bytes(value: StageOutput) -> bytes:
    """Serialise a flat dataclass of tensors and JSON values. Raises TypeError for any other value."""
    items = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    arrays = {name: item for name, item in items.items() if isinstance(item, np.ndarray)}
    tensors = {name: item for name, item in items.items() if hasattr(item, "detach")}
    assert not (arrays and tensors), "a stage output holds one or the other"
    plain = {name: item for name, item in items.items() if name not in arrays and name not in tensors}
    for name, item in plain.items():
        _require_json(item, f"{type(value).__name__}.{name}")
    header = {"format": format_of(type(value)), "plain": plain}
    if arrays:
        return _save_arrays(arrays, {**header, "of": NUMPY})
    return _save_tensors(tensors, header)


def from_bytes(kind: type[T], data: bytes) -> T:
    """Rebuild a value that `to_bytes` wrote.

    Raises:
        ValueError: the bytes hold another type or other fields, or are damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][HEADER])
        written = header["format"]
        fields = {**header["plain"], **_load(data, header.get("of"))}
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"these bytes hold no {kind.__name__}: {type(error).__name__}") from error
    if written != format_of(kind):
        raise ValueError(f"these bytes hold a {written}, not a {format_of(kind)}")
    if differs := fields.keys() ^ {field.name for field in dataclasses.fields(kind)}:
        raise ValueError(f"another version's {kind.__name__} was written: they differ in {', '.join(sorted(differs))}")
    return kind(**fields)


def _require_json(item: object, name: str) -> None:
    try:
        json.dumps(item)
    except (TypeError, ValueError) as error:
        kind = f"{type(item).__module__}.{type(item).__qualname__}"
        raise TypeError(f"{name} is a {kind}; use an array, a tensor or a value that JSON knows") from error


def _save_arrays(arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> bytes:
    from safetensors.numpy import save

    # safetensors writes the memory of an array as it lies there, whatever the array's order.
    in_order = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(in_order, metadata={HEADER: json.dumps(header, sort_keys=True)})


def _save_tensors(tensors: dict[str, Tensor], header: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(on_cpu, metadata={HEADER: json.dumps(header, sort_keys=True)})


def _load(data: bytes, of: str | None) -> dict[str, Any]:
    if of == NUMPY:
        from safetensors.numpy import load as load_arrays

        return dict(load_arrays(data))
    from safetensors.torch import load

    return dict(load(data))

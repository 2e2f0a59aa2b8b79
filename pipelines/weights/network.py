"""A component's network without its weights: built from its configuration on the meta device."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import WeightsUnavailable
from pipelines.weights.recipe import AS_NAMED, Layout

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pipelines.weights.gguf_network import GGUFLayout


@dataclass(frozen=True, slots=True)
class Network:
    """The class of a component's network, and how files hold it."""

    kind: Callable[[], Any]
    """Imports and returns the class: a diffusers `ModelMixin` or a transformers `PreTrainedModel`."""
    folder: Layout = AS_NAMED
    """How a diffusers folder holds it."""
    file: Layout = AS_NAMED
    """How the makers' single file holds it."""
    gguf: GGUFLayout | None = None
    """How a GGUF file holds it; None where none can."""
    ignored: tuple[str, ...] = ()
    """Patterns of names that files have and the network does not need."""
    contradiction: Callable[[Any, Mapping[str, str]], str | None] = lambda card, metadata: None  # noqa: ARG005
    """Where a file's metadata and the card differ, with both values."""


@dataclass(frozen=True, slots=True)
class MetaNetwork:
    """A network on the meta device, and the tensors that it wants."""

    network: nn.Module
    expected: Mapping[str, Tensor]
    """Every parameter and stored buffer once, by its first name."""
    tied: Mapping[str, str]
    """Further names of expected tensors."""


def build_on_meta(network: Network, folder: Path, component: str) -> MetaNetwork:
    """Build a component's network from `folder/component/config.json`, without memory for its weights.

    Raises:
        WeightsUnavailable: the configuration is not there, is not JSON, or has a key that the network does not know.
    """
    from accelerate import init_empty_weights

    from pipelines.devices import hide_useless_xformers

    hide_useless_xformers()
    kind = network.kind()
    config = _config(folder / component / "config.json")
    try:
        with init_empty_weights(include_buffers=False):
            if hasattr(kind, "load_config"):
                _refuse_unknown_keys(kind, config, folder / component / "config.json")
                module = kind.from_config(config)
            else:
                module = kind(kind.config_class.from_dict(config))
    except (TypeError, ValueError, KeyError, NotImplementedError) as error:
        raise WeightsUnavailable(f"{folder / component / 'config.json'} makes no {kind.__name__}: {error}") from error
    tied: dict[str, str] = dict(getattr(kind, "_tied_weights_keys", None) or {})
    expected = {name: tensor for name, tensor in module.state_dict().items() if name not in tied}
    return MetaNetwork(module, {name: tensor.to("meta") for name, tensor in expected.items()}, tied)


def dtype_of(module: nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of one tensor when the network computes in `dtype`: some must stay float32 beside float16."""
    import torch

    exact = set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        exact |= set(getattr(module, "_keep_in_fp32_modules", None) or ())
    kept = dtype in (torch.float16, torch.bfloat16) and not exact.isdisjoint(name.split("."))
    return torch.float32 if kept else dtype


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise WeightsUnavailable(f"there is no {path}: it says how the network is built; fetch it again") from None
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(f"{path} cannot be read as JSON ({error}): fetch it again") from error
    if not isinstance(config, dict):
        raise WeightsUnavailable(f"{path} must be a JSON object: fetch it again")
    return config


def _refuse_unknown_keys(kind: Any, config: Mapping[str, Any], path: Path) -> None:
    known = kind._get_init_keys(kind)
    given = (key for key, value in config.items() if not key.startswith("_") and value is not None)
    if unknown := sorted(key for key in given if key not in known):
        raise WeightsUnavailable(
            f"{path} has {unknown[0]!r}, which {kind.__name__} does not know and would ignore: it is of another model, "
            f"or of a newer diffusers; take the configuration of the weights' own release"
        )

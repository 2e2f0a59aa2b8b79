"""Load a network's weights: whole, each tensor straight into its dtype and device, or not at all.

The libraries' own loaders fill a missing tensor with random numbers and leave what is left over, with a warning. This
one reads by the recipe that `prefetch` has checked, and holds one tensor of the file beside the network.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.card import CheckpointCard, Component
from pipelines.errors import WeightsUnavailable
from pipelines.weights.gguf_file import read_gguf_header
from pipelines.weights.gguf_network import GGUFLayout, load_gguf, make_gguf_recipe
from pipelines.weights.header import Header, read_header
from pipelines.weights.located import located
from pipelines.weights.network import MetaNetwork, build_on_meta, dtype_of
from pipelines.weights.recipe import Part, Recipe, Target, make_recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GGUF = ".gguf"


def load_network(
    card: CheckpointCard, component: Component, *, dtype: torch.dtype, device: torch.device, without: str | None = None
) -> Any:
    """Load one network of a model, ready for inference.

    Args:
        without: a part of the network that the stage does not need, such as an autoencoder's `encoder`: it is checked
            too, but takes no memory.

    Raises:
        WeightsUnavailable: its files are not here and cannot be fetched, or are not exactly this network.
    """
    prepared = prepare(card, component)
    return (prepared if without is None else prepared.less(without)).fill(dtype, device)


def check_network(card: CheckpointCard, component: Component) -> None:
    """Check that a network's files, once fetched, would load; this reads only their headers.

    Raises:
        WeightsUnavailable: as `load_network` would.
    """
    prepare(card, component)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network on the meta device, and how each of its tensors is made of its files."""

    meta: MetaNetwork
    header: Header
    recipe: Recipe
    gguf: GGUFLayout | None = None

    def less(self, part: str) -> Prepared:
        """The same without a part of the network."""
        delattr(self.meta.network, part)
        return replace(
            self, recipe={name: each for name, each in self.recipe.items() if not name.startswith(f"{part}.")}
        )

    def fill(self, dtype: torch.dtype, device: torch.device) -> Any:
        """Read the weights; returns the network."""
        from safetensors import safe_open

        if self.gguf is not None:
            return load_gguf(self.gguf, self.header, self.meta, self.recipe, dtype=dtype, device=device)
        module: Any = self.meta.network
        with ExitStack() as stack:
            files = {path: stack.enter_context(safe_open(path, framework="pt")) for path in self.header.files}

            def read(name: str) -> Tensor:
                tensor: Tensor = files[self.header.entries[name].file].get_tensor(name)
                return tensor

            state = {
                # A copy even where nothing changes: a file may be replaced while the network is in use.
                name: _made(part, read).to(device, dtype_of(module, name, dtype), copy=True).contiguous()
                for name, part in self.recipe.items()
            }
        state |= {name: state[first] for name, first in self.meta.tied.items()}
        module.load_state_dict(state, strict=True, assign=True)
        if self.meta.tied:
            module.tie_weights()
        # Parameters keep requiring gradients, as in a diffusers pipeline: torch.matmul folds a batch depending on that
        # flag, even where nothing is recorded, and the other kernel gives different bits.
        return module.to(device).eval()


def prepare(card: CheckpointCard, component: Component) -> Prepared:
    """Find out how a network is made of its files. Raises WeightsUnavailable if it cannot be."""
    network, found = card.networks()[component], located(card, component)
    is_gguf = network.gguf is not None and found.weights[0].suffix.lower() == GGUF
    header = read_gguf_header(found.weights[0]) if is_gguf else read_header(found.weights)
    return prepare_by(header, card, component, folder=found.folder, single=found.single)


def prepare_by(header: Header, card: CheckpointCard, component: Component, *, folder: Path, single: bool) -> Prepared:
    """Find out how a network is made of files with this header, wherever they are.

    Args:
        folder: the diffusers folder with the component's configuration.
        single: whether the header is of one file in its makers' layout.

    Raises:
        WeightsUnavailable: the files are not exactly this network.
    """
    network = card.networks()[component]
    meta = build_on_meta(network, folder, component)
    target = Target(component, str(folder), network.ignored)
    if network.gguf is not None and header.files[0].suffix.lower() == GGUF:
        return Prepared(meta, header, make_gguf_recipe(network.gguf, header, meta, target), network.gguf)
    recipe = make_recipe(header, meta.expected, network.file if single else network.folder, target)
    if (contradiction := network.contradiction(card, header.metadata)) is not None:
        raise WeightsUnavailable(f"{header.title} contradicts the card of {card.id}: {contradiction}; correct the card")
    return Prepared(meta, header, recipe)


def _made(part: Part, read: Callable[[str], Tensor]) -> Tensor:
    import torch

    tensor = read(part.name)
    if part.scale is not None:
        tensor = tensor.to(torch.float32) * read(part.scale).to(torch.float32)
    return part.transform(tensor)

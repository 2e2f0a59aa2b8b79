"""Fill a network from a GGUF file so that its weights stay quantised in memory.

A linear layer keeps its blocks as they are in the file and makes numbers of them for each call, by diffusers'
arithmetic; an embedding does so for the rows that it looks up. Everything else becomes numbers once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipelines.errors import WeightsUnavailable
from pipelines.weights.gguf_file import PLAIN, open_gguf
from pipelines.weights.header import Header
from pipelines.weights.network import MetaNetwork, dtype_of
from pipelines.weights.recipe import Layout, Recipe, Target, make_recipe

if TYPE_CHECKING:
    import torch
    from gguf.gguf_reader import ReaderTensor
    from torch import Tensor, nn

ARCHITECTURE = "general.architecture"
TITLES = {
    "t5": "a T5 encoder",
    "t5encoder": "a T5 encoder",
    "ltxv": "an LTX-Video transformer",
    "flux": "a FLUX image model",
    "wan": "a Wan video model",
    "hyvid": "a HunyuanVideo model",
    "llama": "a language model",
}
"""What the architectures that people mix up are."""


@dataclass(frozen=True, slots=True)
class GGUFLayout:
    """How GGUF files hold one kind of network."""

    title: str
    architectures: frozenset[str]
    """What `general.architecture` may say."""
    layout: Layout
    example: str
    """The name of a file that would do."""
    ignored: tuple[str, ...] = ()
    """Patterns of names that files have and the network does not need."""
    check: Callable[[Header, Any, Target], str | None] = lambda header, network, target: None  # noqa: ARG005
    """What else is wrong, in a sentence."""
    finish: Callable[[Any], None] = lambda network: None  # noqa: ARG005
    """Makes the filled network fit for packed weights."""


def make_gguf_recipe(gguf: GGUFLayout, header: Header, meta: MetaNetwork, target: Target) -> Recipe:
    """Find every tensor that a network wants in a GGUF file, from the header alone.

    Raises:
        WeightsUnavailable: the file holds something else, or a tensor is missing, left over or of another shape.
    """
    architecture = header.metadata.get(ARCHITECTURE, "")
    if architecture not in gguf.architectures:
        content = TITLES.get(architecture, f"a model of the architecture {architecture!r}")
        raise WeightsUnavailable(
            f"{header.title} holds {content}, not {gguf.title}: name a file such as {gguf.example} for "
            f"{target.component}"
        )
    if (problem := gguf.check(header, meta.network, target)) is not None:
        raise WeightsUnavailable(problem)
    # The recipe judges names and shapes; that each type can be read, the header's reader has checked.
    numbers = {name: replace(entry, dtype="F32") for name, entry in header.entries.items()}
    target = replace(target, ignored=(*target.ignored, *gguf.ignored))
    return make_recipe(replace(header, entries=numbers), meta.expected, gguf.layout, target)


def load_gguf(
    gguf: GGUFLayout, header: Header, meta: MetaNetwork, recipe: Recipe, *, dtype: torch.dtype, device: torch.device
) -> Any:
    """Fill a network by its recipe, ready for inference in `dtype`.

    Raises:
        WeightsUnavailable: the file is not whole any more.
    """
    from torch import nn

    network = meta.network
    reader = open_gguf(header.files[0])
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    packed: dict[str, nn.Module] = {}
    for name, part in recipe.items():
        path, _, leaf = name.rpartition(".")
        module, tensor, kept = network.get_submodule(path), tensors[part.name], dtype_of(network, name, dtype)
        if leaf == "weight" and isinstance(module, nn.Linear | nn.Embedding) and not _is_plain(tensor):
            packed[path] = _packed(module, tensor, kept, device)
            network.set_submodule(path, packed[path])
        else:
            trainable = getattr(module, leaf).requires_grad
            setattr(module, leaf, nn.Parameter(_numbers(tensor, kept, device), requires_grad=trainable))
    _tie(meta, packed)
    gguf.finish(network)
    left = [name for name, each in network.state_dict().items() if each.is_meta]
    assert not left, f"{left[0]} was not filled"
    return network.to(device).eval()


def _is_plain(tensor: ReaderTensor) -> bool:
    return tensor.tensor_type.name in PLAIN


def _packed(module: nn.Module, tensor: ReaderTensor, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The module that stands for a linear layer or an embedding and keeps its weight quantised."""
    import torch
    from diffusers.quantizers.gguf.utils import GGUFParameter

    from pipelines.weights.gguf_modules import PackedEmbedding, PackedLinear

    blocks = torch.from_numpy(tensor.data).to(device, copy=True)
    weight = GGUFParameter(blocks, quant_type=tensor.tensor_type)
    if not isinstance(module, torch.nn.Linear):
        return PackedEmbedding(weight, dtype)
    with torch.device("meta"):
        linear = PackedLinear(module.in_features, module.out_features, module.bias is not None, compute_dtype=dtype)
    linear.weight, linear.bias = weight, module.bias
    return linear


def _numbers(tensor: ReaderTensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor's numbers in `dtype`."""
    import torch
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    stored = torch.from_numpy(tensor.data)
    if tensor.tensor_type.name == "BF16":
        stored = stored.view(torch.bfloat16)
    elif not _is_plain(tensor):
        stored = dequantize_gguf_tensor(GGUFParameter(stored, quant_type=tensor.tensor_type))
    # A copy even where nothing changes: the file may be replaced while the network is in use.
    numbers: Tensor = stored.to(device, dtype, copy=True)
    return numbers


def _tie(meta: MetaNetwork, packed: dict[str, nn.Module]) -> None:
    """Give a filled tensor to the other modules that use it."""
    for name, first in meta.tied.items():
        path, _, leaf = name.rpartition(".")
        first_path, _, first_leaf = first.rpartition(".")
        if first_path in packed:
            meta.network.set_submodule(path, packed[first_path])
        else:
            weight = getattr(meta.network.get_submodule(first_path), first_leaf)
            setattr(meta.network.get_submodule(path), leaf, weight)

"""How each tensor of a network is made of the tensors in its files, or in one sentence why it cannot be.

The recipe is made from headers alone, so `prefetch` refuses exactly what a replica would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from pipelines.errors import WeightsUnavailable
from pipelines.weights.header import Header

if TYPE_CHECKING:
    from torch import Tensor

LORA = re.compile(r"lora_(A|B|up|down)\b|\.lora\.|^lora_|\.hada_w|\.lokr_|\.diff(_b)?$")
SCALES = (".scale_weight", ".weight_scale")
SCALED_BESIDES = re.compile(r"(^|\.)(scaled_fp8|scale_input|input_scale|comfy_quant)$")
"""What a scaled fp8 file has for multiplications in fp8, which are not done here."""
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True, slots=True)
class Part:
    """How one tensor of a network is made of one in the files."""

    name: str
    transform: Callable[[Tensor], Tensor] = lambda tensor: tensor
    """Applied to the tensor of that name: a transposition, a third of it, another shape."""
    scale: str | None = None
    """The name of the number by which the tensor is multiplied, for an fp8 tensor that was scaled."""


Recipe = Mapping[str, Part]
"""The part of each of a network's tensors, by the network's own names."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Under which names, and in which shapes, files hold a network."""

    find: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Recipe]
    """Given the file's tensors and the network's, both on the meta device: the parts of those that are there."""
    own: Callable[[Collection[str]], Collection[str]] = lambda names: names
    """Of the names in a file, those that belong to this network; others may belong to its neighbours in the file."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is being filled, in words."""

    component: str
    config: str
    """Where its configuration is."""
    ignored: Collection[str] = ()
    """Patterns of names in the files that are not needed."""


AS_NAMED = Layout(lambda stored, expected: {name: Part(name) for name in expected if name in stored})
"""The layout of a diffusers folder: the file's names are the network's."""


def make_recipe(header: Header, expected: Mapping[str, Tensor], layout: Layout, target: Target) -> Recipe:
    """Find every tensor that a network wants, and a use for every tensor that the files hold.

    Args:
        expected: the network's tensors, on the meta device.

    Raises:
        WeightsUnavailable: one is missing, left over or of another shape; the sentence says what the file is.
    """
    scales = _scales(header)
    besides = {*scales.values(), *filter(SCALED_BESIDES.search, header.entries)}
    stored = _without_contents(header, layout.own([name for name in header.entries if name not in besides]))
    found = layout.find(stored, expected)
    recipe = {name: Part(part.name, part.transform, scales.get(part.name)) for name, part in found.items()}
    missing = [name for name in expected if name not in recipe]
    used = {part.name for part in recipe.values()}
    unexpected = [
        name for name in stored if name not in used and not any(re.search(each, name) for each in target.ignored)
    ]
    if not header.entries:
        raise WeightsUnavailable(f"{header.title} has no tensors in it: fetch it again")
    if missing or unexpected:
        raise WeightsUnavailable(f"{header.title} {_difference(header, expected, missing, unexpected, target)}")
    for name, part in recipe.items():
        if header.entries[part.name].dtype not in FLOATS:
            dtype = header.entries[part.name].dtype
            raise WeightsUnavailable(
                f"{header.title}: {part.name} is {dtype}, a quantisation that cannot be read here; take the release's "
                f"own file, its fp8 file, or a GGUF"
            )
        shape, right = _shape(part, stored), tuple(expected[name].shape)
        if shape != right:
            raise WeightsUnavailable(
                f"{header.title} is of another version than the configuration in {target.config}: {part.name} has the "
                f"shape {list(header.entries[part.name].shape)}, not {list(right)}; take both of one release"
            )
    return recipe


def _scales(header: Header) -> dict[str, str]:
    """The scale of each scaled weight. Raises WeightsUnavailable for a scale that is not one number."""
    scales = {}
    for scale in header.entries:
        stem = next((scale.removesuffix(end) for end in SCALES if scale.endswith(end)), None)
        if stem is None or (weight := f"{stem}.weight") not in header.entries:
            continue
        if header.entries[scale].shape not in ((), (1,)):
            raise WeightsUnavailable(
                f"{header.title}: {weight} is scaled by blocks, which cannot be read here; take the release's own file"
            )
        scales[weight] = scale
    return scales


def _without_contents(header: Header, names: Collection[str]) -> dict[str, Tensor]:
    import torch

    return {name: torch.empty(header.entries[name].shape, device="meta") for name in names}


def _shape(part: Part, stored: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    try:
        return tuple(part.transform(stored[part.name]).shape)
    except (RuntimeError, ValueError):  # it cannot be taken of this shape
        return None


def _difference(
    header: Header, expected: Mapping[str, Tensor], missing: list[str], unexpected: list[str], target: Target
) -> str:
    """The rest of a sentence that begins with the file: how it differs, and what to do."""
    names, component = header.entries, target.component
    if sum(bool(LORA.search(name)) for name in names) > len(names) / 2:
        return f"is a LoRA, which changes a model and is none: name the model's own file for {component}"
    prefix = _common_prefix(names)
    if prefix and any(name.removeprefix(prefix) in expected for name in names):
        return f"has the {component} under names that begin with {prefix!r}: save its tensors without that prefix"
    if len(missing) == len(expected):
        kind = _kind(names)
        return f"holds no {component}{f'; it is {kind}' if kind else ''}: name the file or folder that does"
    lack = f"lacks {len(missing)} of the {component}'s {len(expected)} tensors, such as {missing[0]}" if missing else ""
    extra = f"has {_counted(unexpected)} too many, such as {unexpected[0]}" if unexpected else ""
    versions = f"of another version than the configuration in {target.config}; take both of one release"
    if missing and unexpected:
        return f"{lack}, and {extra}: it is {versions}"
    return f"{lack}: it is not whole, or {versions}" if missing else f"{extra}: it is {versions}"


def _counted(names: Collection[str]) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def _common_prefix(names: Collection[str]) -> str:
    """What all names begin with, up to a point; empty if there is nothing."""
    first, last = min(names).split("."), max(names).split(".")
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(first[:-1], last[:-1], strict=False))
    return "".join(f"{part}." for part, _ in shared)


KINDS = {
    r"input_blocks\.\d+\.\d+\.time_stack|temporal_transformer_blocks": "a Stable Video Diffusion model",
    r"patchify_proj|proj_in\.weight$|caption_projection": "an LTX-Video transformer",
    r"per_channel_statistics|last_time_embedder|latents_mean": "an LTX-Video autoencoder",
    r"SelfAttention": "a T5 text encoder",
    r"vision_model\.": "a CLIP image encoder",
    r"encoder\.mid_block|decoder\.mid_block": "an autoencoder",
}
"""What a file is by names in it, the more telling ones first."""


def _kind(names: Collection[str]) -> str | None:
    return next((kind for pattern, kind in KINDS.items() if any(re.search(pattern, name) for name in names)), None)

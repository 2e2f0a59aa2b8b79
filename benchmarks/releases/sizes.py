"""What the releases weigh at their full width: computed on the meta device, from the networks' configurations."""

from __future__ import annotations

from functools import cache

import torch

from benchmarks.releases import ltx, svd, svd_networks
from benchmarks.releases.files import Tensors, cast_to
from benchmarks.releases.networks import Width
from benchmarks.releases.t5 import t5_tensors
from pipelines.card import WEIGHTLESS, CheckpointCard, Component, Source


def gigabytes(tensors: Tensors) -> float:
    """The tensors' size, in 10^9 bytes."""
    return sum(tensor.nbytes for tensor in tensors.values()) / 1e9


def download_gb(card: CheckpointCard) -> float:
    """What `prefetch` fetches for a card, in 10^9 bytes; a file that holds two components counts once."""
    components = {each for parts in card.STAGES.values() for each in parts} - WEIGHTLESS
    fetched: dict[tuple[str | None, str], float] = {}
    for component in components:
        source = card.component_source(component)
        place = (source.repo, source.file or component)
        if place not in fetched:
            fetched[place] = _published_gb(source, component)
    return sum(fetched.values())


@cache
def _published_gb(source: Source, component: Component) -> float:
    return gigabytes(_published(source, component))


def _published(source: Source, component: Component) -> Tensors:
    assert source.repo is not None, "a release is in a repository"
    if source.file is not None:
        release = ltx.SINGLE_FILES[source.file]
        return ltx.single_file(release, Width.FULL, fp8=source.file != release.file)
    if source.repo in svd.REPOSITORIES:
        return _of_svd(svd.REPOSITORIES[source.repo].name, component, source.variant)
    if component == "text_encoder":
        return t5_tensors(Width.FULL)
    tensors = {"transformer": ltx.transformer_tensors, "vae": ltx.vae_tensors}[component]
    return tensors(ltx.REPOSITORIES[source.repo], Width.FULL)


def _of_svd(release: str, component: Component, variant: str | None) -> Tensors:
    build = {"unet": svd_networks.unet, "vae": svd_networks.vae, "image_encoder": svd_networks.clip}[component]
    dtype = torch.float16 if variant == svd.VARIANT else torch.float32
    return cast_to(dtype, build(release, Width.FULL).state_dict())

"""Every LTX-Video release of the catalogue, with its own card, in its own files, with narrow networks.

diffusers loads them with its own loaders and renders what it can, with the noise of 0.9.1's decoder seeded as here.
What it cannot (spatio-temporal guidance, guidance lists, CFG-Zero*, stochastic sampling) is compared with
`benchmarks.plain_ltx`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.fidelity.comparison import PROMPT, Case, Subject, in_memory
from benchmarks.fidelity.tiny import ltx_subject
from benchmarks.plain_ltx import plain_latents
from benchmarks.releases import build_release
from benchmarks.releases.files import write_file
from pipelines.card import Source
from pipelines.catalogue import get_card, load_catalogue, read_card
from pipelines.local import LocalPipeline
from pipelines.ltx.card import LTXCard
from pipelines.ltx.image import given_picture
from pipelines.ltx.reference import pipeline_for

SIZE = {"width": 64, "height": 64, "num_frames": 9}
WIDE = {"width": 96, "height": 64, "num_frames": 17}
BARE = {"image_blur": False, "image_crf": None, "image_cond_noise_scale": 0.0}
"""The picture as diffusers takes it by default."""
GUIDED = {**SIZE, "num_inference_steps": 4, "stg_scale": 0.0}
ONE_BY_ONE = "passes that run one after the other sum in another order"
FEWER_ROWS = "a matrix product of fewer rows may sum in another order"
DETERMINISTIC = {"stochastic_sampling": False}
CONSTANT = {**SIZE, "num_inference_steps": 6, "stg_scale": 0.0, "guidance_scale": 5.0, "guidance_rescale": 0.7}
"""What diffusers' documentation advises for the 13B dev models, in fewer steps; it has no CFG-Zero*."""
NOT_STAR = {"cfg_star_rescale": False}

BEFORE_095 = [
    Case({**GUIDED, **WIDE}),
    Case({**GUIDED, "guidance_scale": 1.0}),
    Case({**GUIDED, "guidance_rescale": 0.7}),
    Case(GUIDED, from_image=True),
    Case({**GUIDED, **WIDE}, from_image=True, settings={"image_blur": False, "image_crf": None}),
]
SINCE_095 = [*BEFORE_095[:4], Case({**GUIDED, **WIDE}, from_image=True, settings=BARE)]
DISTILLED = [
    *(Case({**SIZE, "num_inference_steps": steps}) for steps in (8, 7, 4)),
    Case(WIDE, from_image=True),
    Case(SIZE, from_image=True, settings=BARE),
]
BY_DIFFUSERS = {
    "ltx-video-0.9.0": BEFORE_095,
    "ltx-video-0.9.1": BEFORE_095,
    "ltx-video-0.9.5": SINCE_095,
    "ltx-video-0.9.6-dev": SINCE_095[::3],
    "ltx-video-0.9.6-distilled": [Case(SIZE, image, DETERMINISTIC) for image in (False, True)],
    "ltx-video-0.9.7-13b-dev": [Case(CONSTANT, image, NOT_STAR) for image in (False, True)],
    "ltx-video-0.9.7-13b-distilled": DISTILLED[::3],
    "ltx-video-0.9.8-13b-dev": [Case(CONSTANT, image, NOT_STAR) for image in (False, True)],
    "ltx-video-0.9.8-13b-distilled": DISTILLED,
    "ltx-video-0.9.8-2b-distilled": DISTILLED,
}
FEW = {**SIZE, "num_inference_steps": 6}


def _with_stg(fields: dict[str, Any], *, from_image: bool = False, **settings: Any) -> Case:
    """A case whose perturbed pass leaves attention out, where the plain reference computes it and throws it away."""
    return Case(fields, from_image, settings, bound=5e-6, reason=FEWER_ROWS)


BOTH = [_with_stg(FEW), _with_stg({**FEW, **WIDE}, from_image=True)]
SEPARATE = Case(FEW, settings={"joint_guidance": False}, bound=5e-6, reason=ONE_BY_ONE)
LISTS = [_with_stg(SIZE), _with_stg({**SIZE, "num_inference_steps": 10}, from_image=True)]
PLAINLY = {
    "ltx-video-0.9.0": [*BOTH, SEPARATE],
    "ltx-video-0.9.1": BOTH[:1],
    "ltx-video-0.9.5": [
        *BOTH,
        SEPARATE,
        _with_stg({**FEW, "guidance_scale": 1.0}),
        _with_stg({**FEW, "stg_scale": 2.5}, from_image=True, stg_rescale=0.0),
    ],
    "ltx-video-0.9.6-dev": BOTH[:1],
    "ltx-video-0.9.6-distilled": [
        Case(SIZE), Case({**SIZE, "num_inference_steps": 4}),
        Case(WIDE, from_image=True), Case(SIZE, from_image=True, settings=BARE),
    ],
    "ltx-video-0.9.7-13b-dev": LISTS,
    "ltx-video-0.9.8-13b-dev": LISTS,
}  # fmt: skip
MODELS = [id for id, card in load_catalogue().items() if isinstance(card, LTXCard) and card.source.repo]


def subjects(folder: Path) -> Iterator[Subject]:
    """Every release, against diffusers and against the plain reference."""
    for model in MODELS:
        yield from release(model, folder)


def release(model: str, folder: Path) -> Iterator[Subject]:
    """One release.

    Raises:
        KeyError: it is new, and no mode is named here in which it could be compared.
    """
    card = local_card(model, folder)
    staged, pipeline = LocalPipeline(card, gpu=False), loaded(card)
    yield ltx_subject(model, staged, pipeline, BY_DIFFUSERS[model])

    def plainly(parameters: Any, image: Image.Image | None) -> Tensor:
        seen = None if image is None else given_picture(image, parameters)
        return plain_latents(pipeline_for(pipeline, parameters, image), parameters, PROMPT, seen)

    if model in PLAINLY:
        yield Subject(model, staged, plainly, PLAINLY[model], lambda *_: "plain, latents", latents_only=True)


def local_card(model: str, folder: Path) -> LTXCard:
    """The catalogue's card in float32, with its repositories as folders; they are written first."""
    build_release(model, folder)
    for vae in folder.glob("*/*/vae/*.safetensors"):
        _scale_injected_noise(vae)

    def here(source: Source) -> dict[str, str]:
        assert source.repo is not None
        if source.file is None:
            return {"folder": str(folder / source.repo)}
        return {"file": str(folder / source.repo / source.file), "config": str(folder / str(source.config))}

    of_hub = get_card(model)
    assert isinstance(of_hub, LTXCard)
    card = read_card(
        {
            **of_hub.model_dump(),
            "source": here(of_hub.source),
            "components": {name: here(source) for name, source in of_hub.components.items()},
            "dtype": {"cpu": "float32", "cuda": "float32"},
        }
    )
    assert isinstance(card, LTXCard)
    return card


def loaded(card: LTXCard) -> Any:
    """A pipeline of a release by diffusers' own loaders, in float32."""
    source, networks = card.source, {}
    if source.file is not None:
        for name, kind in (("transformer", LTXVideoTransformer3DModel), ("vae", AutoencoderKLLTXVideo)):
            networks[name] = kind.from_single_file(
                source.file, config=source.config, subfolder=name, dtype=torch.float32
            )
    folder = source.config or source.folder
    return in_memory(LTXPipeline.from_pretrained(folder, dtype=torch.float32, **networks))


def _scale_injected_noise(vae: Path) -> None:
    """Let the noise that 0.9.1's decoder adds to its own layers be seen; a new network has scaled it with 0."""
    tensors = load_file(vae)
    scales = {name: torch.full_like(tensor, 0.5) for name, tensor in tensors.items() if ".per_channel_scale" in name}
    if scales:
        write_file(vae, tensors | scales)

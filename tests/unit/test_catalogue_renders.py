"""Every released model of the catalogue loads from its release on a hub, and renders with its own options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL.Image import Image

from benchmarks.fidelity import picture
from benchmarks.releases import build_release, ltx, svd
from benchmarks.releases.ltx_releases import FILES
from pipelines.card import CheckpointCard
from pipelines.catalogue import get_card, load_catalogue, read_card
from pipelines.local import LocalPipeline
from pipelines.requests import GenerationRequest, resolve
from pipelines.weights.check import check
from tests.harness.hub import Hub, run_hub, use_hub

QUICK = {"ltx-video-0.9.8-2b-distilled"}  # of a single file and a diffusers repository
RELEASED = [id for id, card in load_catalogue().items() if isinstance(card, CheckpointCard) and card.source.repo]
SMALL = {"width": 64, "height": 64, "num_frames": 9}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with run_hub() as running:
        use_hub(running, tmp_path / "home", monkeypatch)
        yield running


def published(model: str, hub: Hub, folder: Path) -> CheckpointCard:
    """The card of a model whose release the hub has."""
    build_release(model, folder)
    for repository in folder.glob("*/*"):
        hub.push_folder(str(repository.relative_to(folder)), repository)
    card = get_card(model)
    assert isinstance(card, CheckpointCard)
    return card


def render(card: CheckpointCard, image: Image | None) -> torch.Tensor:
    """A small video with the card's own options."""
    prompt = "a red circle moves left" if card.TAKES_PROMPT else None
    request = GenerationRequest.model_validate({**SMALL, "seed": 1, "prompt": prompt})
    parameters = resolve(request, card, has_image=image is not None)
    options = {**card.values({}), **SMALL}
    assert parameters.model_dump(exclude={"family", "seed"}) == options
    return LocalPipeline(card, gpu=False).generate(prompt or "", parameters, image)


@pytest.mark.parametrize(
    "model", [model if model in QUICK else pytest.param(model, marks=pytest.mark.long) for model in RELEASED]
)
def test_a_release_renders(model: str, hub: Hub, tmp_path: Path) -> None:
    card = published(model, hub, tmp_path / "releases")
    check(card)
    image = picture() if card.NEEDS_IMAGE or model in QUICK else None
    video = render(card, image)
    assert video.shape == (9, 3, 64, 64)
    assert torch.isfinite(video).all()
    assert video.std() > 0.01, "an image of one colour would be a decoder without weights"


@pytest.mark.long
def test_file_and_repository_of_a_release_are_the_same_networks(hub: Hub, tmp_path: Path) -> None:
    card = published("ltx-video-0.9.5", hub, tmp_path / "releases")
    file = "ltx-video-2b-v0.9.5.safetensors"
    ltx.write_single_file(tmp_path / "file", file)
    hub.push_folder(FILES, tmp_path / "file")
    source = {"repo": FILES, "file": file, "config": card.source.repo}
    rest = {each: card.source.model_dump() for each in ("text_encoder", "tokenizer")}
    of_file = read_card({**card.model_dump(), "source": source, "components": rest})
    assert isinstance(of_file, CheckpointCard)
    check(of_file)
    assert_same(of_file, card, denoiser="transformer", image="vae", decoder="vae")


@pytest.mark.long
def test_file_and_repository_of_stable_video_diffusion_are_the_same_networks(hub: Hub, tmp_path: Path) -> None:
    card = published("svd-xt-1.1", hub, tmp_path / "releases")
    release = svd.REPOSITORIES[card.source.repo or ""]
    svd.write_single_files(tmp_path / "file", release.repository)
    source = {"file": str(tmp_path / "file" / release.file), "config": release.repository}
    of_file = read_card({**card.model_dump(), "source": source})
    assert isinstance(of_file, CheckpointCard)
    check(of_file)
    assert card.source.variant == "fp16", "the file is in half precision too"
    assert_same(of_file, card, denoiser="unet", image="clip", decoder="vae")


def assert_same(one: CheckpointCard, other: CheckpointCard, **networks: str) -> None:
    """The named network of each named stage has equal tensors in two models."""
    pipelines = [LocalPipeline(card, gpu=False) for card in (one, other)]
    for stage, network in networks.items():
        ours, theirs = (getattr(getattr(pipeline, stage), network).state_dict() for pipeline in pipelines)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

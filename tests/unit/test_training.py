"""What ltx-tiny is given in training is what diffusers' pipeline gives it when it samples."""

from __future__ import annotations

import random

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXConditionPipeline

from pipelines.card import Compression
from pipelines.paths import ROOT
from training.ltx import given
from training.world import render, sample_scene

COMPRESSION = Compression(spatial=16, temporal=2)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLLTXVideo:
    folder = ROOT / "models" / "ltx-tiny"
    return AutoencoderKLLTXVideo.from_pretrained(folder, subfolder="vae", dtype=torch.float32).eval()


def test_a_keyframe_is_the_latent_of_one_picture_at_its_time(vae: AutoencoderKLLTXVideo) -> None:
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(20)]
    keys = given.keyframes(vae, rng, scenes, (9, 64, 64), COMPRESSION, fps=8)
    assert keys.latents.shape == (20, 16, 32)
    clips = render(scenes, 9, 64, 64)
    frames = (keys.positions[:, 0, 0] * 8).round().long()
    assert frames.min() >= 1
    assert frames.max() == 8
    for index, frame in enumerate(frames.tolist()):
        ids = LTXConditionPipeline._prepare_video_ids(1, 1, 4, 4)
        ids = LTXConditionPipeline._scale_video_ids(ids, 16, 2, frame_index=frame).float()
        ids[:, 0] = ids[:, 0] * (1.0 / 8)
        assert torch.allclose(keys.positions[index : index + 1], ids)
        with torch.no_grad():
            decoded = vae.encode(clips[index : index + 1, :, frame : frame + 1]).latent_dist.mode()
        mean, std = (part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std))
        expected = ((decoded - mean) / std)[0, :, 0].permute(1, 2, 0).flatten(0, 1)
        assert torch.nn.functional.cosine_similarity(keys.latents[index].flatten(), expected.flatten(), dim=0) > 0.95


def test_only_whole_first_frames_are_given_and_never_all() -> None:
    torch.manual_seed(0)
    mask = given.given_first(batch=1000, frames=5, tokens=16).view(-1, 5, 16)
    assert torch.equal(mask.all(2), mask.any(2)), "whole frames"
    counts = mask.all(2).sum(1)
    assert torch.equal(mask.all(2).long().cumprod(1).sum(1), counts), "without gaps, from the first on"
    assert set(counts.tolist()) == {0, 1, 2, 3, 4}
    assert (counts == 1).float().mean() == pytest.approx(given.FIRST_FRAME, abs=0.05)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_short_clip_is_never_given_whole(frames: int) -> None:
    torch.manual_seed(0)
    assert not given.given_first(batch=1000, frames=frames, tokens=4).all(1).any()


def test_given_tokens_have_the_pipelines_noise_or_none() -> None:
    torch.manual_seed(0)
    clean, level = torch.zeros(4000, 1, 8), torch.full((4000,), 0.8)
    spread = given.noised(clean, level).std(dim=(1, 2))
    some = spread > 0
    assert some.float().mean() == pytest.approx(0.5, abs=0.05)
    assert spread[some].square().mean().sqrt() == pytest.approx(0.15 * 0.8**2, rel=0.1)


def test_levels_near_one_are_trained_since_half_of_all_steps_are_there() -> None:
    torch.manual_seed(0)
    levels = given.noise_levels(4000)
    assert levels.min() > 0
    assert levels.max() <= 1
    assert (levels >= 0.975).float().mean() > 0.04

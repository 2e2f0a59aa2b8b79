"""Judge ltx-tiny on 200 prompts and seeds never used in training, and on given first and last frames."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
import torch

from pipelines.card import CheckpointCard
from pipelines.catalogue import get_card
from pipelines.local import LocalPipeline
from pipelines.ltx.card import LTXCard
from pipelines.requests import GenerationRequest, resolve
from training.detect import Seen, detect
from training.judge import Row, Verdict, frame_psnr, mp4_frames, shortfalls, to_picture
from training.ltx.vae import reconstruct
from training.psnr import psnr
from training.world import HELD_OUT, TRAINING_COMBINATIONS, Scene, judged_prompts, render, sample_scene

ATTRIBUTES = ("color", "shape", "motion", "background")
BOUNDS = {"color": 95.0, "motion": 95.0, "background": 95.0, "shape": 85.0}
PSNR_BOUND = 28.0
SECONDS_BOUND = 1.0
KEYFRAME_BOUND = 22.0
SEEN_COMBINATIONS, PICTURES = 160, 60


def evaluate() -> Verdict:
    """Run every judgement."""
    pipeline = LocalPipeline(get_card("ltx-tiny"), threads=2)
    unseen = random.Random("evaluation")
    scenes = [sample_scene(unseen, TRAINING_COMBINATIONS) for _ in range(SEEN_COMBINATIONS)]
    held_out = [sample_scene(unseen, [combination]) for combination in sorted(HELD_OUT)]
    started = time.perf_counter()
    seen = [_generate(pipeline, scene, seed, unseen) for seed, scene in enumerate(scenes + held_out, start=10**6)]
    seconds = (time.perf_counter() - started) / len(seen)
    pictured = [sample_scene(unseen, TRAINING_COMBINATIONS) for _ in range(PICTURES)]
    first_frames: list[float] = []
    animated = [
        _generate(pipeline, scene, seed, unseen, from_image=True, on_first_frame=first_frames.append)
        for seed, scene in enumerate(pictured, start=2 * 10**6)
    ]
    last_frames = keyframe_psnr(pictured, unseen)
    met = sum(each >= KEYFRAME_BOUND for each in last_frames)
    rows = _rows(scenes + held_out, seen)
    columns = zip(rows, _rows(held_out, seen[len(scenes) :]), _rows(pictured, animated), strict=True)
    quality = vae_psnr()
    table = [
        "| ltx-tiny | text to video | of these never combined in training | image to video | bound |",
        "|---|---|---|---|---|",
    ]
    for row, new, image in columns:
        bound = f">= {BOUNDS[row.name]:.0f} %" if row.name in BOUNDS else ""
        table.append(f"| {row.name} | {row} | {new} | {image} | {bound} |")
    table += [
        f"| autoencoder, unseen clips | {quality:.2f} dB | | | >= {PSNR_BOUND:.0f} dB |",
        f"| first frame against the input | | | {np.mean(first_frames):.2f} dB | |",
        f"| last frame against a keyframe given there, by diffusers' pipeline | | | {np.mean(last_frames):.2f} dB; "
        f"{met} of {len(last_frames)} at least {KEYFRAME_BOUND:.0f} dB | >= {KEYFRAME_BOUND:.0f} dB |",
        f"| compute per video, 2 threads | {seconds:.2f} s | | | < {SECONDS_BOUND:.0f} s |",
    ]
    missed = shortfalls(rows, BOUNDS)
    if seconds > SECONDS_BOUND:
        missed.append(f"compute per video: {seconds:.2f} s of {SECONDS_BOUND:.0f} s")
    if quality < PSNR_BOUND:
        missed.append(f"autoencoder: {quality:.2f} dB of {PSNR_BOUND:.0f} dB")
    if np.mean(last_frames) < KEYFRAME_BOUND:
        missed.append(f"keyframe at the end: {np.mean(last_frames):.2f} dB of {KEYFRAME_BOUND:.0f} dB")
    return Verdict(table, missed)


def keyframe_psnr(scenes: list[Scene], rng: random.Random) -> list[float]:
    """How well videos meet a keyframe given as their last frame, in dB, by diffusers' own pipeline."""
    from diffusers import LTXConditionPipeline
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    from pipelines.ltx.reference import reference_video

    card = get_card("ltx-tiny")
    assert isinstance(card, LTXCard)
    pipeline = LTXConditionPipeline.from_pretrained(card.source.path(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    met = []
    for seed, scene in enumerate(scenes, start=3 * 10**6):
        prompt = rng.choice(judged_prompts(scene))
        parameters = card.default_parameters().model_copy(update={"seed": seed})
        clip = render([scene], parameters.num_frames, parameters.height, parameters.width)
        picture = to_picture(clip[0, :, -1])
        keyframe = LTXVideoCondition(image=picture, frame_index=parameters.num_frames - 1)
        video = reference_video(pipeline, parameters, prompt, conditions=keyframe)
        met.append(frame_psnr(mp4_frames(video, parameters.fps)[-1], picture))
    return met


def vae_psnr(clips: int = 100) -> float:
    """Mean reconstruction PSNR in dB on clips never seen in training."""
    from diffusers import AutoencoderKLLTXVideo

    from pipelines.weights.located import located

    card = get_card("ltx-tiny")
    assert isinstance(card, CheckpointCard)
    folder = located(card, "vae").folder
    vae = AutoencoderKLLTXVideo.from_pretrained(folder, subfolder="vae", dtype=torch.float32).eval()
    rng = random.Random("autoencoder")
    batches = [render([sample_scene(rng) for _ in range(20)], 9, 64, 64) for _ in range(clips // 20)]
    return float(torch.cat([psnr(reconstruct(vae, batch), batch) for batch in batches]).mean())


def _generate(
    pipeline: LocalPipeline,
    scene: Scene,
    seed: int,
    rng: random.Random,
    *,
    from_image: bool = False,
    on_first_frame: Callable[[float], None] = lambda _: None,
) -> Seen:
    prompt = rng.choice(judged_prompts(scene))
    parameters = resolve(GenerationRequest(prompt=prompt, seed=seed), pipeline.card)
    image = None
    if from_image:
        first = render([scene], parameters.num_frames, parameters.height, parameters.width)[0, :, 0]  # [3, H, W]
        image = to_picture(first)
    frames = mp4_frames(pipeline.generate(prompt, parameters, image), parameters.fps)
    if image is not None:
        on_first_frame(frame_psnr(frames[0], image))
    return detect(frames)


def _rows(scenes: list[Scene], seen: list[Seen]) -> list[Row]:
    pairs = list(zip(scenes, seen, strict=True))
    right = [{name: getattr(a, name) == getattr(b, name) for name in ATTRIBUTES} for a, b in pairs]
    rows = [Row(name, sum(each[name] for each in right), len(right)) for name in ATTRIBUTES]
    return [*rows, Row("all four", sum(all(each.values()) for each in right), len(right))]

"""Judge ltx-tiny on 200 prompts and seeds never used in training, from the frames of the mp4 a service would send."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipelines.catalogue import get_card
from pipelines.local import LocalPipeline
from pipelines.requests import GenerationRequest, resolve
from pipelines.video import encode_mp4, read_frames
from training.detect import Seen, detect
from training.vae import psnr, reconstruct
from training.world import HELD_OUT, TRAINING_COMBINATIONS, Scene, judged_prompts, render, sample_scene

ATTRIBUTES = ("color", "shape", "motion", "background")
BOUNDS = {"color": 95.0, "motion": 95.0, "background": 95.0, "shape": 85.0}
PSNR_BOUND = 28.0
SECONDS_BOUND = 1.0
SEEN_COMBINATIONS, PICTURES = 160, 60


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    correct: int
    of: int

    @property
    def percent(self) -> float:
        return 100 * self.correct / self.of


@dataclass(frozen=True, slots=True)
class Verdict:
    """Everything the table says."""

    rows: list[Row]
    held_out: list[Row]
    image_rows: list[Row]
    vae_psnr: float
    first_frame_psnr: float
    seconds_per_video: float

    def failures(self) -> list[str]:
        """The bounds that are missed, as sentences."""
        missed = [
            f"{row.name}: {row.percent:.1f} % of {BOUNDS[row.name]:.0f} %"
            for row in self.rows
            if row.name in BOUNDS and row.percent < BOUNDS[row.name]
        ]
        if self.seconds_per_video > SECONDS_BOUND:
            missed.append(f"compute per video: {self.seconds_per_video:.2f} s of {SECONDS_BOUND:.0f} s")
        if self.vae_psnr < PSNR_BOUND:
            missed.append(f"autoencoder: {self.vae_psnr:.2f} dB of {PSNR_BOUND:.0f} dB")
        return missed


def evaluate(model: str = "ltx-tiny") -> Verdict:
    """Run every judgement."""
    pipeline = LocalPipeline(get_card(model), threads=2)
    unseen = random.Random("evaluation")
    scenes = [sample_scene(unseen, TRAINING_COMBINATIONS) for _ in range(SEEN_COMBINATIONS)]
    held_out = [sample_scene(unseen, [combination]) for combination in sorted(HELD_OUT)]
    started = time.perf_counter()
    seen = [_generate(pipeline, scene, seed, unseen) for seed, scene in enumerate(scenes + held_out, start=10**6)]
    seconds = (time.perf_counter() - started) / len(seen)
    pictured = [sample_scene(unseen, TRAINING_COMBINATIONS) for _ in range(PICTURES)]
    animated, first_frames = [], []
    for seed, scene in enumerate(pictured, start=2 * 10**6):
        quality: list[float] = []
        animated.append(_generate(pipeline, scene, seed, unseen, from_image=True, on_first_frame=quality.append))
        first_frames += quality
    return Verdict(
        rows=_rows(scenes + held_out, seen),
        held_out=_rows(held_out, seen[len(scenes) :]),
        image_rows=_rows(pictured, animated),
        vae_psnr=vae_psnr(model),
        first_frame_psnr=float(np.mean(first_frames)),
        seconds_per_video=seconds,
    )


def vae_psnr(model: str = "ltx-tiny", clips: int = 100) -> float:
    """Mean reconstruction PSNR in dB on clips never seen in training."""
    from diffusers import AutoencoderKLLTXVideo

    from pipelines.weights import locate

    vae = AutoencoderKLLTXVideo.from_pretrained(
        locate(get_card(model), "vae"), subfolder="vae", dtype=torch.float32
    ).eval()
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
    first = None
    if from_image:
        first = render([scene], parameters.num_frames, parameters.height, parameters.width)[0, :, 0]  # [3, H, W]
        image = Image.fromarray(((first + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    video = pipeline.generate(prompt, parameters, image)  # [F, 3, H, W]
    if first is not None:
        error = (video[0] - (first + 1) / 2).square().mean()
        on_first_frame(float(-10 * error.log10()))
    pixels = (video * 255).round().byte().permute(0, 2, 3, 1).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        path.write_bytes(encode_mp4(pixels, parameters.fps, {}))
        return detect(read_frames(path))


def _rows(scenes: list[Scene], seen: list[Seen]) -> list[Row]:
    rows = [
        Row(name, sum(getattr(a, name) == getattr(b, name) for a, b in zip(scenes, seen, strict=True)), len(scenes))
        for name in ATTRIBUTES
    ]
    whole = sum(
        all(getattr(a, name) == getattr(b, name) for name in ATTRIBUTES) for a, b in zip(scenes, seen, strict=True)
    )
    return [*rows, Row("all four", whole, len(scenes))]

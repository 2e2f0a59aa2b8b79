"""Judge svd-tiny on 100 pictures never used in training, each moved by three motion buckets."""

from __future__ import annotations

import random
import time

import numpy as np

from pipelines.catalogue import get_card
from pipelines.local import LocalPipeline
from pipelines.requests import GenerationRequest, resolve
from training.detect import Seen, detect
from training.judge import Row, Verdict, frame_psnr, mp4_frames, shortfalls, to_picture
from training.svd.scenes import picture_scene, render_pictures, travel
from training.world import Scene

PICTURES = 100
JUDGED_BUCKETS = (40, 127, 220)
BOUNDS = {"color": 95.0, "background": 95.0, "direction": 95.0, "further with each bucket": 90.0}
PSNR_BOUND = 22.0


def evaluate() -> Verdict:
    """Run every judgement."""
    pipeline = LocalPipeline(get_card("svd-tiny"), threads=2)
    unseen = random.Random("svd evaluation")
    scenes = [picture_scene(unseen) for _ in range(PICTURES)]
    started = time.perf_counter()
    judged = [_judge(pipeline, scene, seed) for seed, scene in enumerate(scenes, start=10**6)]
    seconds = (time.perf_counter() - started) / (PICTURES * len(JUDGED_BUCKETS))
    seen = [videos for videos, _ in judged]
    first_frame = float(np.mean([quality for _, quality in judged]))
    pairs = [(scene, video) for scene, videos in zip(scenes, seen, strict=True) for video in videos]
    rows = [
        Row("color", sum(scene.color == video.color for scene, video in pairs), len(pairs)),
        Row("background", sum(scene.background == video.background for scene, video in pairs), len(pairs)),
        Row("direction", sum(video.motion == "right" for _, video in pairs), len(pairs)),
        Row("shape", sum(scene.shape == video.shape for scene, video in pairs), len(pairs)),
        Row("further with each bucket", sum(a.dx < b.dx < c.dx for a, b, c in seen), PICTURES),
    ]
    table = ["| svd-tiny | image to video | bound |", "|---|---|---|"]
    for row in rows:
        bound = f">= {BOUNDS[row.name]:.0f} %" if row.name in BOUNDS else ""
        table.append(f"| {row.name} | {row} | {bound} |")
    for index, bucket in enumerate(JUDGED_BUCKETS):
        distance = np.mean([videos[index].dx for videos in seen])
        table.append(f"| way at motion_bucket_id {bucket} | {distance:.3f} of the side | taught {travel(bucket):.3f} |")
    table += [
        f"| first frame against the input | {first_frame:.2f} dB | >= {PSNR_BOUND:.0f} dB |",
        f"| compute per video, 2 threads | {seconds:.2f} s | |",
    ]
    missed = shortfalls(rows, BOUNDS)
    if first_frame < PSNR_BOUND:
        missed.append(f"first frame: {first_frame:.2f} dB of {PSNR_BOUND:.0f} dB")
    return Verdict(table, missed)


def _judge(pipeline: LocalPipeline, scene: Scene, seed: int) -> tuple[list[Seen], float]:
    """What the videos of one picture show, and their mean first-frame PSNR."""
    defaults = pipeline.card.defaults
    image = to_picture(render_pictures([scene], defaults.height, defaults.width)[0])
    seen, quality = [], []
    for bucket in JUDGED_BUCKETS:
        request = GenerationRequest(seed=seed, motion_bucket_id=bucket)
        parameters = resolve(request, pipeline.card, has_image=True)
        frames = mp4_frames(pipeline.generate("", parameters, image), parameters.fps)
        seen.append(detect(frames))
        quality.append(frame_psnr(frames[0], image))
    return seen, float(np.mean(quality))

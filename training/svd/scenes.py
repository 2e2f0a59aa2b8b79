"""What svd-tiny is taught: a picture of a coloured shape, which moves right, as far as its motion bucket says."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from training.world import COMBINATIONS, Scene, render

BUCKETS = (1, 255)
NEAREST, FURTHEST = 0.14, 0.42  # travel over the whole clip at the lowest and the highest bucket
RADII = (0.18, 0.24)
LEAVING = 0.2  # of the training clips begin anywhere, so that some shapes leave the frame

EXAMPLE = Scene("orange", "circle", "still", "black", radius=0.22, travel=0.0, offset=(-0.25, 0.0))


def travel(motion_bucket_id: float) -> float:
    """How far the shape moves over a clip, as a share of the frame's shorter side."""
    low, high = BUCKETS
    return NEAREST + (FURTHEST - NEAREST) * (motion_bucket_id - low) / (high - low)


def picture_scene(rng: random.Random) -> Scene:
    """A shape left of the middle, still inside the frame after the longest way: what the model is judged on."""
    return _scene(rng, roomy=True)


def training_scene(rng: random.Random) -> Scene:
    """Mostly such pictures, some with the shape anywhere."""
    return _scene(rng, roomy=rng.random() >= LEAVING)


def pushed(scene: Scene, motion_bucket_id: float) -> Scene:
    """The scene in motion: the picture is its first frame."""
    distance = travel(motion_bucket_id)
    start, y = scene.offset
    return Scene(scene.color, scene.shape, "right", scene.background, scene.radius, distance, (start + distance / 2, y))


def render_pictures(scenes: list[Scene], height: int, width: int) -> Tensor:
    """[B, 3, H, W] float32 in [-1, 1]."""
    return render(scenes, 1, height, width)[:, :, 0]


def render_pushed(scenes: list[Scene], buckets: list[float], num_frames: int, height: int, width: int) -> Tensor:
    """[B, F, 3, H, W] float32 in [-1, 1]; the first frame is the picture."""
    moving = [pushed(scene, bucket) for scene, bucket in zip(scenes, buckets, strict=True)]
    return torch.transpose(render(moving, num_frames, height, width), 1, 2)


def _scene(rng: random.Random, *, roomy: bool) -> Scene:
    color, shape, _, background = rng.choice(COMBINATIONS)
    radius = rng.uniform(*RADII)
    side = 0.5 - radius
    start = rng.uniform(-side, side - FURTHEST if roomy else side)
    return Scene(color, shape, "still", background, radius, 0.0, (start, rng.uniform(-side, side)))

"""The synthetic world the demo models are trained on: one coloured shape on a plain background.

It knows how a scene is described (the grammar), drawn (the renderer) and drawn from (the sampler).
It does not know any model. Everything is a pure function of a `random.Random`, so a seed is a data set.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

RGB = tuple[int, int, int]

COLORS: dict[str, RGB] = {
    "red": (230, 25, 25),
    "green": (25, 190, 50),
    "blue": (40, 65, 240),
    "yellow": (240, 215, 25),
    "purple": (150, 40, 190),
    "orange": (255, 130, 15),
}
BACKGROUNDS: dict[str, RGB] = {"black": (8, 8, 8), "white": (247, 247, 247), "gray": (128, 128, 128)}
SHAPES = ("circle", "square", "triangle")
MOTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}

MOVING_PHRASES = (
    "{a} {color} {shape} moves {motion} on a {background} background",
    "{a} {color} {shape} moving {motion}, {background} background",
    "{a} {color} {shape} going {motion} over a {background} background",
    "video of {a} {color} {shape} that moves {motion}. the background is {background}",
    "{color} {shape} moves {motion} on {background}",
    "{a} {color} {shape} slides to the {motion} on a {background} background",
    "{a} {color} {shape} is moving {motion} across a {background} background",
)
STILL_PHRASES = (
    "{a} {color} {shape} stays still on a {background} background",
    "{a} {color} {shape} standing still, {background} background",
    "{a} {color} {shape} standing still over a {background} background",
    "video of {a} {color} {shape} that does not move. the background is {background}",
    "{color} {shape} stays still on {background}",
    "{a} {color} {shape} does not move on a {background} background",
    "motionless {color} {shape} over a {background} background",
)
# What the model is judged by: every verb in every frame, most of which training says only in other company.
JUDGED_FRAMES = (
    "{a} {color} {shape} {verb} on a {background} background",
    "{a} {color} {shape} {verb}, {background} background",
    "{a} {color} {shape} {verb} over a {background} background",
)
JUDGED_VERBS = {
    True: ("moves {motion}", "moving {motion}", "going {motion}"),
    False: ("stays still", "standing still", "does not move"),
}
JUDGED_RELATIVE = "video of {a} {color} {shape} that {verb}. the background is {background}"
JUDGED_RELATIVE_VERBS = {True: ("moves {motion}",), False: ("stays still", "does not move")}


@dataclass(frozen=True, slots=True)
class Scene:
    """One clip's content. Lengths are fractions of the frame's shorter side; the origin is the frame's centre."""

    color: str
    shape: str
    motion: str
    background: str
    radius: float
    travel: float  # distance over the whole clip, along `motion`
    offset: tuple[float, float]  # of the path's middle from the frame's centre (x right, y down)

    @property
    def combination(self) -> tuple[str, str, str, str]:
        return (self.color, self.shape, self.motion, self.background)


COMBINATIONS = tuple(product(COLORS, SHAPES, MOTIONS, BACKGROUNDS))
# Forty of the 270 combinations are kept out of every training batch; `evaluate` asks for exactly these too.
HELD_OUT = frozenset(random.Random(20260101).sample(COMBINATIONS, 40))
TRAINING_COMBINATIONS = tuple(c for c in COMBINATIONS if c not in HELD_OUT)


def sample_scene(
    rng: random.Random, combinations: Sequence[tuple[str, str, str, str]] = TRAINING_COMBINATIONS
) -> Scene:
    """Draw a scene whose shape stays inside the frame for the whole clip."""
    color, shape, motion, background = rng.choice(combinations)
    radius, travel = rng.uniform(0.20, 0.27), rng.uniform(0.30, 0.40)
    along, across = 0.5 - radius - travel / 2, 0.12
    dx, dy = MOTIONS[motion]
    limit = (along if dx else across, along if dy else across)
    offset = (rng.uniform(-1, 1) * max(limit[0], 0.0), rng.uniform(-1, 1) * max(limit[1], 0.0))
    return Scene(color, shape, motion, background, radius, travel, offset)


def describe(scene: Scene, rng: random.Random) -> str:
    """Say the scene in one of the phrasings the model is taught."""
    return _say(rng.choice(STILL_PHRASES if scene.motion == "still" else MOVING_PHRASES), scene)


def judged_prompts(scene: Scene) -> list[str]:
    """Every way the model has to understand a scene in."""
    moving = scene.motion != "still"
    phrases = [frame.replace("{verb}", verb) for frame in JUDGED_FRAMES for verb in JUDGED_VERBS[moving]]
    phrases += [JUDGED_RELATIVE.replace("{verb}", verb) for verb in JUDGED_RELATIVE_VERBS[moving]]
    return [_say(phrase, scene) for phrase in phrases]


def _say(phrase: str, scene: Scene) -> str:
    article = "an" if scene.color[0] in "aeiou" else "a"
    return phrase.format(
        a=article, color=scene.color, shape=scene.shape, motion=scene.motion, background=scene.background
    )


def vocabulary() -> list[str]:
    """Every word of every phrasing, sorted."""
    sentences: Iterable[str] = (*MOVING_PHRASES, *STILL_PHRASES)
    words = {w for s in sentences for w in s.replace(",", " ").replace(".", " ").split() if "{" not in w}
    return sorted(words | {"a", "an", *COLORS, *SHAPES, *MOTIONS, *BACKGROUNDS})


def render(scenes: Sequence[Scene], num_frames: int, height: int, width: int) -> Tensor:
    """Draw scenes with anti-aliased edges.

    Returns [B, 3, F, H, W] float32 in [-1, 1].
    """
    side = min(height, width)
    rows = (torch.arange(height) + 0.5 - height / 2) / side
    columns = (torch.arange(width) + 0.5 - width / 2) / side
    y, x = torch.meshgrid(rows, columns, indexing="ij")

    def column(values: Iterable[float]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.float32)[:, None]

    when = torch.linspace(-0.5, 0.5, num_frames)[None]  # [1, F]
    travel = column(s.travel for s in scenes)
    center_x = column(s.offset[0] for s in scenes) + column(MOTIONS[s.motion][0] for s in scenes) * travel * when
    center_y = column(s.offset[1] for s in scenes) + column(MOTIONS[s.motion][1] for s in scenes) * travel * when
    px, py = x - center_x[..., None, None], y - center_y[..., None, None]  # [B, F, H, W]

    radius = column(s.radius for s in scenes)[..., None, None]
    slope = math.sqrt(3) / 2
    distance = {
        "circle": (px.square() + py.square()).sqrt() - radius,
        "square": torch.maximum(px.abs(), py.abs()) - 0.88 * radius,
        "triangle": torch.maximum(px.abs() * slope - py / 2, py) - 0.62 * radius,
    }
    index = torch.tensor([SHAPES.index(s.shape) for s in scenes])[:, None, None, None]
    signed = torch.where(
        index == 0, distance["circle"], torch.where(index == 1, distance["square"], distance["triangle"])
    )
    cover = torch.clamp(0.5 - signed * side * 0.9, 0, 1)[:, None]  # [B, 1, F, H, W]

    ink = _palette(COLORS[s.color] for s in scenes)
    paper = _palette(BACKGROUNDS[s.background] for s in scenes)
    return paper * (1 - cover) + ink * cover


def _palette(colors: Iterable[RGB]) -> Tensor:
    return (torch.tensor(list(colors), dtype=torch.float32) / 127.5 - 1)[:, :, None, None, None]

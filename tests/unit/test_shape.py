"""The size and length of a file are what was asked for, whatever its model can render."""

from __future__ import annotations

import random
import re

import pytest

from pipelines.card import ModelCard, Parameters, RequestFields
from pipelines.catalogue import get_card, load_catalogue
from pipelines.errors import InvalidRequest
from pipelines.output import Output
from pipelines.requests import GenerationRequest, resolve
from pipelines.shape import MOST_ENLARGED, Asked

LTX, DEMO, SVD = "ltx-video-0.9.8-13b-distilled", "ltx-tiny", "svd-xt"
"""Sizes in 32, 32 and 8; lengths in 8k+1, 2k+1 and any; at most 1280, 1024 and 1280 pixels a side."""


def request(**fields: object) -> RequestFields:
    return GenerationRequest.model_validate({"prompt": "x", **fields})


def made(card: ModelCard, asked: Asked, **fields: object) -> tuple[Parameters, Parameters]:
    """What is rendered, and what is delivered."""
    rendered = resolve(request(**fields), card, asked=asked, has_image=True)
    return rendered, Output().shaped(asked, rendered).delivered(rendered)


def shape(parameters: Parameters) -> tuple[int, int, int]:
    return parameters.width, parameters.height, parameters.num_frames


@pytest.mark.parametrize(
    ("model", "size", "seconds", "fps", "rendered", "delivered"),
    [
        # OpenAI's own sizes and lengths.
        (LTX, (1280, 720), 4, 24, (1280, 736, 97), (1280, 720, 96)),
        (LTX, (720, 1280), 4, 24, (736, 1280, 97), (720, 1280, 96)),
        (LTX, (1024, 1792), 4, 24, (736, 1280, 97), (1024, 1792, 96)),
        (LTX, (1792, 1024), 8, 24, (1280, 736, 193), (1792, 1024, 192)),
        (LTX, (1280, 720), 8, 24, (1280, 736, 193), (1280, 720, 192)),
        (LTX, (720, 1280), 8, 30, (736, 1280, 241), (720, 1280, 240)),
        (LTX, None, 12, 20, (1216, 704, 241), (1216, 704, 240)),
        (LTX, None, 4, None, (1216, 704, 121), (1216, 704, 120)),
        (SVD, (1280, 720), 3, 7, (1280, 720, 21), (1280, 720, 21)),
        (SVD, (1792, 1024), None, None, (1280, 736, 25), (1792, 1024, 25)),
        # 1280x736 would have too many pixels for so many frames: less is rendered, and enlarged.
        (LTX, (1280, 720), 8.5, 30, (1280, 704, 257), (1280, 720, 255)),
        (LTX, (1280, 1280), 8, 24, (1088, 1088, 193), (1280, 1280, 192)),
        # 1312 is more than a side may have; the other side is the larger one if that means to enlarge less.
        (LTX, (1290, 720), 4, 24, (1280, 736, 97), (1290, 720, 96)),
        (LTX, (32, 1900), 4, 24, (32, 1280, 97), (32, 1900, 96)),
        (LTX, (720, 1310), 4, 24, (704, 1280, 97), (720, 1310, 96)),
        # The nearest frame, and one at least.
        (LTX, None, 0.01, 24, (1216, 704, 1), (1216, 704, 1)),
        (LTX, None, 4.03, 24, (1216, 704, 97), (1216, 704, 97)),
        (DEMO, (96, 64), 1, 8, (96, 64, 9), (96, 64, 8)),
        (DEMO, (100, 33), 1, 7, (128, 64, 7), (100, 34, 7)),  # an odd side is one more
        (DEMO, (33, 65), None, 8, (64, 96, 9), (34, 66, 9)),
        (DEMO, (64, 64), None, None, (64, 64, 9), (64, 64, 9)),
    ],
)
def test_the_nearest_shape_is_rendered_and_the_asked_one_delivered(
    model: str,
    size: tuple[int, int] | None,
    seconds: float | None,
    fps: int | None,
    rendered: tuple[int, int, int],
    delivered: tuple[int, int, int],
) -> None:
    of, file = made(get_card(model), Asked(size, seconds), **({} if fps is None else {"fps": fps}))
    assert (shape(of), shape(file)) == (rendered, delivered)


def test_a_card_without_a_word_of_the_shape_renders_its_own() -> None:
    for card in load_catalogue().values():
        rendered, delivered = made(card, Asked())
        assert (
            shape(rendered) == shape(delivered) == (card.defaults.width, card.defaults.height, card.defaults.num_frames)
        )
        assert Output().shaped(Asked(), rendered) == Output(), "nothing of it is stored"


@pytest.mark.parametrize(
    ("model", "asked", "fields", "param", "says"),
    [
        (LTX, Asked((2160, 3840), 4), {}, "size",
         "the sides of size must be between 32 and 1920 for MODEL; "
         "the nearest possible one of this ratio is 1080x1920"),
        (LTX, Asked((1940, 1040)), {}, "size", "is 1746x936"),
        (LTX, Asked((16, 16)), {}, "size", "is 32x32"),
        (LTX, Asked((16, 64)), {}, "size", "is 32x128"),
        (LTX, Asked((0, 64)), {}, "size", "the sides of size must be between 32 and 1920 for MODEL"),
        (LTX, Asked((99999, 64)), {}, "size", "the sides of size must be between 32 and 1920 for MODEL"),
        (DEMO, Asked((1792, 1024)), {}, "size", "is 1526x872"),
        (LTX, Asked((1920, 1920), 8), {"fps": 24}, "size",
         "size must be smaller for 193 frames of MODEL, or the video at most 5.708 s long; "
         "the nearest possible one of this ratio is 1632x1632"),
        (LTX, Asked((1920, 1920)), {"num_frames": 257}, "size", "at most 4.566 s long"),
        (LTX, Asked(seconds=12), {"fps": 24}, "seconds", "seconds must be at most 10.708 for MODEL at 24 fps"),
        (LTX, Asked(seconds=8), {"width": 1280, "height": 1280, "fps": 24}, "seconds",
         "seconds must be at most 5.708 for MODEL at 1280x1280 and 24 fps"),
        # What is strict is refused as ever.
        (LTX, Asked(), {"width": 720}, "width", "width must be a multiple of 32; nearest are 704 and 736"),
        (LTX, Asked((64, 64)), {"num_frames": 96}, "num_frames", "must be 8k.1 for MODEL; nearest are 89 and 97"),
        (LTX, Asked((64, 64)), {"num_frames": 0}, "num_frames", "num_frames must be between 1 and 257"),
    ],
)  # fmt: skip
def test_what_cannot_be_rendered_is_refused_with_the_nearest_that_can(
    model: str, asked: Asked, fields: dict[str, object], param: str, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says.replace("MODEL", re.escape(model))) as refused:
        made(get_card(model), asked, **fields)
    assert refused.value.param == param


@pytest.mark.parametrize("model", [LTX, DEMO, SVD])
def test_whatever_is_asked_is_delivered_or_the_refusal_names_what_can_be(model: str) -> None:
    card, dice = get_card(model), random.Random(model)
    multiple = card.limits.size_multiple
    refusals = 0
    for _ in range(150):
        size = dice.randint(1, 2500), dice.randint(1, 2500)
        asked = Asked(size, dice.choice([None, dice.uniform(0.1, 6)]))
        fps = dice.choice([7, 24, 25, 30])
        try:
            rendered, delivered = made(card, asked, fps=fps)
        except InvalidRequest as refused:
            refusals += 1
            for instead in _named(refused.message, asked):
                made(card, instead, fps=fps)
            continue
        assert (delivered.width, delivered.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        assert delivered.width % 2 == delivered.height % 2 == 0
        if asked.seconds is not None:
            assert abs(delivered.num_frames - asked.seconds * fps) <= 0.5 or delivered.num_frames == 1
        assert 0 <= rendered.num_frames - delivered.num_frames < card.compression.temporal
        for real, wanted in ((rendered.width, delivered.width), (rendered.height, delivered.height)):
            assert real - wanted < multiple
            assert wanted <= real * MOST_ENLARGED
        assert card.limits.allow_pixels(rendered.width, rendered.height, rendered.num_frames)
    assert 0 < refusals < 150


def test_a_card_whose_smallest_size_is_large() -> None:
    card = get_card("ltx-video-0.9.5")
    small = card.limits.model_copy(update={"min_size": 480, "max_size": 720, "max_pixels": 480 * 720 * 25})
    card, dice = card.model_copy(update={"limits": small}), random.Random(3)
    made_some = 0
    for _ in range(300):
        asked = Asked((dice.randint(400, 1200), dice.randint(400, 1200)), dice.uniform(0.1, 3))
        try:
            made(card, asked, fps=24)
            made_some += 1
        except InvalidRequest as refused:
            for instead in _named(refused.message, asked):
                made(card, instead, fps=24)
    assert made_some > 30
    assert shape(made(card, Asked((500, 1000), 1), fps=24)[0]) == (480, 704, 25)


def _named(message: str, asked: Asked) -> list[Asked]:
    """What a refusal says to ask instead."""
    seconds = re.search(r"at most ([\d.]+)(?: s| for)", message)
    size = re.search(r"ratio is (\d+)x(\d+)", message)
    instead = [Asked(asked.size if message.startswith("size") else None, float(seconds[1]))] if seconds else []
    if size is not None:
        width, height = int(size[1]), int(size[2])
        assert asked.size is not None
        assert abs(height - width * asked.size[1] / asked.size[0]) <= 1, "of the same ratio, but for a pixel"
        instead.append(Asked((width, height), asked.seconds))
    return instead


def test_a_seed_of_minus_one_is_drawn_at_random_and_stored() -> None:
    seeds = {resolve(request(seed=-1), get_card(DEMO)).seed for _ in range(8)}
    assert len(seeds) > 1
    assert min(seeds) >= 0


@pytest.mark.parametrize(
    "prompt",
    ["猫が走る", "🎬" * 4000, "e\u0301" * 2000, " a\ttab\nand a line ", "x" * 4000],
    ids=lambda text: ascii(text[:4]),
)
def test_prompts_of_any_letters_are_taken_whole(prompt: str) -> None:
    assert resolve(request(prompt=prompt), get_card(LTX)).num_frames == 121


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "\u3000", "\u00a0"], ids=ascii)
def test_a_prompt_of_nothing_but_space_is_none(prompt: str) -> None:
    with pytest.raises(InvalidRequest, match="prompt must not be empty"):
        resolve(request(prompt=prompt), get_card(LTX))

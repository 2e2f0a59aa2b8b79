"""The picture in docs/architecture.md is of the code as it is."""

from __future__ import annotations

import re

from pipelines.paths import ROOT
from scripts.draw_modules import draw

PAGE = ROOT / "docs/architecture.md"


def test_the_picture_of_the_modules_is_current() -> None:
    assert sizes_aside(draw()) in sizes_aside(PAGE.read_text()), "draw it again: make modules"


def sizes_aside(text: str) -> str:
    """Lines of code change every day; boxes and arrows are what is held."""
    return re.sub(r"<br/>\d+ modules, longest \d+ lines", "", text)


def test_the_walks_name_modules_that_are_there() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", PAGE.read_text()))
    assert len(named) > 15
    roots = [ROOT, ROOT / "deployments"]
    assert [each for each in named if not any((root / each).is_file() for root in roots)] == []

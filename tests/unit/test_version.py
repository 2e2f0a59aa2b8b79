"""One place says the version; everything that shows it agrees."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from cli.__main__ import app as commands
from deployments.api import app
from pipelines.paths import ROOT
from pipelines.version import VERSION


def test_the_command_and_the_schema_say_it() -> None:
    assert CliRunner().invoke(commands, ["--version"]).stdout == f"kinoray {VERSION}\n"
    assert app.openapi()["info"]["version"] == VERSION


def test_the_images_are_labelled_with_it_and_the_changelog_knows_it() -> None:
    assert f'org.opencontainers.image.version="{VERSION}"' in (ROOT / "Dockerfile").read_text()
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == VERSION

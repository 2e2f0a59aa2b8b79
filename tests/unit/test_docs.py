"""The docs name every setting, endpoint, field, metric, command and model: what is missing fails the build."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deployments import metrics
from deployments.api import app
from deployments.configuration.settings import Settings
from deployments.http.schemas import CreateVideo, Video
from pipelines.catalogue import load_catalogue
from pipelines.paths import ROOT
from storage.settings import BucketSettings

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def page(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("key", [*Settings.model_fields, *BucketSettings.model_fields])
def test_every_setting_is_documented(key: str) -> None:
    assert f"`{key}`" in page("docs/configuration.md")


@pytest.mark.parametrize("field", [*CreateVideo.model_fields, *Video.model_fields])
def test_every_field_is_documented(field: str) -> None:
    assert f"`{field}`" in page("docs/http-api.md")


def test_every_endpoint_is_documented() -> None:
    documented = re.findall(r"`(?:GET|POST|PUT|DELETE) (/\S*?)`", page("docs/http-api.md"))
    served = {path.replace("{video_id}", "{id}") for path in app.openapi()["paths"]}
    assert served <= set(documented)


def test_every_metric_is_documented() -> None:
    source = (ROOT / "deployments" / "metrics.py").read_text()
    names = set(re.findall(r'"(kinoray_\w+)"', source))
    assert len(names) == len([f for f in vars(metrics).values() if hasattr(f, "cache_clear")])
    text = page("docs/configuration.md")
    assert [name for name in names if f"`ray_{name}`" not in text] == []


def test_every_command_is_documented() -> None:
    from cli.__main__ import app as commands

    text = page("docs/configuration.md")
    for command in commands.registered_commands:
        name = command.name or command.callback.__name__  # type: ignore[union-attr]
        assert f"`./kinoray {name}" in text


def test_every_model_is_documented() -> None:
    assert [model for model in load_catalogue() if f"`{model}`" not in page("docs/models.md")] == []


def test_every_link_leads_somewhere() -> None:
    links = [(path, link) for path in PAGES for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", path.read_text())]
    assert len({path for path, _ in links}) > 10, "the pages link to each other"
    for path, link in links:
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), f"{path.relative_to(ROOT)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{path.relative_to(ROOT)} links to {link}; {file} has {anchors(target)}"


def anchors(path: Path) -> set[str]:
    """What a page's headings are called in a link, as GitHub and others make it of their words."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}

"""The docs name every setting, endpoint, field, metric, command and model: what is missing fails the build."""

from __future__ import annotations

import ast
import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from deployments import metrics
from deployments.api import app
from deployments.configuration.settings import Settings
from deployments.http.create_fields import CreateVideo
from deployments.http.schemas import Model, Video
from pipelines.card import CheckpointCard
from pipelines.catalogue import load_catalogue, read_card
from pipelines.paths import ROOT
from storage.settings import BucketSettings
from tests.families.test_families import CONFIG, in_a_process_of_its_own

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
ADDING = "docs/adding-a-family.md"
TOY = ROOT / "tests/families/kinoray-toy"


def page(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("key", [*Settings.model_fields, *BucketSettings.model_fields])
def test_every_setting_is_documented(key: str) -> None:
    assert f"`{key}`" in page("docs/configuration.md")


@pytest.mark.parametrize("field", [*CreateVideo.model_fields, *Video.model_fields, *Model.model_fields])
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


def test_the_page_on_families_shows_one_that_is_tested() -> None:
    assert (TOY / "kinoray_toy.py").read_text() in blocks(ADDING, "python")


@pytest.mark.parametrize("name", ["graph", "check"])
def test_the_page_on_families_shows_functions_that_are_tested(name: str) -> None:
    source = (TOY / "kinoray_loop.py").read_text()
    (function,) = [each for each in ast.parse(source).body if isinstance(each, ast.FunctionDef) and each.name == name]
    assert f"{ast.get_source_segment(source, function)}\n" in blocks(ADDING, "python")


def test_the_page_on_families_resumes_each_denoise_of_several() -> None:
    (resuming,) = [block for block in blocks(ADDING, "python") if "class Resumed" in block]
    done = in_a_process_of_its_own(f"""
from pipelines.catalogue import get_card
from pipelines.requests import GenerationRequest, resolve
card, prompt = get_card("loop"), "dusk"
parameters = resolve(GenerationRequest(prompt=prompt, seed=3), card)
{resuming}
assert once.shape == (24, 3, 48, 64)
""")
    assert done.returncode == 0, done.stderr


def test_the_page_on_families_registers_what_is_tested() -> None:
    (installed,) = TOY.glob("*.dist-info")
    registered = ConfigParser()
    registered.read(installed / "entry_points.txt")
    (shown,) = blocks(ADDING, "toml")
    package = tomllib.loads(shown)
    project = package["project"]
    assert project["entry-points"] == {"kinoray.families": dict(registered["kinoray.families"])}
    metadata = (installed / "METADATA").read_text()
    assert {f"Name: {project['name']}", f"Version: {project['version']}"} <= set(metadata.splitlines())
    assert sorted(package["tool"]["setuptools"]["py-modules"]) == sorted(path.stem for path in TOY.glob("*.py"))


def test_the_page_on_families_shows_a_card_and_a_config_that_are_tested() -> None:
    card, config = blocks(ADDING, "yaml")
    assert card == (TOY / "models/toy.yaml").read_text()
    whole = yaml.safe_load(config)
    assert {**whole, "applications": None} == {**CONFIG, "applications": None}
    (shown,), (tested,) = whole["applications"], CONFIG["applications"]
    assert {**shown, "args": None, "deployments": None} == {**tested, "args": None, "deployments": None}
    assert shown["args"] == {"models": ["toy"]}
    of_toy = [each for each in tested["deployments"] if not each["name"].endswith("-loop")]
    assert sorted(shown["deployments"], key=str) == sorted(of_toy, key=str)


def test_the_config_on_the_page_on_families_is_sound(tmp_path: Path) -> None:
    _, config = blocks(ADDING, "yaml")
    (tmp_path / "toy.yaml").write_text(config)
    check = "from deployments.configuration.serve_config import load_config"
    done = in_a_process_of_its_own(
        f"from pathlib import Path; {check}; load_config(Path({str(tmp_path)!r}, 'toy.yaml'))"
    )
    assert done.returncode == 0, done.stderr


def blocks(name: str, language: str) -> list[str]:
    """The code blocks of a page in one language, as they are written."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), flags=re.MULTILINE | re.DOTALL)


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


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(source: .*?)```", page("docs/models.md"), re.DOTALL))
def test_a_source_that_is_shown_can_be_read(block: str) -> None:
    card = load_catalogue()["ltx-video-0.9.5"].model_dump(mode="json")
    read = read_card({**card, "components": {}, **yaml.safe_load(block)})
    assert isinstance(read, CheckpointCard)
    assert any(source.file and source.file.endswith(".gguf") for source in read.components.values())


def test_a_whole_card_that_is_shown_can_be_read() -> None:
    (card,) = [block for block in blocks("docs/models.md", "yaml") if block.startswith("id: ")]
    assert read_card(yaml.safe_load(card)).id == "my-ltx"

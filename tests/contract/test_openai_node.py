"""The official openai package for Node drives the service as it is."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import DEADLINE_S, PROMPT, WEBHOOK_SECRET, ServiceClient
from tests.contract.conftest import Limited

HERE = Path(__file__).parent / "node"
Steps = dict[str, dict[str, Any]]
"""What the client got, by step."""


@pytest.fixture(scope="session")
def node() -> list[str]:
    """The command that runs the client. It is installed once, beside the packages of the tests themselves."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("there is no Node here")
    lock = (HERE / "package-lock.json").read_bytes()
    installed = Path(sys.prefix) / f"openai-node-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not installed.exists():
        with tempfile.TemporaryDirectory(dir=sys.prefix, ignore_cleanup_errors=True) as folder:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, folder)
            npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            made = subprocess.run(npm, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
            if made.returncode:
                pytest.skip(f"the client cannot be installed: {made.stderr[-500:]}")
            os.rename(folder, installed)  # whole or not at all
    script = installed / "client.mjs"  # it finds its packages where it lies
    shutil.copy(HERE / script.name, script)
    return ["node", str(script)]


@pytest.fixture(scope="session")
def steps(node: list[str], service: ServiceClient, limited: Limited, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """All steps, done once."""
    picture = tmp_path_factory.mktemp("node") / "first.png"
    side = 700
    Image.frombytes("RGB", (side, side), random.Random(1).randbytes(3 * side * side)).save(picture, compress_level=0)
    assert picture.stat().st_size > 2**20, "what a form's parser often takes for the most that a text may have"
    given = {
        "url": service.url, "limited": limited.url, "key": limited.keys["node"], "picture": str(picture),
        "secret": WEBHOOK_SECRET, "prompt": PROMPT,
    }  # fmt: skip
    run = subprocess.run(
        [*node, json.dumps(given)], capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return {line["step"]: line for line in map(json.loads, run.stdout.strip().split("\n"))}


def value(steps: Steps, step: str) -> Any:
    assert "error" not in steps[step], steps[step]["error"]
    return steps[step]["value"]


def error(steps: Steps, step: str) -> dict[str, Any]:
    assert "error" in steps[step], f"{step} was not refused"
    refused: dict[str, Any] = steps[step]["error"]
    return refused


def test_creates_retrieves_and_downloads(steps: Steps) -> None:
    created, done = value(steps, "create"), value(steps, "retrieve")
    assert (created["status"], created["progress"], created["object"]) == ("queued", 0, "video")
    assert (done["id"], done["status"], done["progress"], done["size"]) == (created["id"], "completed", 100, "64x64")
    video, thumbnail = value(steps, "content"), value(steps, "thumbnail")
    assert (video["type"], video["begins"][4:8]) == ("video/mp4", "ftyp")
    assert (thumbnail["type"], thumbnail["begins"][:4], thumbnail["begins"][8:]) == ("image/webp", "RIFF", "WEBP")
    unmade = error(steps, "spritesheet")
    assert (unmade["kind"], unmade["code"]) == ("NotFoundError", "not_found")


def test_a_picture_is_the_same_however_it_is_sent(steps: Steps) -> None:
    assert value(steps, "upload")["status"] == 204
    ways = ("stream", "file", "image_url", "file_id", "list")
    made = [value(steps, f"create from {way}") for way in ways]
    assert {video["status"] for video in made} == {"completed"}
    assert len({video["content"]["sha256"] for video in made}) == 1, "they show the same"
    assert made[0]["content"]["sha256"] != value(steps, "content")["sha256"], "and another thing than without a picture"


@pytest.mark.parametrize(
    ("step", "says"), [("two", "the models take 1, and these are 2"), ("both", "exactly one of image_url and file_id")]
)
def test_several_pictures_are_refused(steps: Steps, step: str, says: str) -> None:
    refused = error(steps, f"create from {step}")
    assert (refused["kind"], refused["status"], refused["param"]) == ("BadRequestError", 400, "input_reference")
    assert says in refused["message"]


def test_what_is_left_out_of_a_form_was_not_given(steps: Steps) -> None:
    """An empty object leaves no trace in a form."""
    assert value(steps, "create from nothing")["status"] == "queued"


def test_fields_in_extra_body_are_taken(steps: Steps) -> None:
    video = value(steps, "create from extra_body")
    assert (video["seed"], video["parameters"]["num_inference_steps"]) == (9, 2)


def test_remixes(steps: Steps) -> None:
    source = value(steps, "create")["id"]
    plain, pictured = value(steps, "remix"), value(steps, "remix from image_url")
    assert (plain["status"], plain["remixed_from_video_id"]) == ("completed", source)
    assert (pictured["status"], pictured["remixed_from_video_id"]) == ("completed", source)
    assert pictured["content"]["sha256"] != value(steps, "content")["sha256"]


def test_lists_in_pages_and_deletes(steps: Steps) -> None:
    newest = value(steps, "list")
    assert len(newest) == len(set(newest)) == 5, "three pages of two"
    assert newest == sorted(newest, reverse=True)
    assert newest[0] == value(steps, "remix from image_url")["id"]
    page = value(steps, "list of one page")
    assert (page["data"], page["has_more"], page["last_id"]) == (1, True, page["first"])
    source = value(steps, "create")["id"]
    assert value(steps, "delete") == {"id": source, "deleted": True, "object": "video.deleted"}
    gone = error(steps, "retrieve what was deleted")
    assert (gone["kind"], gone["status"], gone["code"]) == ("NotFoundError", 404, "not_found")


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("unknown model", ("BadRequestError", 400, "model_not_found", "model")),
        ("unknown field", ("BadRequestError", 400, "unknown_field", "quality")),
        ("not offered", ("InternalServerError", 501, "not_implemented", None)),
        ("unknown key", ("AuthenticationError", 401, "invalid_api_key", None)),
        ("over the limit", ("RateLimitError", 429, "requests_per_minute_exceeded", None)),
    ],
)
def test_errors_are_of_the_clients_own_kinds(steps: Steps, step: str, expected: tuple[object, ...]) -> None:
    refused = error(steps, step)
    assert (refused["kind"], refused["status"], refused["code"], refused["param"]) == expected


def test_a_limit_says_when_to_come_back(steps: Steps) -> None:
    assert value(steps, "within the limit")["status"] == "queued"
    headers = error(steps, "over the limit")["headers"]
    assert 0 < int(headers["retry-after-ms"]) <= 60_000
    assert 0 < int(headers["retry-after"]) <= 60


def test_webhooks_are_verified(steps: Steps) -> None:
    told = value(steps, "webhook")
    assert (told["event"]["type"], told["event"]["object"]) == ("video.completed", "event")
    assert told["event"]["data"]["status"] == "completed"
    assert (told["changed"], told["wrong"]) == ("InvalidWebhookSignatureError",) * 2

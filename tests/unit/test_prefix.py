"""Links lead to where the client has the service: under a `route_prefix`, and behind a proxy that takes a path off."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from cli.service import base_url
from deployments.configuration.prefix import read_prefix
from tests.unit.api_world import ApiWorld
from tests.unit.wire_world import VIDEO, completed, talk

UPLOAD = {"bytes": 3, "mime_type": "image/png"}


@pytest.mark.parametrize(
    ("root_path", "forwarded", "prefix"),
    [
        ("", "", ""),
        ("", "/", ""),
        ("/kinoray", "", "/kinoray"),
        ("", "/studio/", "/studio"),
        ("/kinoray", "/studio", "/studio/kinoray"),
        ("", "/outer, /inner", "/outer/inner"),
    ],
)
def test_every_link_begins_with_the_prefix(tmp_path: Path, root_path: str, forwarded: str, prefix: str) -> None:
    headers = {"x-forwarded-prefix": forwarded} if forwarded else {}

    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        http.headers.update(headers)
        video_id = await completed(http, world, root_path)
        video = (await http.get(f"{root_path}/v1/videos/{video_id}")).json()
        content = f"{prefix}/v1/videos/{video_id}/content?variant="
        assert video["urls"] == {name: content + name for name in ("video", "thumbnail", "spritesheet")}
        (listed,) = (await http.get(f"{root_path}/v1/videos")).json()["data"]
        assert listed["urls"] == video["urls"]
        assert (await http.post(f"{root_path}/v1/videos/{video_id}/cancel")).json()["urls"] == video["urls"]
        assert f'"{content}video"' in (await http.get(f"{root_path}/v1/videos/{video_id}/events")).text
        upload = (await http.post(f"{root_path}/v1/uploads", json=UPLOAD)).json()
        assert upload["url"] == f"http://127.0.0.1{prefix}/v1/uploads/{upload['id']}"
        assert (await http.get(f"{root_path}/v1/videos/")).headers["location"] == f"http://127.0.0.1{prefix}/v1/videos"
        assert f"url: '{prefix}/openapi.json'" in (await http.get(f"{root_path}/docs")).text
        servers = (await http.get(f"{root_path}/openapi.json")).json().get("servers")
        assert servers == ([{"url": prefix}] if prefix else None)
        assert (await http.get(f"{root_path}/v1/videos/{video_id}/content")).content == VIDEO
        assert (await http.get(f"{root_path}/healthz", headers={"host": "any.example"})).status_code == 200

    talk(tmp_path, calls, root_path=root_path)


WRONG = [
    "kinoray", "//evil.example", "/a//b", "/a/../b", "/./a", "http://evil.example", "/a?b", "/a b", "/a\\b", "/%2f",
    "/<script>", "/" + "a" * 300, "/a/,b",
]  # fmt: skip


def test_a_prefix_is_a_path_and_nothing_else(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        video_id = await completed(http, world)
        for wrong in WRONG:
            answer = await http.get(f"/v1/videos/{video_id}", headers={"x-forwarded-prefix": wrong})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, "x-forwarded-prefix"), wrong
            assert "must be a path such as /videos" in error["message"]
            assert wrong not in error["message"]

    talk(tmp_path, calls)
    assert read_prefix("/a.b/c_d-e~1/") == "/a.b/c_d-e~1"


@pytest.mark.parametrize(
    ("prefix", "host", "url"),
    [
        (None, "127.0.0.1", "http://127.0.0.1:8000"),
        ("/", "127.0.0.1", "http://127.0.0.1:8000"),
        ("/kinoray", "127.0.0.1", "http://127.0.0.1:8000/kinoray"),
        ("/kinoray", "::1", "http://[::1]:8000/kinoray"),
    ],
)
def test_the_command_finds_the_service_it_has_started(prefix: str | None, host: str, url: str) -> None:
    application = {} if prefix is None else {"route_prefix": prefix}
    assert base_url({"applications": [application]}, host, 8000) == url
    assert str(httpx2.Client(base_url=url).build_request("GET", "/v1/videos").url) == f"{url}/v1/videos"

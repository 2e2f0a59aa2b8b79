"""Every route that takes a picture takes `fit` with it: `cover` if it says nothing, and a remix keeps its source's."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.pictures import encoded, scene
from tests.unit.api_world import ApiWorld
from tests.unit.wire_world import talk

PNG = encoded(scene(), "PNG")
URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
FITS: list[str | None] = [None, "cover", "contain", "stretch"]
MODELS = ["ltx-tiny", "svd-tiny"]


def fields(model: str, fit: str | None) -> dict[str, Any]:
    return {"prompt": "p", "model": model, **({"fit": fit} if fit else {})}


async def fit_of(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    said: str = answer.json()["parameters"]["fit"]
    return said


@pytest.mark.parametrize("model", MODELS)
def test_create_in_every_way(tmp_path: Path, model: str) -> None:
    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        begun = (await http.post("/v1/uploads", json={"bytes": len(PNG), "mime_type": "image/png"})).json()
        assert (await http.put(begun["url"], content=PNG, headers=begun["headers"])).is_success
        file = {"input_reference": ("a.png", PNG, "image/png")}
        for fit in FITS:
            asked = fields(model, fit)
            for reference in (URL, {"image_url": URL}, begun["id"], {"file_id": begun["id"]}):
                answer = await http.post("/v1/videos", json={**asked, "input_reference": reference})
                assert await fit_of(answer) == (fit or "cover")
            assert await fit_of(await http.post("/v1/videos", data=asked, files=file)) == (fit or "cover")
        wrong = await http.post("/v1/videos", data=fields(model, "fill"), files=file)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "fit")

    talk(tmp_path, calls, models=MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_a_remix_keeps_it_or_overrides_it(tmp_path: Path, model: str) -> None:
    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        for fit in FITS:
            asked = {**fields(model, fit), "input_reference": URL}
            remix = f"/v1/videos/{(await http.post('/v1/videos', json=asked)).json()['id']}/remix"
            assert await fit_of(await http.post(remix, json={"seed": 1})) == (fit or "cover")
            assert await fit_of(await http.post(remix, json={"input_reference": URL})) == (fit or "cover")
            other = "stretch" if fit == "contain" else "contain"
            assert await fit_of(await http.post(remix, json={"fit": other})) == other
            file = {"input_reference": ("a.png", PNG, "image/png")}
            assert await fit_of(await http.post(remix, data={"fit": other}, files=file)) == other

    talk(tmp_path, calls, models=MODELS)


def test_sync(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        file = {"input_reference": ("a.png", PNG, "image/png")}
        for fit in FITS:
            waiting = asyncio.create_task(http.post("/v1/videos/sync", data=fields("svd-tiny", fit), files=file))
            video: dict[str, Any] = {}
            while not video:
                listed = (await http.get("/v1/videos")).json()["data"]
                video = next((each for each in listed if each["status"] == "queued"), {})
            assert video["parameters"]["fit"] == (fit or "cover")
            await http.post(f"/v1/videos/{video['id']}/cancel")
            await waiting

    talk(tmp_path, calls, models=MODELS)

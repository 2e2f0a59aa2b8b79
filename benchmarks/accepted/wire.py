"""Requests as clients write them, and the answers that they need."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import httpx2

from benchmarks.accepted.cases import GOOD, Case, Service, outcome, refused
from pipelines.paths import ROOT
from tests.harness.data_urls import data_url

PICTURE = (ROOT / "models/svd-tiny/example.png").read_bytes()
URL = data_url(PICTURE)
PADDED = data_url(PICTURE + bytes(1_200_000))
"""The same picture with more than a mebibyte behind it, which is no harm to a PNG."""


def wire_cases() -> Iterator[Case]:
    yield from _bodies()
    yield from _fields()
    yield from _answers()


def _taken(service: Service, answer: httpx2.Response, **expected: object) -> str:
    """`GOOD` if a create was accepted, with these fields in the answer."""
    if answer.status_code != 200:
        return outcome(answer)
    service.forget(answer)
    said = answer.json()
    wrong = {name: said.get(name) for name, value in expected.items() if said.get(name) != value}
    return f"200, with {wrong}" if wrong else GOOD


def _asked(service: Service, size: str, seconds: str) -> str:
    answer = service.create(model="simulated", size=size, seconds=seconds)
    return _taken(service, answer, size=size, seconds=seconds)


def _fitted(service: Service, fit: str) -> str:
    return _taken(service, service.create(input_reference=URL, fit=fit))


def _form(service: Service, fields: dict[str, str], **files: tuple[str | None, bytes, str]) -> httpx2.Response:
    """A form with parts, as the clients of OpenAI send it even where there is no file."""
    parts = [(name, (None, value.encode(), None)) for name, value in fields.items()]
    return service.http.post("/v1/videos", files=[*parts, *files.items()])


def _upload(service: Service, data: bytes, announced: int | None = None) -> tuple[str, httpx2.Response]:
    begun = service.http.post("/v1/uploads", json={"bytes": announced or len(data), "mime_type": "image/png"}).json()
    return begun["id"], service.http.put(begun["url"], content=data)


def _bodies() -> Iterator[Case]:
    prompt = {"prompt": "a red circle"}
    yield Case(
        "requests",
        "`input_reference: {image_url}` in JSON",
        lambda s: _taken(s, s.create(input_reference={"image_url": URL})),
    )
    yield Case(
        "requests",
        "`input_reference: {file_id}` in JSON",
        lambda s: _taken(s, s.create(input_reference={"file_id": _upload(s, PICTURE)[0]})),
    )
    yield Case(
        "requests",
        "`input_reference[image_url]` in a form",
        lambda s: _taken(s, _form(s, {**prompt, "input_reference[image_url]": URL})),
    )
    yield Case("requests", "a list of one picture", lambda s: _taken(s, s.create(input_reference=[URL])))
    yield Case(
        "requests",
        "a list of two pictures: refused, with how many",
        lambda s: refused(s.create(input_reference=[URL, URL]), "send one picture"),
    )
    yield Case(
        "requests",
        "a data URL of 1.6 MB in a form",
        lambda s: _taken(s, _form(s, {**prompt, "input_reference": PADDED})),
    )
    yield Case("requests", "a data URL of 1.6 MB in JSON", lambda s: _taken(s, s.create(input_reference=PADDED)))
    yield Case("requests", "a form without a file", lambda s: _taken(s, _form(s, prompt)))
    yield Case(
        "requests", "a form with empty fields", lambda s: _taken(s, _form(s, {**prompt, "size": "", "seed": ""}))
    )
    yield Case(
        "requests", "a file", lambda s: _taken(s, _form(s, prompt, input_reference=("a.png", PICTURE, "image/png")))
    )
    yield Case(
        "requests",
        "an upload of another size than announced: refused",
        lambda s: refused(_upload(s, PICTURE, len(PICTURE) + 1)[1], "announced"),
    )


def _fields() -> Iterator[Case]:
    yield Case("requests", "`seed: -1`", lambda s: _taken(s, s.create(seed=-1)))
    yield Case("requests", "`seed: null`", lambda s: _taken(s, s.create(seed=None)))
    for size in ("720x1280", "1280x720", "1024x1792", "1792x1024"):
        yield Case(
            "requests",
            f"`size: {size}`, `seconds: 4`",
            partial(_asked, size=size, seconds="4"),
        )
    yield Case(
        "requests",
        "`size: 3840x2160`, too large: refused, with the nearest",
        lambda s: refused(s.create(model="simulated", size="3840x2160"), "1920x1080"),
    )
    yield Case(
        "requests",
        "`seconds: 12`, too long: refused, with the most",
        lambda s: refused(s.create(model="simulated", seconds="12", fps=24), "at most 10.708"),
    )
    yield Case(
        "requests",
        "`width: 720`, no multiple of 32: refused, with the nearest",
        lambda s: refused(s.create(model="simulated", width=720, height=1280), "704", "736"),
    )
    for fit in ("cover", "contain", "stretch"):
        yield Case("requests", f"`fit: {fit}`", partial(_fitted, fit=fit))
    yield Case("requests", "a prompt in emoji", lambda s: _taken(s, s.create(prompt="🔴 ➡️ 👩‍🚀")))
    yield Case(
        "requests", "a prompt of spaces: refused", lambda s: refused(s.create(prompt="  "), "prompt must not be empty")
    )


def _answers() -> Iterator[Case]:
    def status(answer: httpx2.Response, expected: int, **headers: str) -> str:
        wrong = {
            name: answer.headers.get(name.replace("_", "-"))
            for name, value in headers.items()
            if value not in answer.headers.get(name.replace("_", "-"), "")
        }
        return GOOD if answer.status_code == expected and not wrong else f"{outcome(answer)} {wrong or ''}".strip()

    yield Case(
        "answers", "HEAD /v1/models", lambda s: status(s.http.head("/v1/models"), 200, content_type="application/json")
    )
    yield Case(
        "answers",
        "a wrong method: 405, and what is allowed",
        lambda s: status(s.http.delete("/v1/models"), 405, allow="GET", content_type="application/json"),
    )
    yield Case(
        "answers",
        "an unknown path: 404 in the documented form",
        lambda s: refused(s.http.get("/v1/nothing"), "not_found", status=404),
    )
    yield Case(
        "answers",
        "a range of nothing: 416 in the documented form",
        lambda s: status(
            s.http.get(f"/v1/videos/{made(s)}/content", headers={"range": "bytes=999999999-"}),
            416,
            content_type="application/json",
        ),
    )
    yield Case(
        "answers",
        "a part of a file",
        lambda s: status(s.http.get(f"/v1/videos/{made(s)}/content", headers={"range": "bytes=0-99"}), 206),
    )

    def again(service: Service) -> str:
        first = service.http.get(f"/v1/videos/{made(service)}/content")
        tag = first.headers.get("etag")
        if tag is None:
            return "no etag"
        return status(service.http.get(f"/v1/videos/{made(service)}/content", headers={"if-none-match": tag}), 304)

    yield Case("answers", "`If-None-Match` of a file that one has: 304", again)
    yield Case("answers", "a page of another origin, where `cors_origins` has it", _preflight)


ORIGIN = "https://studio.example"


def _preflight(service: Service) -> str:
    headers = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    answer = service.http.options("/v1/videos", headers=headers)
    allowed = answer.headers.get("access-control-allow-origin")
    return GOOD if answer.status_code in (200, 204) and allowed == ORIGIN else f"{outcome(answer)}, for {allowed}"


def made(service: Service) -> str:
    """The id of a video, which is made once for all cases that need one."""
    known = service.http.get("/v1/videos", params={"limit": 100}).json()["data"]
    ready = next((each["id"] for each in known if each["status"] == "completed"), None)
    if ready is None:
        answer = service.http.post("/v1/videos", json={"prompt": "a red circle"}, headers={"prefer": "wait=60"})
        ready = answer.json()["id"]
        while service.http.get(f"/v1/videos/{ready}").json()["status"] in ("queued", "in_progress"):
            service.http.get(f"/v1/videos/{ready}/events")
    return ready

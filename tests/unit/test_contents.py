"""What of a file is sent: nothing that the client has, the ranges that it asks for, or all of it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2

from deployments.http.contents import Contents
from jobs.lifecycle import Status
from jobs.record import Job
from tests.unit.api_world import ApiWorld
from tests.unit.wire_world import VIDEO, completed, talk

SIZE = len(VIDEO)


def ask(folder: Path, *asked: dict[str, str], method: str = "GET") -> list[httpx2.Response]:
    """The answers to one request after another for a file of 100 bytes. `{etag}` and `{date}` stand for its own."""
    answers: list[httpx2.Response] = []

    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        path = f"/v1/videos/{await completed(http, world)}/content"
        whole = await http.get(path)
        assert (whole.status_code, whole.content) == (200, VIDEO)
        for headers in asked:
            own = {"etag": whole.headers["etag"], "date": whole.headers["last-modified"]}
            told = {name: value.format(**own) for name, value in headers.items()}
            answers.append(await http.request(method, path, headers=told))

    talk(folder, calls)
    return answers


def test_a_range(tmp_path: Path) -> None:
    ranges = [
        ("bytes=0-1", 0, 1),
        ("bytes=0-", 0, 99),
        ("bytes=7-7", 7, 7),
        ("bytes=90-500", 90, 99),
        ("bytes=-5", 95, 99),
        ("bytes=-500", 0, 99),
        ("Bytes= 3 - 4", 3, 4),
        ("bytes=100-200,5-6", 5, 6),
        ("bytes=,5-6,", 5, 6),
        ("bytes=0-3,2-9", 0, 9),
    ]
    answers = ask(tmp_path, *({"range": each} for each, _, _ in ranges))
    for answer, (asked, first, last) in zip(answers, ranges, strict=True):
        assert (answer.status_code, answer.content) == (206, VIDEO[first : last + 1]), asked
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
        assert answer.headers["content-length"] == str(last - first + 1)


def test_several_ranges_are_parts(tmp_path: Path) -> None:
    (answer,) = ask(tmp_path, {"range": "bytes=10-11,0-1,-2"})
    assert answer.status_code == 206
    assert int(answer.headers["content-length"]) == len(answer.content)
    kind, boundary = answer.headers["content-type"].split("; boundary=")
    assert kind == "multipart/byteranges"
    parts = answer.content.split(f"--{boundary}".encode())[1:-1]
    found = [re.findall(rb"Content-Range: (.*)\r\n\r\n(.*)\r\n", part, re.DOTALL)[0] for part in parts]
    wanted = {b"bytes 0-1/100": VIDEO[:2], b"bytes 10-11/100": VIDEO[10:12], b"bytes 98-99/100": VIDEO[-2:]}
    assert found == list(wanted.items())


def test_a_range_that_there_is_not(tmp_path: Path) -> None:
    ranges = [
        "bytes=100-", "bytes=100-200,300-", "bytes=-0", "bytes=5-2", "bytes=abc", "bytes=", "bytes", "bytes=-",
        "bytes=1_0-20", "bytes=0-2_0", "bytes=+1-2", "bytes=0-1;2-3", "items=0-1", "bytes=" + "9" * 30 + "-",
        "bytes=" + ",".join(f"{n}-{n}" for n in range(101)),
    ]  # fmt: skip
    answers = ask(tmp_path, *({"range": each} for each in ranges))
    for answer, asked in zip(answers, ranges, strict=True):
        assert (answer.status_code, answer.headers.get("content-range")) == (416, f"bytes */{SIZE}"), asked
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("range_not_satisfiable", "Range")
        assert error["type"] == "invalid_request_error"


def test_a_range_only_of_the_same_file(tmp_path: Path) -> None:
    said = [
        ("{etag}", 206), ("{date}", 206), ("W/{etag}", 200), ('"other"', 200), ("Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("nonsense", 200),
    ]  # fmt: skip
    parts = ask(tmp_path, *({"if-range": if_range, "range": "bytes=0-1"} for if_range, _ in said))
    assert [part.status_code for part in parts] == [status for _, status in said]
    wrong = ask(tmp_path, *({"if-range": if_range, "range": "x"} for if_range, _ in said))
    assert [each.status_code for each in wrong] == [416 if status == 206 else status for _, status in said]


def test_what_the_client_has_is_not_sent(tmp_path: Path) -> None:
    conditions = [
        ({"if-none-match": "{etag}"}, 304),
        ({"if-none-match": "W/{etag}"}, 304),
        ({"if-none-match": '"a,b", W/"c" ,{etag}'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"other"'}, 200),
        ({"if-none-match": "nonsense"}, 200),
        ({"if-modified-since": "{date}"}, 304),
        ({"if-modified-since": "Fri, 01 Jan 2100 00:00:00 -0000"}, 304),
        ({"if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200),
        ({"if-modified-since": "yesterday"}, 200),
        ({"if-none-match": '"other"', "if-modified-since": "{date}"}, 200),
        ({"if-none-match": "{etag}", "range": "bytes=0-1"}, 304),
        ({"if-none-match": "{etag}", "range": "nonsense"}, 304),
        ({"if-none-match": '"other"', "range": "bytes=0-1"}, 206),
    ]
    answers = ask(tmp_path, *(asked for asked, _ in conditions))
    for answer, (asked, status) in zip(answers, conditions, strict=True):
        assert answer.status_code == status, asked
        if status == 304:
            assert answer.content == b""
            assert {"etag", "last-modified", "x-video-id"} < set(answer.headers)
            assert answer.headers["cache-control"] == "private"
            assert not {"content-length", "content-type"} & set(answer.headers)


def test_each_file_of_each_video_has_a_strong_tag_of_its_own(tmp_path: Path) -> None:
    tags: list[str] = []

    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        for video_id in (await completed(http, world), await completed(http, world)):
            for variant in ("video", "thumbnail", "spritesheet"):
                answers = [await http.get(f"/v1/videos/{video_id}/content?variant={variant}") for _ in range(2)]
                assert answers[0].headers["etag"] == answers[1].headers["etag"]
                tags.append(answers[0].headers["etag"])

    talk(tmp_path, calls)
    assert len(set(tags)) == 6
    assert all(re.fullmatch(r'"[^"\s,]+"', tag) for tag in tags)


def test_a_file_that_is_gone_is_404_whatever_the_client_has(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        video_id = await completed(http, world)
        world.api.contents._store.delete_prefix(f"videos/{video_id}/")
        answer = await http.get(f"/v1/videos/{video_id}/content", headers={"if-none-match": "*", "range": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")

    talk(tmp_path, calls)


def test_a_file_in_a_bucket_is_elsewhere_whatever_the_client_asks_of_it() -> None:
    store: Any = SimpleNamespace(url=lambda key: f"https://bucket.example/{key}")
    job = Job(id="video_1", model="m", prompt="p", parameters={}, created_at=0.0, status=Status.COMPLETED)
    asked: Any = {"if-none-match": "*", "range": "nonsense"}
    answer = asyncio.run(Contents(store, 1).answer(job, "video", asked))
    assert (answer.status_code, answer.headers["location"]) == (302, "https://bucket.example/videos/video_1/video.mp4")
    assert "etag" not in answer.headers

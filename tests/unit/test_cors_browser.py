"""A page of another origin in Chromium, which calls a service as far as `cors_origins` lets it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
import uvicorn

from cli.service import free_port
from deployments import api
from deployments.configuration.api_keys import fingerprint
from tests.conftest import DEADLINE_S
from tests.harness.browser import CHROMIUM
from tests.unit.api_world import run_api, until

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

KEY = "kr_secret"
PAGE = """<!doctype html><script>
const headers = {authorization: "Bearer KEY", "content-type": "application/json"};
const body = JSON.stringify({prompt: "p"});
async function ask(path, options) {
  try {
    const answer = await fetch("SERVICE" + path, options);
    const text = await answer.text();
    const code = text && JSON.parse(text).error?.code;
    return {status: answer.status, code, headers: Object.fromEntries(answer.headers)};
  } catch (error) {
    return String(error);
  }
}
async function all() {
  const seen = {};
  const keyed = {...headers, "idempotency-key": "k", prefer: "wait=0", "x-stainless-retry-count": "0"};
  seen.create = await ask("/v1/videos", {method: "POST", headers: keyed, body});
  seen.limit = await ask("/v1/videos", {method: "POST", headers, body});
  seen.nobody = await ask("/v1/videos", {headers: {authorization: "Bearer x"}});
  seen.head = await ask("/v1/videos", {method: "HEAD", headers});
  seen.nowhere = await ask("/nowhere", {headers});
  const {data} = await (await fetch("SERVICE/v1/videos", {headers})).json();
  const events = await fetch(`SERVICE/v1/videos/${data[0].id}/events`, {headers});
  const reader = events.body.getReader();
  seen.event = new TextDecoder().decode((await reader.read()).value);
  await reader.cancel();
  return seen;
}
all().catch(String).then(seen => fetch("/seen", {method: "POST", body: JSON.stringify(seen)}));
</script>"""


class Site:
    """A page that tells what it has seen."""

    def __init__(self) -> None:
        self.answers: Queue[Any] = Queue()
        self.page = ""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(site.page.encode())

            def do_POST(self) -> None:
                site.answers.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def site() -> Iterator[Site]:
    made = Site()
    with made.server:
        Thread(target=made.server.serve_forever, daemon=True).start()
        yield made
        made.server.shutdown()


def visit(site: Site) -> Any:
    """What the page tells once a browser has shown it."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, "--headless=new", "--no-sandbox", f"--user-data-dir={profile}", site.origin]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return site.answers.get(timeout=DEADLINE_S)
        finally:
            browser.terminate()
            browser.wait()


def seen_by_a_page(folder: Path, *, allowed: bool) -> Any:
    async def main(site: Site) -> Any:
        keys = [{"name": "studio", "sha256": fingerprint(KEY)}]
        origins = (site.origin,) if allowed else ("https://another.example",)
        with run_api(folder, api_keys=keys, cors_origins=origins, max_queued=1):
            port = free_port()
            server = uvicorn.Server(uvicorn.Config(api.app, "127.0.0.1", port, lifespan="off", log_config=None))
            serving = asyncio.create_task(server.serve())
            await until(lambda: server.started)
            site.page = PAGE.replace("SERVICE", f"http://127.0.0.1:{port}").replace("KEY", KEY)
            seen = await asyncio.to_thread(visit, site)
            server.should_exit = server.force_exit = True
            await serving
            return seen

    with site() as page:
        return asyncio.run(main(page))


def test_a_page_of_a_configured_origin_reads_every_answer(tmp_path: Path) -> None:
    seen = seen_by_a_page(tmp_path, allowed=True)
    assert seen["create"]["status"] == 200, seen
    assert seen["create"]["headers"]["preference-applied"] == "wait=0"
    assert "openai-poll-after-ms" in seen["create"]["headers"]
    assert (seen["limit"]["status"], seen["limit"]["code"]) == (429, "max_queued_exceeded")
    assert int(seen["limit"]["headers"]["retry-after-ms"]) > 0
    assert (seen["nobody"]["status"], seen["nobody"]["code"]) == (401, "invalid_api_key")
    assert seen["head"]["status"] == 200
    assert (seen["nowhere"]["status"], seen["nowhere"]["code"]) == (404, "not_found")
    assert seen["event"].startswith("event: video.queued\n")


def test_a_page_of_another_origin_reads_nothing(tmp_path: Path) -> None:
    assert seen_by_a_page(tmp_path, allowed=False) == "TypeError: Failed to fetch"

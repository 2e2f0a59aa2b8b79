"""Chromium, as far as a video shows in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Thread
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Without a GPU, Chromium converts colors by a quick routine whose blue is up to 12 levels off; SwiftShader does what a
# GPU does.
_AS_ON_A_GPU = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")

_PAGE = """<!doctype html><script>
async function shown(src, places) {
  const video = document.createElement("video");
  video.muted = true;
  video.src = src;
  await new Promise((shown, failed) => {
    video.requestVideoFrameCallback(shown);
    video.onerror = () => failed(video.error.message);
    video.play();
  });
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  const pixels = places.map(([x, y]) => [...context.getImageData(x, y, 1, 1).data].slice(0, 3));
  const colors = new VideoFrame(video).colorSpace.toJSON();
  return {width: canvas.width, height: canvas.height, duration: video.duration, colors, pixels};
}
async function all() {
  const seen = [];
  for (const [index, places] of PLACES.entries()) seen.push(await shown(`/${index}.mp4`, places));
  return seen;
}
all().catch(String).then(seen => fetch("/seen", {method: "POST", body: JSON.stringify(seen)}));
</script>"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a browser shows of a video."""

    width: int
    height: int
    duration: float  # seconds
    colors: dict[str, Any]  # as it understands the file: matrix, primaries, transfer, fullRange
    pixels: list[list[int]]  # RGB of the first frame, at the places that were asked for


def watch(videos: Sequence[tuple[bytes, Sequence[tuple[int, int]]]], timeout_s: float) -> list[Seen]:
    """Play mp4s in Chromium and read pixels of their first frames at places (x, y)."""
    answers: Queue[Any] = Queue()
    page = _PAGE.replace("PLACES", json.dumps([places for _, places in videos]))

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").removesuffix(".mp4")
            if name.isdigit():
                return self._answer(200, "video/mp4", videos[int(name)][0])
            return self._answer(200, "text/html", page.encode())

        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._answer(204, "text/plain", b"")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    assert CHROMIUM is not None
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server, tempfile.TemporaryDirectory() as profile:
        Thread(target=server.serve_forever, daemon=True).start()
        browser = subprocess.Popen(
            [
                CHROMIUM, "--headless=new", "--no-sandbox", "--force-color-profile=srgb", *_AS_ON_A_GPU,
                "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={profile}",
                f"http://127.0.0.1:{server.server_address[1]}/",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            seen = answers.get(timeout=timeout_s)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    assert isinstance(seen, list), seen
    return [Seen(**each) for each in seen]

"""The service against diffusers in one process: the same jobs, the same seed, the same threads, in turns.

The long job says what a render costs more through the relay; the short one what is added to any job. Both clocks stop
when the mp4's bytes are in the caller's hands; the short job is watched without a polling interval.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import torch
from diffusers import LTXPipeline

from deployments.config import load_config
from deployments.service import default_config, for_model, free_port, run_service
from pipelines.card import CheckpointCard
from pipelines.catalogue import get_card
from pipelines.ltx.card import LTXParameters
from pipelines.ltx.reference import reference_video
from pipelines.requests import GenerationRequest, resolve
from pipelines.video import encode_mp4, metadata_of
from pipelines.weights import locate

PROMPT = "a red circle moves left on a black background"
SEED = 1
LONG = {"width": 256, "height": 256, "num_frames": 17, "num_inference_steps": 24}
SHORT = {"num_inference_steps": 4}
ROUNDS = {"long": 3, "short": 15}
LONG_BOUND, SHORT_BOUND_S = 1.10, 0.5


class Stock:
    """diffusers' own pipeline in this process, and the same mp4 encoder behind it."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.card = get_card("ltx-tiny")
        assert isinstance(self.card, CheckpointCard)
        self.pipeline = LTXPipeline.from_pretrained(locate(self.card, "transformer"), dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, fields: dict[str, int]) -> bytes:
        parameters = resolve(GenerationRequest(prompt=PROMPT, seed=SEED, **fields), self.card)
        assert isinstance(parameters, LTXParameters)
        video = reference_video(self.pipeline, parameters, PROMPT)  # [F, 3, H, W] in [0, 1]
        frames = (video * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return encode_mp4(frames, parameters.fps, metadata_of(self.card.id, parameters))


class Service:
    """The running service, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.Client(base_url=url, timeout=60, trust_env=False)

    def __call__(self, fields: dict[str, int], poll_s: float | None = None) -> bytes:
        """One video; polled as often as the service asks for, or every `poll_s`."""
        created = self.http.post("/v1/videos", json={"prompt": PROMPT, "seed": SEED, **fields}).json()
        while (video := (answer := self.http.get(f"/v1/videos/{created['id']}")).json())["status"] != "completed":
            if video["status"] == "failed":
                raise RuntimeError(video["error"]["message"])
            asked = int(answer.headers["openai-poll-after-ms"]) / 1000
            time.sleep(asked if poll_s is None else poll_s)
        return self.http.get(f"/v1/videos/{created['id']}/content").content


def main() -> None:
    """Print the table; exit with 1 when a bound is missed."""
    config = for_model(load_config(default_config()), "ltx-tiny", with_image=False)
    config["http_options"]["port"] = free_port()
    threads = config["applications"][0]["args"]["threads"]["denoise"]
    stock = Stock(threads)
    with (
        tempfile.TemporaryDirectory() as data,
        run_service(config, data=Path(data), private=True, graceful=False) as url,
    ):
        service = Service(url)
        for fields in (SHORT, LONG):
            _same_bytes(stock(fields), service(fields))  # also warms both up
        long = _in_turns(ROUNDS["long"], lambda: stock(LONG), lambda: service(LONG))
        short = _in_turns(ROUNDS["short"], lambda: stock(SHORT), lambda: service(SHORT, 0.01))
    ratio, added = long[1] / long[0], short[1] - short[0]
    print(f"| ltx-tiny, {threads} threads | diffusers, one process | the service | | bound |")
    print("|---|---|---|---|---|")
    size = f"{LONG['width']}x{LONG['height']}, {LONG['num_frames']} frames, {LONG['num_inference_steps']} steps"
    print(f"| {size} | {long[0]:.2f} s | {long[1]:.2f} s | ratio {ratio:.3f} | <= {LONG_BOUND:.2f} |")
    small = f"64x64, 9 frames, {SHORT['num_inference_steps']} steps"
    print(f"| {small} | {short[0]:.3f} s | {short[1]:.3f} s | {added:.3f} s added | <= {SHORT_BOUND_S} s |")
    print(
        f"Medians of {ROUNDS['long']} and {ROUNDS['short']} runs in turns; both sides made the same mp4, byte for byte."
    )
    if ratio > LONG_BOUND or added > SHORT_BOUND_S:
        raise SystemExit("a bound is missed")


def _in_turns(rounds: int, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float]:
    """Median seconds of each, run alternately."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, spent in zip((first, second), seconds, strict=True):
            started = time.perf_counter()
            work()
            spent.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _same_bytes(first: bytes, second: bytes) -> None:
    if first != second:
        raise SystemExit("the service and diffusers made different videos")


if __name__ == "__main__":
    main()

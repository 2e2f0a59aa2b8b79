"""The service against diffusers in one process: the same jobs, the same seed, the same threads, in turns.

The long job says what a render costs more through the service; the short one what is added to any job. Both clocks stop
when the mp4's bytes are in the caller's hands; the short job is watched without a polling interval. On a GPU the model
is LTX-Video 0.9.5 at its real size, with random weights; elsewhere it is ltx-tiny.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import httpx2
import torch
import yaml
from diffusers import LTXPipeline

from cli.service import default_config, for_model, free_port, run_service
from deployments.configuration.serve_config import load_config
from pipelines.card import CheckpointCard
from pipelines.catalogue import get_card, load_catalogue
from pipelines.ltx.card import LTXParameters
from pipelines.ltx.reference import pipeline_for, reference_video
from pipelines.output import metadata_of
from pipelines.requests import GenerationRequest, resolve
from pipelines.video import encode_mp4
from pipelines.weights.located import located

PROMPT = "a red circle moves left on a black background"
ASKED = {"prompt": PROMPT, "seed": 1, "stg_scale": 0}
"""Of every job, beside its size; diffusers has no spatio-temporal guidance."""
LONG = {"width": 256, "height": 256, "num_frames": 17, "num_inference_steps": 24}
LONG_ON_A_GPU = {"width": 704, "height": 480, "num_frames": 121, "num_inference_steps": 40}
SHORT = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 4}
ROUNDS = {"long": 3, "short": 15}
LONG_BOUND, SHORT_BOUND_S = 1.10, 0.5


class Stock:
    """diffusers' own pipeline in this process, and the same mp4 encoder behind it."""

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.card = get_card(model)
        assert isinstance(self.card, CheckpointCard)
        device: Literal["cuda", "cpu"] = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, self.card.dtype[device])
        self.pipeline = LTXPipeline.from_pretrained(located(self.card, "transformer").folder, dtype=dtype).to(device)

    def __call__(self, fields: dict[str, int]) -> bytes:
        parameters = resolve(GenerationRequest.model_validate({**ASKED, **fields}), self.card)
        assert isinstance(parameters, LTXParameters)
        pipeline = pipeline_for(self.pipeline, parameters, None)
        video = reference_video(pipeline, parameters, PROMPT)  # [F, 3, H, W] in [0, 1]
        frames = (video.float() * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return encode_mp4(frames, parameters.fps, metadata_of(self.card.id, parameters))


class Service:
    """The running service, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.Client(base_url=url, timeout=60, trust_env=False)

    def __call__(self, fields: dict[str, int], poll_s: float | None = None) -> bytes:
        """One video; polled as often as the service asks for, or every `poll_s`."""
        created = self.http.post("/v1/videos", json={**ASKED, **fields}).json()
        while (video := (answer := self.http.get(f"/v1/videos/{created['id']}")).json())["status"] != "completed":
            if video["status"] == "failed":
                raise RuntimeError(video["error"]["message"])
            asked = int(answer.headers["openai-poll-after-ms"]) / 1000
            time.sleep(asked if poll_s is None else poll_s)
        return self.http.get(f"/v1/videos/{created['id']}/content").content


def main() -> None:
    """Print the table; exit with 1 when a bound is missed."""
    with tempfile.TemporaryDirectory(prefix="kinoray-overhead-") as folder:
        if torch.cuda.is_available():
            where = torch.cuda.get_device_name()
            compare(_full_size(Path(folder)), LONG_ON_A_GPU, where, Path(folder))
        else:
            compare("ltx-tiny", LONG, "", Path(folder))


def compare(model: str, longer: dict[str, int], where: str, folder: Path) -> None:
    """One model, a long job and a short one."""
    config = for_model(load_config(default_config()), model, with_image=False)
    config["http_options"]["port"] = free_port()
    threads = config["applications"][0]["args"]["threads"]["denoise"]
    stock = Stock(model, threads)
    with run_service(config, data=folder / "data", private=True, graceful=False) as url:
        service = Service(url)
        same = [stock(fields) == service(fields) for fields in (SHORT, longer)]  # also warms both up
        long = _in_turns(ROUNDS["long"], lambda: stock(longer), lambda: service(longer))
        short = _in_turns(ROUNDS["short"], lambda: stock(SHORT), lambda: service(SHORT, 0.01))
    ratio, added = long[1] / long[0], short[1] - short[0]
    print(f"| {model}, {where or f'{threads} threads'} | diffusers, one process | the service | | bound |")
    print("|---|---|---|---|---|")
    print(f"| {_size(longer)} | {long[0]:.2f} s | {long[1]:.2f} s | ratio {ratio:.3f} | <= {LONG_BOUND:.2f} |")
    print(f"| {_size(SHORT)} | {short[0]:.3f} s | {short[1]:.3f} s | {added:.3f} s added | <= {SHORT_BOUND_S} s |")
    made = "both sides made the same mp4, byte for byte" if all(same) else "the mp4s differ"
    print(f"Medians of {ROUNDS['long']} and {ROUNDS['short']} runs in turns; {made}.")
    if ratio > LONG_BOUND or added > SHORT_BOUND_S or not all(same):
        raise SystemExit("a bound is missed, or the videos differ")


def _full_size(folder: Path) -> str:
    """LTX-Video 0.9.5 with random weights, as a model of the catalogue; its id."""
    from benchmarks.full_size import checkpoint

    card = checkpoint("ltx-video-0.9.5", folder / "checkpoint", torch.device("cuda"))
    card = card.model_copy(update={"id": "ltx-video-random"})
    (folder / "models").mkdir()
    (folder / "models" / f"{card.id}.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))
    os.environ["KINORAY_MODELS"] = str(folder / "models")
    load_catalogue.cache_clear()
    return card.id


def _size(fields: dict[str, int]) -> str:
    return "{width}x{height}, {num_frames} frames, {num_inference_steps} steps".format(**fields)


def _in_turns(rounds: int, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float]:
    """Median seconds of each, run alternately."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, spent in zip((first, second), seconds, strict=True):
            started = time.perf_counter()
            work()
            spent.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    main()

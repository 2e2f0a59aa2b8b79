"""`kinoray demo`: start a service and render one real video with it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cli.client import Client
from cli.service import default_config, for_model, free_port, run_service
from deployments.configuration.serve_config import load_config
from pipelines.card import ModelCard
from pipelines.catalogue import get_card
from pipelines.errors import ConfigError, KinorayError
from pipelines.paths import ROOT
from pipelines.weights.prefetch import prefetch

PROMPT = "a red circle moves left on a black background"


def run_demo(
    console: Console, *, prompt: str | None, model: str, image: Path | None, seed: int | None, out: Path
) -> None:
    """Start a private service, render one video, and write it to `out` with a contact sheet beside it."""
    started = time.monotonic()
    card = get_card(model)
    fields, image = ask_for(card, prompt, image)
    prefetch(card)
    config = for_model(load_config(default_config()), model, with_image=image is not None)
    config["http_options"] = {"host": "127.0.0.1", "port": free_port()}
    console.print(f"Starting Ray and the service for [bold]{model}[/] ...")
    with tempfile.TemporaryDirectory(prefix="kinoray-demo-") as data, console.status("Loading") as status:

        def on_waiting(stages: list[str]) -> None:
            status.update(f"Loading {', '.join(stages)}")

        def on_failed(sentence: str) -> None:
            console.print(f"[red]cannot start:[/] {escape(sentence)}", emoji=False, soft_wrap=True)

        with run_service(
            config, data=Path(data), private=True, graceful=False, on_waiting=on_waiting, on_failed=on_failed
        ) as url:
            status.stop()
            ready = time.monotonic()
            wish = escape(" from ".join(filter(None, [fields.get("prompt"), str(image) if image else None])))
            console.print(f"Ready on {url} after {ready - started:.1f} s. Asking for: [bold]{wish}[/]")
            client = Client(url)
            video = _render(console, client, {**fields, "seed": seed}, image)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(client.download(video["id"]))
            rendered = time.monotonic()
    _report(console, video, out, rendered - ready)
    console.print(f"Everything that was started is stopped; {time.monotonic() - started:.1f} s in all.")


def ask_for(card: ModelCard, prompt: str | None, image: Path | None) -> tuple[dict[str, Any], Path | None]:
    """The request's fields and image, with defaults for what the user does not say. Raises ConfigError."""
    if image is not None and not image.is_file():
        raise ConfigError(f"there is no image {image}")
    if image is None and card.NEEDS_IMAGE:
        if card.example_image is None:
            raise ConfigError(f"{card.id} makes a video from an image; give one with --image")
        image = ROOT / card.example_image
    if prompt is None and card.TAKES_PROMPT:
        prompt = PROMPT
    return {"model": card.id, "prompt": prompt}, image


def _render(console: Console, client: Client, fields: dict[str, Any], image: Path | None) -> dict[str, Any]:
    created = client.create(fields, image)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("queued", total=100)
        for video in client.watch(created["id"]):
            bar.update(task, completed=video["progress"], description=video["stage"] or video["status"])
    if video["status"] == "failed":
        raise KinorayError(f"the video failed: {video['error']['message']}")
    return video


def _report(console: Console, video: dict[str, Any], out: Path, seconds: float) -> None:
    from pipelines.video import contact_sheet

    sheet = out.with_suffix(".png")
    contact_sheet(out).save(sheet)
    parameters, made = video["parameters"], video["result_metadata"]
    stages = ", ".join(f"{stage} {spent:.2f} s" for stage, spent in video["stage_seconds"].items())
    console.print(
        f"[bold]{out}[/]: {made['frames']} frames of {video['size']} at {parameters['fps']} fps, "
        f"{parameters['num_inference_steps']} steps, seed {video['seed']}, {out.stat().st_size} bytes, {seconds:.1f} s"
    )
    for warning in made.get("warnings", ()):
        console.print(f"[yellow]{escape(warning.partition(': ')[2])}[/]")
    console.print(f"Each stage: {stages}. Frames side by side: [bold]{sheet}[/]")

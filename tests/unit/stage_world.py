"""The Serve classes of the computing stages as plain objects, on little real checkpoints and without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from deployments import metrics
from deployments.configuration.settings import Settings
from deployments.denoiser import Denoiser
from deployments.encoders import ImageEncoder, TextEncoder
from deployments.stages import worker
from deployments.stages.messages import DecodeRequest, DenoiseRequest, Finished, Progress, TextRequest, unpacked
from deployments.stages.starting import Here, Record
from deployments.video_decoder import VideoDecoder
from jobs.stored import Checkpoint
from pipelines.card import CheckpointCard, ModelCard, Parameters
from pipelines.output import Output
from tests.unit.conftest import Quiet

PATIENCE_S = 120
KINDS = {"text": TextEncoder, "image": ImageEncoder, "denoise": Denoiser, "decode": VideoDecoder}


def without_ray(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have stages keep their data in a folder, count nothing, and find no GPU."""
    monkeypatch.setenv("KINORAY_DATA", str(folder))
    monkeypatch.setattr(worker, "this_replica", lambda: "r1")
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    for name in ("model_load_seconds", "frames_total", "step_seconds"):
        monkeypatch.setattr(metrics, name, Quiet)
    for module in ("encoders", "denoiser", "video_decoder"):
        monkeypatch.setattr(f"deployments.{module}.here", lambda: Here("D", "r1", _never, _no_record, _nothing))


class HeldForEver:
    """The lease of a job that nobody else wants."""

    def __init__(self) -> None:
        self.committed: list[Checkpoint] = []

    def remaining_s(self, token: str) -> float | None:  # noqa: ARG002
        return 3600.0

    def commit(self, token: str, node: str, checkpoint: Checkpoint, needed: Collection[str]) -> bool:  # noqa: ARG002
        self.committed.append(checkpoint)
        return True


def replica(kind: str, card: ModelCard, **settings: object) -> Any:
    """A replica of one stage, of which a test may reach every part."""
    made: Any = KINDS[kind].func_or_class(card, Settings.model_validate(settings))  # type: ignore[attr-defined]
    if kind == "denoise":
        made.leases = HeldForEver()
    return made


def text_request(card: ModelCard) -> TextRequest:
    return TextRequest("a red circle", card.default_parameters())


def denoise_request(card: ModelCard) -> DenoiseRequest:
    return DenoiseRequest(
        "j", card.id, "denoise", card.default_parameters(), frozenset({"denoise"}), "x", "t", "r1", None, {}
    )


def decode_request(card: ModelCard, *, plain: bool = False, last_frame: bool = False, **said: Any) -> DecodeRequest:
    parameters: Parameters = card.default_parameters().model_copy(update=said)
    return DecodeRequest(card.id, parameters, parameters, Output(), last_frame, plain)


def call(stream: AsyncIterator[Any]) -> tuple[Any, Finished, list[int]]:
    """The value of a call, what it said at its end, and the steps that it reported. Raises what ended it."""
    seen: list[Any] = []

    async def listen() -> None:
        async with asyncio.timeout(PATIENCE_S):
            async for item in stream:
                seen.append(unpacked(item) if isinstance(item, bytes) else item)  # noqa: PERF401 also before an error

    asyncio.run(listen())
    (finished,) = (each for each in seen if isinstance(each, Finished))
    return seen[-1], finished, [each.step for each in seen if isinstance(each, Progress)]


def spoiled(card: CheckpointCard, component: str, name: str, value: float = float("nan")) -> None:
    """Set every number of one tensor of a component's file, as a broken download or a bad conversion leaves it."""
    assert card.source.folder is not None
    (path,) = (Path(card.source.folder) / component).glob("*.safetensors")
    tensors = load_file(path)
    (found,) = (each for each in tensors if each.endswith(name))
    tensors[found] = torch.full_like(tensors[found], value)
    save_file(tensors, path, metadata={"format": "pt"})


def _never() -> Any:
    raise AssertionError("only a stage that cannot start looks at the application")


def _no_record() -> AbstractContextManager[Record]:
    raise AssertionError("only a stage that cannot start is recorded")


def _nothing(deployment: str) -> None: ...

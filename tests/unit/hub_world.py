"""A hub with one repository, and what a component needs of it, for the tests of fetching."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from pipelines.weights import download
from pipelines.weights.hub import Need, Snapshot
from tests.harness.hub import Hub, own_hub

REPO = "maker/video"
VAE = "vae/diffusion_pytorch_model.safetensors"
FP16 = "vae/diffusion_pytorch_model.fp16.safetensors"
SHARDS = [f"text_encoder/model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)]
FILES = {
    "model_index.json": b"{}",
    "vae/config.json": b'{"of": "vae"}',
    VAE: bytes(range(256)) * 40,
    FP16: bytes(range(256)) * 20,
    "text_encoder/config.json": b'{"of": "text_encoder"}',
    "text_encoder/model.safetensors.index.json": b"{}",
    **{path: f"{path} ".encode() * 100 for path in SHARDS},
    "tokenizer/tokenizer_config.json": b"{}",
    "tokenizer/spiece.model": b"pieces",
    "ltxv.safetensors": b"one file" * 500,
}


@contextmanager
def quick_hub(home: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, an empty cache, and a client that does not pause between attempts."""
    patch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
    patch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    patch.setattr(download, "WAIT_S", 0)
    with own_hub(home, patch) as running:
        running.push(REPO, FILES)
        yield running


def need(component: str = "vae", **fields: str | None) -> Need:
    return Need("m", **{"repo": REPO, "revision": None, "component": component, **fields})  # type: ignore[arg-type]


def main(running: Hub) -> str:
    return running.repositories[REPO].refs["main"]


def in_snapshot(found: Snapshot) -> set[str]:
    paths = [path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()]
    return set(paths) - {".gitattributes"}

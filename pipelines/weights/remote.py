"""Check the weights on the hub by their headers, before their gigabytes are fetched.

A file's header is its first kilobytes. They are put at the beginning of a file of the full size that has nothing else
(a sparse file, which takes no more room on the disk), so that what reads the files of this machine reads these too and
says the same of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.card import CheckpointCard, Component
from pipelines.errors import WeightsUnavailable
from pipelines.weights.download import RemoteFile
from pipelines.weights.header import LONGEST_HEADER, Header, read_header
from pipelines.weights.hub import TIMEOUT_S, Need, Snapshot, fetch, in_cache, listed_weights
from pipelines.weights.hub_errors import sentences
from pipelines.weights.load import GGUF, check_network, prepare_by
from pipelines.weights.located import places

FIRST = 100_000
"""Bytes that are asked for first: the headers of nearly all files are shorter."""


def check_ahead(card: CheckpointCard, component: Component) -> None:
    """Check a network as `check_network` would after its weights were fetched; fetches its description only.

    A GGUF file is not checked, since nothing tells how long its header is.

    Raises:
        WeightsUnavailable: the files are not exactly this network, or the hub does not give their headers.
    """
    if component not in card.networks():
        return
    where = places(card, component)
    need = where.file or where.folder
    if not isinstance(need, Need) or isinstance(in_cache(need), Snapshot):
        check_network(card, component)
        return
    files = listed_weights(need)
    if files[0].path.lower().endswith(GGUF):
        return
    folder = where.folder
    if isinstance(folder, Need):
        folder = fetch(replace(folder, weights=False)).folder
    header = read_remote_header(files, need.model)
    prepare_by(header, card, component, folder=folder, single=where.file is not None)


def read_remote_header(files: Sequence[RemoteFile], model: str) -> Header:
    """Read the headers of safetensors files on the hub that make up one component; `model` is for sentences.

    Raises:
        WeightsUnavailable: a file is no whole safetensors file, or the hub does not send its beginning.
    """
    with TemporaryDirectory(prefix="kinoray-headers-") as folder:
        here = [Path(folder, file.repo, file.path) for file in files]
        for path, file in zip(here, files, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target, sentences(model, file.repo, file.commit):
                target.write(_beginning(file))
                target.truncate(file.size)
        try:
            header = read_header(here)
        except WeightsUnavailable as error:
            raise WeightsUnavailable(error.message.replace(f"{folder}/", "")) from error
        return replace(header, files=tuple(path.relative_to(folder) for path in here))


def _beginning(file: RemoteFile) -> bytes:
    """A file's header, and perhaps some of what follows."""
    if file.size == 0:
        return b""  # of which no part can be asked for
    first = _receive(file, 0, FIRST)
    header = 8 + int.from_bytes(first[:8], "little")
    if len(first) < header <= min(file.size, 8 + LONGEST_HEADER):
        first += _receive(file, len(first), header)
    return first


def _receive(file: RemoteFile, start: int, end: int) -> bytes:
    """The bytes of a file from `start`, to before `end` or the file's own end."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    url = hf_hub_url(file.repo, file.path, revision=file.commit)
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    part = b""
    with http_stream_backoff("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
        hf_raise_for_status(response)
        skipped = start if response.status_code != 206 else 0  # a hub without ranges sends the file from its beginning
        for chunk in response.iter_bytes():
            part += chunk
            if len(part) >= skipped + end - start:
                break  # not the rest of a file that is sent whole
    return part[skipped : skipped + end - start]

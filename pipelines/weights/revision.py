"""Identify the weights of one component."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from pipelines.card import CheckpointCard, Component
from pipelines.weights.files import DESCRIPTIONS
from pipelines.weights.located import located

ENDS_BYTES = 2**20


def revision_of(card: CheckpointCard, component: Component) -> str:
    """What changes when a component's weights or their configuration do.

    It is the hub's commit where all of it is from one; with `+` and a digest of the configuration for a single file on
    the hub; else a digest of the configuration and of the files' names, sizes, beginnings and ends. A full digest would
    read gigabytes at every start and would tell more than is needed.
    """
    found = located(card, component)
    if found.commit is not None and not found.single:
        return found.commit
    folder = found.folder / component
    described = sorted(path for path in folder.iterdir() if any(fnmatch(path.name, each) for each in DESCRIPTIONS))
    if found.commit is not None:
        return f"{found.commit}+{_digest(described)}"
    return f"sha256:{_digest([*described, *found.weights])}"


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(ENDS_BYTES))
            file.seek(max(size - ENDS_BYTES, 0))
            digest.update(file.read())
    return digest.hexdigest()[:16]

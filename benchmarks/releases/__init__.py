"""Checkpoints as their makers publish them, with random weights and narrow layers, and nothing else changed.

`build_release` writes what a model of the catalogue needs, as folders of repositories: a server that speaks the hub's
protocol can serve them.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.releases import ltx, svd
from pipelines.card import CheckpointCard, Source
from pipelines.catalogue import get_card


def build_release(model: str, where: Path) -> None:
    """Write every repository, or single file of one, that the card of `model` names, to `where/OWNER/NAME`.

    What is there already stays, so several models may share a folder.

    Raises:
        KeyError: the card names what no release here has.
    """
    card = get_card(model)
    assert isinstance(card, CheckpointCard), f"{model} has no weights"
    for source in (card.source, *card.components.values()):
        _build(source, where)


def _build(source: Source, where: Path) -> None:
    if source.repo is None:
        return  # of a local folder
    if source.file is None:
        _repository(source.repo, where)
    elif not (where / source.repo / source.file).exists():
        ltx.write_single_file(where / source.repo, source.file)
    if source.config is not None:
        _repository(source.config, where)


def _repository(name: str, where: Path) -> None:
    folder = where / name
    if (folder / "model_index.json").exists():
        return
    write = ltx.write_repository if name in ltx.REPOSITORIES else svd.write_repository
    write(folder, name)

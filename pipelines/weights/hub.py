"""Repositories on the Hugging Face hub: which commit, which files, what of them is in the cache, and fetching the rest.

Everything lies in the cache of the hub's own client, so that what other tools fetched counts. Whatever is in the cache
and complete is used without the network.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.card import WEIGHTLESS, Component
from pipelines.errors import WeightsUnavailable
from pipelines.weights.download import RemoteFile, cache_folder, download, partial_size
from pipelines.weights.files import component_files
from pipelines.weights.hub_errors import offline, sentences
from pipelines.weights.pin import MAIN, is_commit

TIMEOUT_S = 30
LOOKS, LOOK_EVERY_S = 5, 0.2
KEPT_FREE = 2**28
"""Bytes that fetching leaves free on the disk."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a component needs of one repository: one file, or the files of its folder."""

    model: str
    """The id of the card, for sentences."""
    repo: str
    revision: str | None
    """A commit, branch or tag; None is the branch `main`."""
    component: Component
    file: str | None = None
    """A path in the repository; None for the component's folder."""
    variant: str | None = None
    weights: bool = True
    """Whether the folder's weights are needed too."""

    def at(self, commit: str) -> Need:
        return replace(self, revision=commit)

    def choose(self, paths: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The paths that are needed among all of the repository's: those of descriptions, and those of weights.

        Raises:
            WeightsUnavailable: they are not all there.
        """
        where = f"{self.model}: {self.repo}"
        if self.file is None:
            wanted = self.weights and self.component not in WEIGHTLESS
            return component_files(paths, component=self.component, variant=self.variant, weights=wanted, where=where)
        if self.file not in paths:
            raise WeightsUnavailable(f"{where} has no file {self.file}; correct `file` in the card {self.model}.yaml")
        return (), (self.file,)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files of a repository that are in the cache."""

    folder: Path
    """The repository's root at this commit."""
    commit: str
    weights: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Lack:
    """What of a need is not in the cache."""

    files: tuple[RemoteFile, ...]
    """The files to fetch; empty when no listing of the repository is known here."""
    reason: str
    """What is missing, for a sentence."""


def bytes_to_come(files: Iterable[RemoteFile]) -> int:
    """The bytes that fetching files takes on the disk.

    What an interrupted attempt brought is there already, and what another commit has with the same contents too.
    """
    wanted = {(file.repo, file.blob): file for file in files}
    here = {(repo, blob) for repo in {file.repo for file in wanted.values()} for blob in _blobs_here(repo)}
    return sum(max(file.size - partial_size(file), 0) for key, file in wanted.items() if key not in here)


def _blobs_here(repo: str) -> set[str]:
    """The blobs of a repository that are whole in the cache and that any commit's files can link to."""
    snapshots = cache_folder(repo) / "snapshots"
    return {
        file.blob
        for folder in (snapshots.iterdir() if snapshots.is_dir() else ())
        for path, file in (_cached_listing(repo, folder.name) or {}).items()
        if (folder / path).is_symlink() and _size(folder / path) == file.size
    }


def commit_of(repo: str, revision: str | None, *, model: str | None = None) -> str:
    """The commit that a branch or tag (None: `main`) is now; where no hub can be reached, as the cache knows it.

    A revision that is a commit is returned as it is. `model` begins the sentence of an error; by default `repo` does.

    Raises:
        WeightsUnavailable: there is no such repository or revision, or neither hub nor cache know it.
    """
    from huggingface_hub import HfApi

    if revision is not None and is_commit(revision):
        return revision
    with sentences(model or repo, repo, revision):
        commit: str = HfApi().resolve_revision(repo, revision=revision).resolved
    return commit


def newest_commit(repo: str, revision: str | None, *, model: str) -> str:
    """The commit that a branch or tag is now, as the hub itself says.

    Raises:
        WeightsUnavailable: the hub cannot be reached, or has no such repository or revision.
    """
    from huggingface_hub import HfApi

    with sentences(model, repo, revision):
        commit: str = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT_S).sha
    return commit


def cached_commit(need: Need) -> str | None:
    """The commit that the cache knows for a need's revision, without the network."""
    revision = need.revision or MAIN
    if is_commit(revision):
        return revision
    with sentences(need.model, need.repo, need.revision):
        ref = cache_folder(need.repo) / "refs" / revision
        return ref.read_text().strip() if ref.is_file() else None


def in_cache(need: Need) -> Snapshot | Lack:
    """What the cache holds of a need, without the network.

    Raises:
        WeightsUnavailable: the repository does not have what is needed.
    """
    commit = cached_commit(need)
    if commit is None:
        return Lack((), need.component if need.file is None else need.file)
    folder = cache_folder(need.repo) / "snapshots" / commit
    listing = _cached_listing(need.repo, commit)
    if listing is None:
        return _unlisted(need, commit, folder)
    descriptions, weights = need.choose(listing)
    lacking = [listing[path] for path in (*descriptions, *weights) if _size(folder / path) != listing[path].size]
    if lacking:
        return Lack(tuple(lacking), ", ".join(file.path for file in lacking))
    return Snapshot(folder, commit, tuple(folder / path for path in weights))


def listed_weights(need: Need) -> tuple[RemoteFile, ...]:
    """The files with tensors that a need has, by the listing of its commit, which must be in the cache.

    Raises:
        WeightsUnavailable: the repository does not have them.
    """
    commit = cached_commit(need)
    listing = None if commit is None else _cached_listing(need.repo, commit)
    assert listing is not None
    return tuple(listing[path] for path in need.choose(listing)[1])


def fetch(need: Need) -> Snapshot:
    """The files of a need; fetches from the hub what is not in the cache.

    Raises:
        WeightsUnavailable: they cannot be fetched, the repository does not have them, or the disk is too small.
    """
    found = first_look(need)
    if isinstance(found, Lack):
        need = pinned(need, found)
        found = in_cache(need)
    if isinstance(found, Lack):
        check_space(need.model, bytes_to_come(found.files))
        with sentences(need.model, need.repo, need.revision):
            for file in found.files:
                download(file, need.model)
        found = _settled(need)
    if isinstance(found, Lack):
        raise WeightsUnavailable(
            f"{need.model}: {found.reason} of {need.repo} came, and is no longer whole in the cache: another process "
            f"removes or changes files there; run `./kinoray prefetch {need.model}` again"
        )
    return found


def _settled(need: Need) -> Snapshot | Lack:
    """What the cache holds once nobody is putting the same file in place, which takes it away for a moment."""
    from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_fixed

    looks = Retrying(
        retry=retry_if_result(lambda found: isinstance(found, Lack)),
        stop=stop_after_attempt(LOOKS),
        wait=wait_fixed(LOOK_EVERY_S),
        retry_error_callback=lambda _: in_cache(need),
    )
    return looks(in_cache, need)


def first_look(need: Need) -> Snapshot | Lack:
    """What the cache holds of a need that may be fetched; a branch may have by now what it lacked.

    Raises:
        WeightsUnavailable: the commit that is named does not have what is needed.
    """
    from huggingface_hub import constants

    try:
        return in_cache(need)
    except WeightsUnavailable:
        if is_commit(need.revision) or constants.is_offline_mode():
            raise  # a commit never changes, and a branch of the cache neither
        return Lack((), need.component)


def pinned(need: Need, lack: Lack) -> Need:
    """The need at the commit that the hub says its revision is now, whose listing is then in the cache.

    Raises:
        WeightsUnavailable: the hub cannot be reached or has no such repository; `lack` says what it was asked for.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise offline(need.model, need.repo, lack.reason)
    need = need.at(commit_of(need.repo, need.revision, model=need.model))
    _list(need)
    return need


def check_space(model: str, size: int) -> None:
    """Refuse to begin what the disk with the cache cannot hold.

    Raises:
        WeightsUnavailable: fewer than `size` bytes are free there.
    """
    from huggingface_hub import constants

    place = cache = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size + KEPT_FREE > free and size > 0:
        raise WeightsUnavailable(
            f"{model}: {size / 1e9:.1f} GB are to be fetched to {cache}, where {free / 1e9:.1f} GB are free; "
            "free as much, or set HF_HOME to a folder on a larger disk"
        )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _unlisted(need: Need, commit: str, folder: Path) -> Snapshot | Lack:
    """What the cache holds, by the files' own names: a tool fetched them that keeps no listing."""
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    try:
        _, weights = need.choose(paths)
    except WeightsUnavailable:
        return Lack((), need.component if need.file is None else need.file)
    return Snapshot(folder, commit, tuple(folder / path for path in weights))


def _cached_listing(repo: str, commit: str) -> dict[str, RemoteFile] | None:
    """Every file of a repository by its path, as the cache knows them."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        listed = get_cached_repo_tree(repo, revision=commit)
    except CachedRepoTreeNotFoundError:
        return None
    return {each.path: RemoteFile(repo, commit, each.path, each.size, each.blob_id) for each in listed}


def _list(need: Need) -> None:
    """Let the client keep the listing of a commit in its cache, where it also serves whoever has no network later."""
    from huggingface_hub import HfApi, snapshot_download

    assert need.revision is not None
    if _cached_listing(need.repo, need.revision) is not None:
        return
    with sentences(need.model, need.repo, need.revision):
        # First with a timeout, once, for what is wrong with the repository; the listing is retried for long.
        HfApi().model_info(need.repo, revision=need.revision, timeout=TIMEOUT_S)
        # Every repository of the hub has this file.
        snapshot_download(need.repo, revision=need.revision, allow_patterns=[".gitattributes"], tqdm_class=_no_bar())
    if _cached_listing(need.repo, need.revision) is None:
        folder = cache_folder(need.repo)
        raise WeightsUnavailable(
            f"{need.model}: nothing can be written to {folder}; make it writable or set HF_HOME to a folder that is"
        )


def _no_bar() -> Any:
    from huggingface_hub.utils import tqdm

    class NoBar(tqdm):
        """A progress bar that is not shown."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return NoBar

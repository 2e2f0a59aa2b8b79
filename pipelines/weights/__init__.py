"""Load weights from a local diffusers folder, the Hugging Face hub's cache, or a single file.

Nothing is downloaded while a request waits: a service uses the cache that `kinoray prefetch MODEL` filled, and fetches
at start only what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.card import CheckpointCard, Component, ModelCard, Source
from pipelines.errors import WeightsUnavailable
from pipelines.paths import ROOT

if TYPE_CHECKING:
    import torch

DESCRIPTIONS = ("*.json", "*.model", "*.txt")
ENDS_BYTES = 2**20
WEIGHTLESS = frozenset({"tokenizer", "feature_extractor", "scheduler"})


def load_component(
    kind: Any,
    card: CheckpointCard,
    component: Component,
    *,
    dtype: torch.dtype,
    device: torch.device,
    from_single_file: Callable[..., Any] | None = None,
) -> Any:
    """Load one network of a model, ready for inference.

    `from_single_file` reads a single-file checkpoint that the network's class cannot read.

    Raises:
        WeightsUnavailable: the folder or file does not exist, or the hub cannot be reached.
    """
    source = card.component_source(component)
    if source.file is not None:
        config = locate_config(card, source, component)
        read = from_single_file or kind.from_single_file
        network = read(str(_single_file(card, source)), config=config, subfolder=component, dtype=dtype)
    else:
        network = kind.from_pretrained(
            str(locate(card, component)), subfolder=component, dtype=dtype, variant=source.variant
        )
    # Parameters keep requiring gradients, as in a diffusers pipeline: torch.matmul folds a batch depending on that
    # flag, even where nothing is recorded, and the other kernel gives different bits.
    return network.to(device).eval()


def locate(card: CheckpointCard, component: Component) -> Path:
    """The local diffusers folder that holds `component`; fetches it from the hub if it is not cached yet."""
    source = card.component_source(component)
    folder = source.path()
    if folder is None and source.file is not None:
        return Path(locate_config(card, source, component))
    if folder is None:
        patterns = _patterns(component, source.variant)
        folder = _from_hub(card, source.repo or "", source.revision, component, patterns)
    if not (folder / component).is_dir():
        raise WeightsUnavailable(f"{card.id}: {folder} has no folder {component}; it must be a diffusers checkpoint")
    return folder


def locate_config(card: CheckpointCard, source: Source, component: Component) -> str:
    """The folder with a single-file component's configuration."""
    config = source.config or ""
    folder = ROOT / config
    return str(folder if folder.is_dir() else _from_hub(card, config, None, component, DESCRIPTIONS))


def revision(card: CheckpointCard, component: Component) -> str:
    """Identify the weights: the hub's commit, or else a digest of the files' names, sizes, beginnings and ends.

    A full digest would read gigabytes at every start and would tell more than is needed.
    """
    source = card.component_source(component)
    if source.file is not None:
        files = [_single_file(card, source)]
    else:
        folder = locate(card, component)
        if folder.parent.name == "snapshots":  # in the hub's cache, the folder's name is the commit
            return folder.name
        files = sorted((folder / component).glob(_patterns(component, source.variant)[0]))
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(ENDS_BYTES))
            file.seek(max(size - ENDS_BYTES, 0))
            digest.update(file.read())
    return f"sha256:{digest.hexdigest()[:16]}"


def prefetch(card: ModelCard) -> list[Path]:
    """Fetch every missing component of a model onto this machine, with a progress bar; returns their paths."""
    if not isinstance(card, CheckpointCard):
        return []  # it has no weights
    components = sorted({component for stage in card.STAGES.values() for component in stage})
    places = []
    for component in components:
        source = card.component_source(component)
        places.append(_single_file(card, source) if source.file else locate(card, component))
        if source.file:
            locate_config(card, source, component)
    return sorted(set(places))


def _patterns(component: Component, variant: str | None) -> tuple[str, ...]:
    """The patterns of a component's files, the indispensable ones first; of one variant, if the card names one."""
    if component in WEIGHTLESS:
        return DESCRIPTIONS
    return (f"*.{variant}.safetensors" if variant else "*.safetensors", *DESCRIPTIONS)


def _single_file(card: CheckpointCard, source: Source) -> Path:
    if source.repo is None:
        path = ROOT / (source.file or "")
        if not path.is_file():
            raise WeightsUnavailable(
                f"{card.id}: there is no file {path}; set source.file in configs/models/{card.id}.yaml"
            )
        return path
    from huggingface_hub import hf_hub_download

    with _HubErrors(card, source.repo):
        return Path(hf_hub_download(source.repo, source.file or "", revision=source.revision))


def _from_hub(
    card: CheckpointCard, repo: str, revision: str | None, component: Component, patterns: tuple[str, ...]
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = [f"{component}/{pattern}" for pattern in patterns]
    try:
        cached = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, local_files_only=True))
        if any((cached / component).glob(patterns[0])):
            return cached
    except LocalEntryNotFoundError:
        pass  # not cached yet: fetch it below
    with _HubErrors(card, repo):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))


class _HubErrors:
    """Turn errors of the hub's client into WeightsUnavailable, with one message that says what to do."""

    def __init__(self, card: CheckpointCard, repo: str) -> None:
        self.card, self.repo = card, repo

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        if isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OSError):
            raise WeightsUnavailable(
                f"{self.card.id}: {self.repo} could not be fetched from the Hugging Face hub ({type(error).__name__}). "
                f"Where no hub can be reached, copy the checkpoint here and set "
                f"`source: {{folder: /path/to/it}}` in configs/models/{self.card.id}.yaml"
            ) from error

"""Where weights come from: a local diffusers folder, the Hugging Face hub's cache, or a single file.

Nothing here downloads while a request waits: a service runs from the cache that `kinoray prefetch MODEL` filled, and
fetches at start only what is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.catalogue import Component, ModelCard, Source
from pipelines.errors import WeightsUnavailable

if TYPE_CHECKING:
    import torch

WEIGHTS = ("*.safetensors", "*.json", "*.model", "*.txt")


def load_component(
    kind: Any, card: ModelCard, component: Component, *, dtype: torch.dtype, device: torch.device
) -> Any:
    """Load one network of a model, ready for inference.

    Raises:
        WeightsUnavailable: the folder or file is not there, or the hub cannot be reached.
    """
    source = card.component_source(component)
    if source.file is not None:
        config = locate_config(card, source, component)
        network = kind.from_single_file(
            str(_single_file(card, source)), config=config, subfolder=component, dtype=dtype
        )
    else:
        network = kind.from_pretrained(str(locate(card, component)), subfolder=component, dtype=dtype)
    return network.to(device).eval().requires_grad_(False)


def locate(card: ModelCard, component: Component) -> Path:
    """The local diffusers folder that holds `component`, fetched from the hub when it is not cached yet."""
    source = card.component_source(component)
    folder = source.path()
    if folder is None and source.file is not None:
        return Path(locate_config(card, source, component))
    folder = folder or _from_hub(card, source.repo or "", source.revision, (component,))
    if not (folder / component).is_dir():
        raise WeightsUnavailable(f"{card.id}: {folder} has no folder {component}; it must be a diffusers checkpoint")
    return folder


def locate_config(card: ModelCard, source: Source, component: Component) -> str:
    """The folder with a single-file component's configuration."""
    config = source.config or ""
    return config if Path(config).is_dir() else str(_from_hub(card, config, None, (component,), WEIGHTS[1:]))


def prefetch(card: ModelCard) -> list[Path]:
    """Bring every component of a model onto this machine, with a progress bar for what has to be fetched."""
    components: tuple[Component, ...] = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
    places = []
    for component in components:
        source = card.component_source(component)
        places.append(_single_file(card, source) if source.file else locate(card, component))
        if source.file:
            locate_config(card, source, component)
    return sorted(set(places))


def _single_file(card: ModelCard, source: Source) -> Path:
    if source.repo is None:
        path = Path(source.file or "")
        if not path.is_file():
            raise WeightsUnavailable(
                f"{card.id}: there is no file {path}; set source.file in configs/models/{card.id}.yaml"
            )
        return path
    from huggingface_hub import hf_hub_download

    with _HubErrors(card, source.repo):
        return Path(hf_hub_download(source.repo, source.file or "", revision=source.revision))


def _from_hub(
    card: ModelCard,
    repo: str,
    revision: str | None,
    components: tuple[Component, ...],
    patterns: tuple[str, ...] = WEIGHTS,
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = [f"{component}/{pattern}" for component in components for pattern in patterns]
    try:
        cached = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, local_files_only=True))
        if all(any((cached / component).glob("*")) for component in components):
            return cached
    except LocalEntryNotFoundError:
        pass  # not cached yet: fetch it below
    with _HubErrors(card, repo):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))


class _HubErrors:
    """Turn whatever the hub's client raises into one sentence that names the way out."""

    def __init__(self, card: ModelCard, repo: str) -> None:
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

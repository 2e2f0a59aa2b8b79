"""The model catalogue: one YAML file per model in `configs/models/`, read without torch.

A card says where the weights are, which family runs them, in which dtype, and what a request may ask for.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "configs" / "models"

Component = Literal["text_encoder", "tokenizer", "transformer", "vae", "scheduler"]
Dtype = Literal["float32", "bfloat16", "float16"]


class StrictModel(BaseModel):
    """Frozen, and a misspelt key is an error at every level of nesting."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Source(StrictModel):
    """Where weights are: exactly one of a local diffusers folder, a hub repository or a single file."""

    folder: Path | None = None
    """A diffusers folder; a relative path starts at the repository's root."""
    repo: str | None = None
    """A repository on the Hugging Face hub, such as `Lightricks/LTX-Video-0.9.5`."""
    revision: str | None = None
    """The commit, tag or branch of `repo`."""
    file: str | None = None
    """A single-file checkpoint: a local path, or with `repo` a file name inside it."""
    config: str | None = None
    """With `file`: the diffusers folder or repository that holds the component's configuration."""

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.folder is None) == (self.repo is None and self.file is None):
            raise ValueError("give exactly one of folder, repo or file")
        if self.file and not self.config:
            raise ValueError("file needs config: the diffusers folder or repository with the component's configuration")
        return self

    def path(self) -> Path | None:
        """The local folder, absolute; None when the weights live elsewhere."""
        return None if self.folder is None else (ROOT / self.folder)


class Compression(StrictModel):
    """How many pixels and frames one latent stands for."""

    spatial: int = Field(ge=1)
    temporal: int = Field(ge=1)


class Limits(StrictModel):
    """What a request may ask for. Sizes are pixels."""

    size_multiple: int = Field(default=32, ge=1)
    min_size: int = Field(default=32, ge=1)
    max_size: int = Field(ge=1)
    max_pixels: int = Field(ge=1)
    """The most width x height x frames of one video."""
    max_num_frames: int = Field(ge=1)
    max_prompt_chars: int = Field(default=4000, ge=1)


class Defaults(StrictModel):
    """What a request gets that does not say."""

    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float = 0.0
    negative_prompt: str = ""
    decode_timestep: float = 0.0
    decode_noise_scale: float | None = None
    max_sequence_length: int = 128
    timesteps: tuple[float, ...] | None = None
    """A distilled model's own schedule, in descending order from 1000. It fixes num_inference_steps."""

    @model_validator(mode="after")
    def _schedule_fixes_steps(self) -> Defaults:
        if self.timesteps is not None and len(self.timesteps) != self.num_inference_steps:
            raise ValueError("num_inference_steps must be the length of timesteps")
        return self


class ModelCard(StrictModel):
    """One model the service can run."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.\-]*$")]
    name: str
    family: Literal["ltx"]
    license: str
    source: Source
    components: dict[Component, Source] = {}
    """Components that come from elsewhere than `source`; models that name the same place share one encoder."""
    dtype: dict[Literal["cpu", "cuda"], Dtype] = {"cpu": "float32", "cuda": "bfloat16"}
    compression: Compression
    limits: Limits
    defaults: Defaults

    def component_source(self, component: Component) -> Source:
        return self.components.get(component, self.source)


def load_card(path: Path) -> ModelCard:
    """Read one card.

    Raises:
        ConfigError: the file is not YAML, or a key is missing, unknown or has a wrong value.
    """
    try:
        data: Any = yaml.safe_load(path.read_text())
        card = ModelCard.model_validate(data)
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if card.id != path.stem:
        raise ConfigError(f"{path}: id is {card.id!r}, the file's name says {path.stem!r}; make them the same")
    return card


@cache
def load_catalogue(folder: Path = CATALOGUE) -> dict[str, ModelCard]:
    """Every card in a folder, by id."""
    return {card.id: card for card in map(load_card, sorted(folder.glob("*.yaml")))}


def get_card(model: str) -> ModelCard:
    """A card by its id.

    Raises:
        ConfigError: the catalogue has no such model.
    """
    cards = load_catalogue()
    if model not in cards:
        raise ConfigError(f"no model {model!r} in {CATALOGUE}; there are {', '.join(cards)}")
    return cards[model]

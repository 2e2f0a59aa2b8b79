"""What every model's card and request have in common; each family adds its own in `pipelines/FAMILY/card.py`. No torch.

A family is described by three models: the fields a request may carry, the defaults on its card, and the effective
parameters of one video. A parameter that a request does not set comes from the default of the same name.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from pipelines.paths import ROOT
from pipelines.stages import Stage
from pipelines.strict import StrictModel

Component = Literal[
    "text_encoder", "tokenizer", "image_encoder", "feature_extractor", "transformer", "unet", "vae", "scheduler"
]
Dtype = Literal["float32", "bfloat16", "float16"]


class Source(StrictModel):
    """Where weights are: exactly one of a local diffusers folder, a hub repository or a single file."""

    folder: Path | None = None
    """A diffusers folder; a relative path starts at the repository's root."""
    repo: str | None = None
    """A repository on the Hugging Face hub, such as `Lightricks/LTX-Video-0.9.5`."""
    revision: str | None = None
    """The commit, tag or branch of `repo`."""
    variant: str | None = None
    """Which of several sets of files, such as `fp16`: `model.fp16.safetensors`."""
    file: str | None = None
    """A single-file checkpoint: a local path, or with `repo` a file name inside it."""
    config: str | None = None
    """With `file`: the diffusers folder or repository that holds the component's configuration.

    Local paths start at the repository's root.
    """

    @model_validator(mode="after")
    def _one_place(self) -> Self:
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


class CommonFields(BaseModel):
    """The fields of a request that every family knows; None means the model's default."""

    prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: Annotated[int, Field(ge=1, le=120)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class CommonDefaults(StrictModel):
    """What a request gets that does not say."""

    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int


class CommonParameters(StrictModel):
    """The effective parameters of one video. With the model's revision they determine its every pixel."""

    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    seed: int

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps

    @property
    @abstractmethod
    def guided(self) -> bool:
        """Whether classifier-free guidance runs, which doubles the batch."""

    @property
    def megapixels(self) -> float:
        """Of all frames together, in millions: what decoding costs grows with it."""
        return self.width * self.height * self.num_frames / 1e6

    @property
    def denoising_work(self) -> float:
        """Megapixels that pass through the denoiser: the cost of every step and of both passes of guidance."""
        return self.megapixels * self.num_inference_steps * (2 if self.guided else 1)


class CommonCard(StrictModel):
    """One model the service can run."""

    STAGES: ClassVar[dict[Stage, tuple[Component, ...]]]
    """The stages of the family, and which components of the checkpoint each loads."""
    TAKES_PROMPT: ClassVar[bool]
    NEEDS_IMAGE: ClassVar[bool]

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.\-]*$")]
    name: str
    license: str
    compression: Compression
    limits: Limits
    example_image: Path | None = None
    """A picture to try the model with; a relative path starts at the repository's root."""

    @abstractmethod
    def shared_by(self, stage: Stage) -> object:
        """Models for which this is equal can use the same replicas of a stage."""


DTYPES: dict[Literal["cpu", "cuda"], Dtype] = {"cpu": "float32", "cuda": "bfloat16"}


class CheckpointCard(CommonCard):
    """A model that has weights."""

    source: Source
    components: dict[Component, Source] = Field(default_factory=dict)
    """Components that come from elsewhere than `source`; models that name the same place share its replicas."""
    dtype: dict[Literal["cpu", "cuda"], Dtype] = Field(default_factory=lambda: {**DTYPES})

    def component_source(self, component: Component) -> Source:
        return self.components.get(component, self.source)

    def shared_by(self, stage: Stage) -> object:
        return (type(self), *(self.component_source(each) for each in self.STAGES[stage]), *sorted(self.dtype.items()))

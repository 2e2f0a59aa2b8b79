"""The common part of every model's card and request. Each family extends it in `pipelines/FAMILY/card.py`. No torch.

Three pydantic models describe a family: the fields a request may carry, the defaults on its card, and the effective
parameters of one video. A parameter that a request does not set gets the default of the same name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from pipelines.paths import ROOT
from pipelines.stages import Stage
from pipelines.strict import StrictModel

if TYPE_CHECKING:
    from pipelines.weights.network import Network

Component = str
"""The name of a part of a checkpoint and of its folder, as in diffusers: `transformer`, `vae`, `text_encoder`."""
Dtype = Literal["float32", "bfloat16", "float16"]


class Source(StrictModel):
    """The location of weights: exactly one of a local diffusers folder, a hub repository or a single file."""

    folder: Path | None = None
    """A diffusers folder; a relative path starts at the repository's root."""
    repo: str | None = None
    """A repository on the Hugging Face hub, such as `Lightricks/LTX-Video-0.9.5`."""
    revision: str | None = None
    """The commit, tag or branch of `repo`."""
    variant: str | None = None
    """The variant among several sets of files: `fp16` selects `model.fp16.safetensors`."""
    file: str | None = None
    """A single-file checkpoint: a local path, or with `repo` a file name inside it."""
    config: str | None = None
    """With `file`: the diffusers folder or repository that holds the component's configuration.

    Local paths start at the repository's root.
    """

    @field_validator("folder", "file", "config", mode="before")
    @classmethod
    def _at_home(cls, place: object) -> object:
        return str(Path(place).expanduser()) if isinstance(place, str) and place.startswith("~") else place

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.folder is None) == (self.repo is None and self.file is None):
            raise ValueError("give exactly one of folder, repo or file")
        if self.file and not self.config:
            raise ValueError("file needs config: the diffusers folder or repository with the component's configuration")
        if self.config and not self.file:
            raise ValueError("config belongs to file: a folder or repository has its own configuration")
        if self.revision and not self.repo:
            raise ValueError("revision belongs to repo: a local file or folder has none")
        if self.variant and self.file:
            raise ValueError("variant chooses among files, and file names one")
        return self

    def path(self) -> Path | None:
        """The local folder or file, absolute; None when the weights are from the hub."""
        if self.repo is not None:
            return None
        return ROOT / (self.folder or self.file or "")


class Compression(StrictModel):
    """The number of pixels and frames that one latent represents."""

    spatial: int = Field(ge=1)
    temporal: int = Field(ge=1)


class Limits(StrictModel):
    """The limits of a request. Sizes are in pixels."""

    size_multiple: int = Field(default=32, ge=1)
    min_size: int = Field(default=32, ge=1)
    max_size: int = Field(ge=1)
    max_pixels: int = Field(ge=1)
    """The maximum of width x height x frames of one video."""
    max_num_frames: int = Field(ge=1)
    max_prompt_chars: int = Field(default=4000, ge=1)

    def allow_side(self, side: int) -> bool:
        """Whether a video may be so wide, or so high."""
        return self.min_size <= side <= self.max_size and side % self.size_multiple == 0

    def allow_pixels(self, width: int, height: int, num_frames: int) -> bool:
        """Whether a video may have so many pixels."""
        return width * height * num_frames <= self.max_pixels


Size = Annotated[str, Field(pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$")]
"""`WIDTHxHEIGHT` in pixels, as in a request's `size`."""


class RequestFields(BaseModel):
    """The request fields that every family supports; None means the model's default."""

    prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: Annotated[int, Field(ge=1, le=120)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    seed: Annotated[int, Field(ge=-1, lt=2**63)] | None = None
    """-1 is drawn at random, as is an absent one."""


class Defaults(StrictModel):
    """The values of fields that a request does not set."""

    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int


class Parameters(StrictModel):
    """The effective parameters of one video. Together with the model's revision they determine every pixel."""

    family: str
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
        """Whether classifier-free guidance runs, which takes another forward pass in a step."""

    @property
    def megapixels(self) -> float:
        """Millions of pixels in all frames together; the cost of decoding grows with it."""
        return self.width * self.height * self.num_frames / 1e6

    @property
    def forward_passes(self) -> int:
        """The denoiser's, over all steps; guidance takes more than one in a step."""
        return self.num_inference_steps * (2 if self.guided else 1)

    @property
    def denoising_work(self) -> float:
        """Megapixels that pass through the denoiser, over all of its forward passes."""
        return self.megapixels * self.forward_passes


class ModelCard(StrictModel):
    """A model that the service can run; the base of every family's card."""

    STAGES: ClassVar[dict[Stage, tuple[Component, ...]]]
    """The stages of the family, and the components of the checkpoint that each loads."""
    TAKES_PROMPT: ClassVar[bool]
    NEEDS_IMAGE: ClassVar[bool]

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.\-]*$")]
    family: str
    """The name that the family registers; see `pipelines.families`."""
    name: str
    license: str
    compression: Compression
    limits: Limits
    defaults: Defaults
    recommended_sizes: tuple[Size, ...] = ()
    """The sizes with which the model works best, the first one before all others."""
    advice: str | None = None
    """What makes good videos, in a few sentences for those who write requests."""
    vocabulary: tuple[str, ...] = ()
    """The only words that the model knows, in lower case; none for one that was trained on language."""
    example_image: Path | None = None
    """An image for trying the model; a relative path starts at the repository's root."""

    @model_validator(mode="after")
    def _recommends_what_it_allows(self) -> Self:
        for size in self.recommended_sizes:
            width, height = map(int, size.split("x"))
            frames, limits = self.defaults.num_frames, self.limits
            sides = limits.allow_side(width) and limits.allow_side(height)
            if not (sides and limits.allow_pixels(width, height, frames)):
                raise ValueError(f"recommended_sizes has {size}, which limits do not allow for {frames} frames")
        return self

    @property
    def takes_image(self) -> bool:
        """Whether a request may give a picture."""
        return Stage.IMAGE_ENCODE in self.STAGES

    @property
    def allowed_num_inference_steps(self) -> tuple[int, ...]:
        """The possible values of num_inference_steps, ascending; empty if any number is possible."""
        return ()

    def values(self, said: Mapping[str, object]) -> dict[str, object]:
        """The values of a video's parameters, but for the family and a seed: the defaults, and what a request says."""
        return {**self.defaults.model_dump(), **said}

    @abstractmethod
    def default_parameters(self) -> Parameters:
        """The parameters of an empty request; the stages warm up with them."""

    @abstractmethod
    def shared_by(self, stage: Stage) -> object:
        """A value that is equal for models that can share the replicas of a stage."""


PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth"})
WEIGHTLESS = frozenset({"tokenizer", "feature_extractor", "scheduler"})
"""The components that are only described: of a card's single file they come from its `config`."""
DTYPES: dict[Literal["cpu", "cuda"], Dtype] = {"cpu": "float32", "cuda": "bfloat16"}


class CheckpointCard(ModelCard):
    """A model that has weights."""

    FILES: ClassVar[Mapping[Component, tuple[str, ...]]] = {}
    """The components that a single file may hold, and the formats of such a file."""
    ONE_FILE: ClassVar[frozenset[Component]] = frozenset()
    """The components that the makers publish together in one file."""

    source: Source
    components: dict[Component, Source] = Field(default_factory=dict)
    """Components from other places than `source`; models that name the same place share its replicas."""
    dtype: dict[Literal["cpu", "cuda"], Dtype] = Field(default_factory=lambda: {**DTYPES})
    download_gb: float | None = Field(default=None, gt=0)
    """How much `kinoray prefetch` fetches for this model, in 10^9 bytes."""

    @field_validator("components")
    @classmethod
    def _known(cls, components: dict[Component, Source]) -> dict[Component, Source]:
        if unknown := sorted(components.keys() - set(cls.all_components())):
            raise ValueError(f"there is no component {unknown[0]!r}; there are {', '.join(cls.all_components())}")
        return components

    @model_validator(mode="after")
    def _readable(self) -> Self:
        for component in self.all_components():
            if component not in WEIGHTLESS and (file := self.component_source(component).file) is not None:
                self._check_file(component, file)
        return self

    def _check_file(self, component: Component, file: str) -> None:
        suffix = Path(file).suffix.lower()
        if suffix in PICKLES:
            raise ValueError(
                f"{file} is a pickle, which runs code when it is loaded; save its tensors with safetensors.torch."
                f"save_file and name that file"
            )
        if component not in self.components and component not in self.ONE_FILE:
            raise ValueError(f"{component} is not in {file}; give its source as components.{component}")
        if suffix not in self.FILES.get(component, ()):
            kinds = "".join(f"a {kind} file or " for kind in self.FILES.get(component, ()))
            raise ValueError(f"{component} can be read from {kinds}a diffusers folder, not from {file}")

    @staticmethod
    def networks() -> Mapping[Component, Network]:
        """How the networks of the components are built and filled. Imports no torch before they are built."""
        return {}

    @classmethod
    def all_components(cls) -> tuple[Component, ...]:
        """The components of all stages, each once."""
        return tuple(sorted({component for stage in cls.STAGES.values() for component in stage}))

    def component_source(self, component: Component) -> Source:
        return self.components.get(component, self.source)

    def shared_by(self, stage: Stage) -> object:
        return (type(self), *(self._place(each) for each in self.STAGES[stage]), *sorted(self.dtype.items()))

    def _place(self, component: Component) -> object:
        """A value that is equal where a component comes from the same place."""
        source = self.component_source(component)
        if component in WEIGHTLESS and source.repo is None:  # of a single file it is what the file's `config` has
            return str(source.folder if source.file is None else source.config)
        return source

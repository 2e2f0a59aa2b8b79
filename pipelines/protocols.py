"""What a model family is: the Protocols of its stages, and the value that it registers. No torch.

A family takes a prompt, an image or both to conditioning, conditioning to latents, and latents to frames:

    TextStage.encode ──▶ T ─┐
                            ├─▶ DenoiseStage.begin ──▶ DenoiseRun.step ... result ──▶ L ──▶ DecodeStage.chunks
    ImageStage.encode ─▶ I ─┘

Each stage is loaded alone, in a process of its own. C, P, T, I, S and L stand for a family's own card, parameters, text
and image conditioning, denoise state and latents. docs/adding-a-family.md shows a whole family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import Field, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from pipelines.card import ModelCard, Parameters
from pipelines.graph import Graph, one_pass
from pipelines.output import Output, RenderedVideo, metadata_of

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    Frame: TypeAlias = NDArray[np.uint8]  # [H, W, 3] RGB
    Pixels: TypeAlias = Tensor | NDArray[np.uint8]  # [n, 3, H, W] in [0, 1] on any device, or [n, H, W, 3] RGB


class StageOutput(Protocol):
    """A frozen dataclass of tensors or arrays and plain values, which `pipelines.serialization` turns into bytes."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


C = TypeVar("C", bound=ModelCard)
P = TypeVar("P", bound=Parameters)
P_contra = TypeVar("P_contra", bound=Parameters, contravariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
I = TypeVar("I")  # noqa: E741 the letter of the drawing above
I_co = TypeVar("I_co", covariant=True)
S = TypeVar("S", bound=StageOutput)
S_co = TypeVar("S_co", bound=StageOutput, covariant=True)
L = TypeVar("L", bound=StageOutput)
L_co = TypeVar("L_co", bound=StageOutput, covariant=True)
L_contra = TypeVar("L_contra", bound=StageOutput, contravariant=True)
Loaded = TypeVar("Loaded", bound="LoadedStage")


@dataclass(frozen=True, slots=True)
class Resources:
    """What a stage may use: a GPU, if there is one, and CPU threads; None leaves PyTorch's own number."""

    gpu: bool
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    """A video's sound. A decoder yields it before the frames, because a file names its tracks first."""

    samples: NDArray[np.float32]  # [channels, n] in [-1, 1]; 1 or 2 channels
    rate: int  # samples per second


class Placement(Protocol):
    """Where a stage computes: its device, dtype and attention kernel."""

    def synchronize(self) -> None:
        """Wait until all launched work is done."""

    def result_metadata(self) -> dict[str, str]:
        """The placement as text, for a job's result_metadata."""


class LoadedStage(Protocol):
    """A stage of a model, with its weights."""

    @property
    def placement(self) -> Placement: ...

    def warm_up(self) -> None:
        """Run once, so that the first request finds every kernel ready."""


class TextStage(LoadedStage, Protocol[P_contra, T_co]):
    """Encodes prompts."""

    def truncates(self, prompt: str, parameters: P_contra) -> bool:
        """Whether the prompt is too long, so that the model sees only its beginning."""

    def encode(self, prompt: str, parameters: P_contra) -> T_co:
        """The conditioning of a prompt, on the CPU."""


class ImageStage(LoadedStage, Protocol[P_contra, I_co]):
    """Encodes images."""

    def encode(self, image: Image, parameters: P_contra) -> I_co:
        """The conditioning of an RGB image of any size, on the CPU."""


@dataclass(frozen=True, slots=True)
class DenoiseInputs(Generic[T, I, L]):
    """What a denoise begins from, beside its parameters."""

    text: T
    image: I
    latents: L | None = None
    """The result of an earlier pass, where the family's graph has one."""


class DenoiseRun(Protocol[S_co, L_co]):
    """One denoise. Call `step` until `step_index` reaches `num_steps`, then take `result`."""

    @property
    def num_steps(self) -> int: ...

    @property
    def step_index(self) -> int:
        """The next step to run, 0 to `num_steps`."""

    @property
    def state(self) -> S_co:
        """The state between two steps, on the CPU. A run that begins from it gives the same bits."""

    def step(self) -> None:
        """Run the next step."""

    def result(self) -> L_co:
        """The finished latents, on the CPU. Call it only after the last step."""


class DenoiseStage(LoadedStage, Protocol[P_contra, T, I, S, L]):
    """Turns noise into latents."""

    def begin(self, parameters: P_contra, inputs: DenoiseInputs[T, I, L], state: S | None = None) -> DenoiseRun[S, L]:
        """Start a denoise, or resume one from its state."""


class DecodeStage(LoadedStage, Protocol[P_contra, L_contra]):
    """Turns latents into frames, and into sound where the model has any."""

    def chunks(self, latents: Sequence[L_contra], parameters: P_contra) -> Iterator[Pixels | Audio]:
        """Decode chunk by chunk: the sound, if there is any, then the frames. A call can be cancelled between two.

        Args:
            latents: one for each denoise that the graph's node names, in that order.
        """


@runtime_checkable
class DecodesInLessMemory(Protocol[P_contra, L_contra]):
    """What a decode stage has in addition if it can do with less memory, at the cost of time or of the same bits."""

    def in_less_memory(
        self, latents: Sequence[L_contra], parameters: P_contra
    ) -> tuple[Iterator[Pixels | Audio], str | None]:
        """The chunks of `DecodeStage.chunks`, decoded in less memory, after which the stage decodes as before.

        Returns:
            the chunks, and what differs in the video, for the job's `degradations`; None if the bits are the same.
        """


Loader = Callable[[C, Resources], Loaded]
"""Loads one stage of a model. Raises WeightsUnavailable when its checkpoint is not here and cannot be fetched."""


class Render(Protocol[P_contra]):
    """Makes a video's files from its frames."""

    def __call__(
        self,
        frames: Iterable[Frame | Audio],
        parameters: P_contra,
        metadata: dict[str, object],
        output: Output,
        *,
        threads: int,
    ) -> RenderedVideo: ...


def _render(
    frames: Iterable[Frame | Audio],
    parameters: Parameters,
    metadata: dict[str, object],
    output: Output,
    *,
    threads: int,
) -> RenderedVideo:
    from pipelines.video import render

    return render(frames, parameters, metadata, output, threads=threads)


def _nothing(card: C, parameters: P) -> None:
    """The model can do whatever its limits allow."""


@dataclass(frozen=True, slots=True)
class Stages(Generic[C, P, T, I, S, L]):
    """The stages of a family, each a class or function that loads it, and its stage outputs that are stored."""

    denoise: Loader[C, DenoiseStage[P, T, I, S, L]]
    decode: Loader[C, DecodeStage[P, L]]
    state: type[S]
    """The state of a denoise, as which a checkpoint is read back."""
    latents: type[L]
    """The result of a denoise, as which committed latents are read back."""
    text: Loader[C, TextStage[P, T]] | None = None
    image: Loader[C, ImageStage[P, I]] | None = None


@dataclass(frozen=True, slots=True)
class Family(Generic[C, P, T, I, S, L]):
    """What a family registers. The catalogue, the request fields and the deployments are composed of these."""

    name: str
    card: type[C]
    """A model's card. Its field `family` is the literal `name`."""
    parameters: type[P]
    """The effective parameters of one video. Its field `family` is the literal `name`."""
    stages: Callable[[], Stages[C, P, T, I, S, L]]
    """The family's stages. Only this may import torch."""
    revision: Callable[[C], str]
    """Identifies the weights of a model's denoiser."""
    fields: type[BaseModel] = BaseModel
    """The request fields that only this family supports; None is the default of each."""
    check: Callable[[C, P], None] = _nothing
    """Checks what no single field can check. Raises InvalidRequest."""
    graph: Callable[[C, P, bool], Graph] = one_pass
    """The stage graph of one job, given its card, its parameters and whether it has an image."""
    metadata: Callable[[str, P], dict[str, object]] = metadata_of
    """The metadata in a video's file, given its model and parameters."""
    render: Render[P] = _render

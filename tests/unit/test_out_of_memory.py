"""A stage whose memory runs out frees it, does with less where it can, and leaves the next job its bits."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.random_weights import build_ltx, build_svd, ltx_card, svd_card
from deployments.stages.messages import DecodeRequest, ImageRequest
from jobs.stored import ResultMetadata
from pipelines.catalogue import get_card
from pipelines.errors import OutOfMemory
from pipelines.families import stages_of
from pipelines.frames import Picture
from pipelines.ltx.card import LTXCard
from pipelines.ltx.outputs import FinalLatents, TextConditioning
from pipelines.memory import ran_out_of_memory
from pipelines.protocols import DecodesInLessMemory, Resources
from pipelines.simulated.card import SimulatedCard
from pipelines.simulated.timings import Pace, Timings
from pipelines.svd.card import SVDCard
from pipelines.svd.outputs import FinalLatents as SVDLatents
from tests.unit.stage_world import call, decode_request, denoise_request, replica, text_request, without_ray

TOO_MUCH = 2**50
SHAPE = {"width": 96, "height": 64, "num_frames": 17}  # 3 latent frames, of which a tile has 2 and one more


def on_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")


def on_cuda_by_its_own_allocator() -> None:
    raise torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory")  # PyTorch's cudaMallocAsync


def on_the_cpu() -> None:
    torch.empty(TOO_MUCH)


def in_numpy() -> None:
    np.empty(TOO_MUCH)


def in_the_cuda_runtime() -> None:
    raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_ray(monkeypatch, tmp_path)


@pytest.fixture(autouse=True)
def _freed_only_by_the_stage() -> Iterator[None]:
    """Switch off the garbage collector's own turns, which may be long in coming."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="module")
def ltx(tmp_path_factory: pytest.TempPathFactory) -> LTXCard:
    return ltx_card(build_ltx(tmp_path_factory.mktemp("ltx")), **SHAPE)


@pytest.fixture(scope="module")
def svd(tmp_path_factory: pytest.TempPathFactory) -> SVDCard:
    return svd_card(build_svd(tmp_path_factory.mktemp("svd")), num_frames=8, decode_chunk_size=4)


class RunsOut(nn.Module):
    """A network that runs out of memory in some of its calls, with something large in its hands.

    That is part of a cycle, as what an error's frames refer to often is: it goes with the garbage.
    """

    def __init__(self, network: nn.Module, fail: Callable[[], None], *calls: int) -> None:
        super().__init__()
        self.network, self.fail, self.failing = network, fail, list(calls)
        self.held: list[weakref.ref[Tensor]] = []
        self.shapes: list[tuple[int, ...]] = []
        self.freed_before: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.network, name)

    def forward(self, *args: Any, **named: Any) -> Any:
        self.freed_before.append(all(each() is None for each in self.held))
        self.shapes.append(tuple(args[0].shape) if args else ())
        if len(self.shapes) - 1 in self.failing:
            activations = torch.zeros(1000)
            self.held.append(weakref.ref(activations))
            cycle: list[object] = [activations]
            cycle.append(cycle)
            self.fail()
        return self.network(*args, **named)


def latents() -> FinalLatents:
    generator = torch.Generator().manual_seed(1)
    return FinalLatents(torch.randn((1, 8, 3, 2, 3), generator=generator), generator.get_state())


def decoded(decoder: Any, request: DecodeRequest, *given: Any) -> tuple[bytes, ResultMetadata]:
    video, finished, _ = call(decoder.run(request, *given))
    return video.mp4, finished.result_metadata


@pytest.mark.parametrize("fail", [on_cuda, on_cuda_by_its_own_allocator, on_the_cpu, in_numpy, in_the_cuda_runtime])
def test_memory_that_runs_out_is_recognized(fail: Callable[[], None]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as error:
        fail()
    assert ran_out_of_memory(error.value)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("memory")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not ran_out_of_memory(error)


@pytest.mark.parametrize("fail", [on_cuda, on_the_cpu])
def test_ltx_decodes_the_kept_latents_again_in_tiles_and_says_so(ltx: LTXCard, fail: Callable[[], None]) -> None:
    decoder, request, given = replica("decode", ltx), decode_request(ltx), latents()
    vae = decoder.decoder.stage().stage.vae
    before, whole = decoded(decoder, request, given)
    vae.decoder = network = RunsOut(vae.decoder, fail, 0)
    tiled, said = decoded(decoder, request, given)
    assert said.degradations == ("decoded in tiles, because the memory ran out: their edges may show",)
    assert said.frames == 17
    assert tiled != before
    assert [shape[2] for shape in network.shapes] == [3, 3, 2, 1], "whole, then in diffusers' tiles of time"
    assert all(network.freed_before), "the failed decode was freed first"
    again, as_before = decoded(decoder, request, given)
    assert again == before, "only that one video is tiled"
    assert whole.degradations is None
    assert as_before.degradations is None
    assert network.shapes[4:] == [network.shapes[0]]


def test_ltx_decodes_a_wide_video_in_tiles_of_space(ltx: LTXCard) -> None:
    stage = stages_of(ltx).decode(ltx, Resources(gpu=False))
    assert isinstance(stage, DecodesInLessMemory)
    vae = stage.vae  # type: ignore[attr-defined]
    vae.decoder = network = RunsOut(vae.decoder, on_cuda)
    generator = torch.Generator().manual_seed(1)
    wide = FinalLatents(torch.randn((1, 8, 1, 1, 18), generator=generator), generator.get_state())
    parameters = ltx.default_parameters().model_copy(update={"width": 18 * 32, "height": 32, "num_frames": 1})
    chunks, said = stage.in_less_memory([wide], parameters)
    (video,) = chunks
    assert isinstance(video, Tensor)
    assert video.shape == (1, 3, 32, 18 * 32)
    assert said is not None
    assert [shape[4] for shape in network.shapes] == [16, 4]


def test_a_video_of_one_tile_has_the_same_bits_and_nothing_to_say(ltx: LTXCard) -> None:
    decoder, request = replica("decode", ltx), decode_request(ltx, num_frames=9)
    given = FinalLatents(latents().latents[:, :, :2], latents().rng_state)
    before, _ = decoded(decoder, request, given)
    vae = decoder.decoder.stage().stage.vae
    vae.decoder = RunsOut(vae.decoder, on_cuda, 0)
    again, said = decoded(decoder, request, given)
    assert again == before
    assert said.degradations is None


def test_svd_decodes_fewer_frames_together_and_says_so(svd: SVDCard) -> None:
    decoder, request = replica("decode", svd), decode_request(svd)
    given = SVDLatents(torch.randn((1, 8, 4, 8, 8), generator=torch.Generator().manual_seed(1)))
    before, _ = decoded(decoder, request, given)
    by_two, _ = decoded(decoder, decode_request(svd, decode_chunk_size=2), given)
    vae = decoder.decoder.stage().stage.vae
    vae.decoder = network = RunsOut(vae.decoder, on_cuda, 1)
    with_less, said = decoded(decoder, request, given)
    assert with_less == by_two != before
    assert said.degradations == (
        "decoded 2 frames together and not 4, because the memory ran out: the video may flicker",
    )
    assert [shape[0] for shape in network.shapes] == [4, 4, 2, 2, 2, 2]
    assert all(network.freed_before)
    assert decoded(decoder, request, given)[0] == before


@pytest.mark.parametrize("last_frame", [False, True])
def test_a_second_time_fails_the_attempt_with_its_own_code_and_the_next_job_works(
    ltx: LTXCard, last_frame: bool
) -> None:
    decoder, request, given = replica("decode", ltx), decode_request(ltx), latents()
    vae = decoder.decoder.stage().stage.vae
    before, _ = decoded(decoder, request, given)
    vae.decoder = network = RunsOut(vae.decoder, on_cuda, 0, 2)
    with pytest.raises(OutOfMemory, match=r"the stage decode ran out of memory: ask for a smaller size") as failed:
        call(decoder.run(decode_request(ltx, last_frame=last_frame), given))
    assert failed.value.code == "out_of_memory"
    assert decoded(decoder, request, given)[0] == before
    assert len(network.held) == 2
    assert all(network.freed_before)
    assert not vae.use_tiling
    assert not vae.use_framewise_decoding


def test_a_family_that_cannot_do_with_less_fails_at_once() -> None:
    card = get_card("simulated")
    assert isinstance(card, SimulatedCard)
    card = card.model_copy(update={"timings": Timings(text=Pace(), step=Pace(), decode=Pace())})
    decoder = replica("decode", card)

    def runs_out(latents: Sequence[object], parameters: object) -> Iterator[Any]:  # noqa: ARG001
        yield np.empty(TOO_MUCH)

    stage = decoder.decoder.stage().stage
    chunks, stage.chunks = stage.chunks, runs_out
    with pytest.raises(OutOfMemory):
        call(decoder.run(decode_request(card), object()))
    stage.chunks = chunks
    assert decoded(decoder, decode_request(card), object())[1].degradations is None


def test_another_error_of_a_decode_is_no_reason_to_decode_again(ltx: LTXCard) -> None:
    def broken() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    decoder = replica("decode", ltx)
    vae = decoder.decoder.stage().stage.vae
    vae.decoder = network = RunsOut(vae.decoder, broken, 0)
    with pytest.raises(RuntimeError, match="device-side"):
        call(decoder.run(decode_request(ltx), latents()))
    assert len(network.shapes) == 1


def test_a_text_encoder_fails_the_attempt_and_the_next_job_works(ltx: LTXCard) -> None:
    encoder = replica("text", ltx)
    stage = encoder.encoder.stage().stage
    stage.network = network = RunsOut(stage.network, on_cuda, 0)
    with pytest.raises(OutOfMemory, match="the stage text_encode ran out of memory"):
        call(encoder.run(text_request(ltx)))
    conditioning, _, _ = call(encoder.run(text_request(ltx)))
    assert isinstance(conditioning, TextConditioning)
    assert all(network.freed_before)


def test_an_image_encoder_fails_the_attempt_and_the_next_job_works(svd: SVDCard) -> None:
    encoder = replica("image", svd)
    stage = encoder.encoder.stage().stage
    stage.clip = network = RunsOut(stage.clip, on_cuda, 0)
    request, picture = ImageRequest(None, svd.default_parameters()), Picture(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(OutOfMemory, match="the stage image_encode ran out of memory"):
        call(encoder.run(request, picture))
    call(encoder.run(request, picture))
    assert all(network.freed_before)


def test_a_denoiser_fails_the_attempt_and_the_next_job_works(ltx: LTXCard) -> None:
    text, _, _ = call(replica("text", ltx).run(text_request(ltx)))
    denoiser = replica("denoise", ltx)
    stage = denoiser.denoiser.stage().weights.stage
    before, _, _ = call(denoiser.run(denoise_request(ltx), text=text))
    stage.transformer = network = RunsOut(stage.transformer, on_cuda, 2)
    with pytest.raises(OutOfMemory, match="the stage denoise ran out of memory"):
        call(denoiser.run(denoise_request(ltx), text=text))
    after, _, _ = call(denoiser.run(denoise_request(ltx), text=text))
    assert torch.equal(before.latents, after.latents)
    assert all(network.freed_before)


def test_what_each_decode_of_a_job_says_is_kept() -> None:
    first = ResultMetadata(degradations=("tiles",), device="cuda")
    both = first.updated(ResultMetadata(degradations=("tiles", "fewer"), warnings=("gray",)))
    assert (both.degradations, both.warnings, both.device) == (("tiles", "fewer"), ("gray",), "cuda")
    assert both.updated(ResultMetadata(frames=9)).degradations == ("tiles", "fewer")
    assert ResultMetadata().updated(ResultMetadata()).written() == {}


def test_a_call_that_ran_out_leaves_nothing_behind_in_its_stream(ltx: LTXCard) -> None:
    """The error that the caller gets refers to no tensor, as long as it is kept."""
    decoder = replica("decode", ltx)
    vae = decoder.decoder.stage().stage.vae
    vae.decoder = network = RunsOut(vae.decoder, on_cuda, 0, 1)

    async def kept() -> BaseException:
        try:
            async for _ in decoder.run(decode_request(ltx), latents()):
                pass
        except OutOfMemory as error:
            return error
        raise AssertionError("it did not run out")

    error = asyncio.run(kept())
    assert isinstance(error, OutOfMemory)
    assert [each() for each in network.held] == [None, None]

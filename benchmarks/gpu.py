"""What each stage of the published models costs on this machine's GPU, and diffusers in one process: `make bench-gpu`.

The weights are random and of the real size and dtype, so that nothing is fetched; a video is one of the model's
defaults. The measured seconds can be kept for `kinoray plan --gpu` and for simulated models.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import diffusers
import torch
import yaml
from PIL import Image
from torch import Tensor

from benchmarks.fidelity import PROMPT, Case, largest, picture, verdict
from benchmarks.full_size import ARCHITECTURES, checkpoint
from pipelines.card import ModelCard, Parameters
from pipelines.families import stages_of
from pipelines.ltx.card import LTXCard
from pipelines.ltx.reference import reference_video as ltx_reference
from pipelines.protocols import DecodeStage, DenoiseInputs, DenoiseStage, Loaded, Loader, Resources, StageOutput
from pipelines.stages import Stage
from pipelines.svd.card import SVDCard
from pipelines.svd.reference import reference_video as svd_reference

if TYPE_CHECKING:
    from pipelines.families import Conditioning

S = TypeVar("S")
T = TypeVar("T")

GPU = torch.device("cuda")
ROUNDS, ENOUGH_S = 3, 20.0
"""A stage is timed three times, or until it has taken so long."""
GB = 1e9


@dataclass(slots=True)
class Cost:
    """Of one stage, in seconds and bytes of the GPU's memory."""

    load_s: float
    seconds: float
    weights: int
    peak: int

    def __str__(self) -> str:
        weights, peak = self.weights / GB, self.peak / GB
        return f"{self.load_s:.1f} s | {self.seconds:.3f} s | {weights:.1f} GB | {peak:.1f} GB"


@dataclass(slots=True)
class Bench:
    """One model, stage by stage: each is loaded, warmed up, timed and freed before the next, as on a GPU of its own."""

    card: LTXCard | SVDCard
    device: torch.device
    costs: dict[Stage, Cost] = field(default_factory=dict)

    def stages(self) -> Tensor:
        """Time every stage on what the one before it made; the video, [F, 3, H, W] float32 on the CPU."""
        parameters, image = self.parameters(), picture() if self.card.NEEDS_IMAGE else None
        stages = stages_of(self.card)
        text = pixels = None
        if stages.text is not None:
            others = map(f"{PROMPT} {{}}".format, count())  # a prompt that was embedded before costs nothing
            text = self._time(
                Stage.TEXT_ENCODE,
                stages.text,
                lambda stage: (stage.encode(next(others), parameters), stage.encode(PROMPT, parameters)),
            )[1]
        if image is not None and stages.image is not None:
            pixels = self._time(Stage.IMAGE_ENCODE, stages.image, lambda stage: stage.encode(image, parameters))
        inputs: DenoiseInputs[Conditioning, Conditioning, StageOutput] = DenoiseInputs(text, pixels)

        def denoise(
            stage: DenoiseStage[Parameters, Conditioning, Conditioning, StageOutput, StageOutput],
        ) -> StageOutput:
            run = stage.begin(parameters, inputs)
            while run.step_index < run.num_steps:
                run.step()
                stage.placement.synchronize()  # as a replica does
            return run.result()

        def decode(stage: DecodeStage[Parameters, StageOutput]) -> Tensor:
            return torch.cat([each for each in stage.chunks([final], parameters) if isinstance(each, Tensor)]).cpu()

        final = self._time(Stage.DENOISE, stages.denoise, denoise)
        return self._time(Stage.DECODE, stages.decode, decode).float()

    def stock(self) -> tuple[Cost, Tensor]:
        """The same video by diffusers, with every network on the GPU."""
        parameters, folder = self.parameters(), self.card.source.path()
        dtype = getattr(torch, self.card.dtype["cuda"])
        kind = ARCHITECTURES[self.card.id].pipeline

        def load() -> Any:
            loaded = kind.from_pretrained(folder, dtype=dtype, variant=self.card.source.variant).to(self.device)
            loaded.set_progress_bar_config(disable=True)
            _reference(loaded, parameters.model_copy(update={"num_inference_steps": 2}), picture())
            return loaded

        return self._measured(load, lambda pipeline: _reference(pipeline, parameters, picture()).float().cpu())

    def parameters(self) -> Parameters:
        """The model's defaults."""
        return Case({}, from_image=self.card.NEEDS_IMAGE).parameters(self.card)

    def _time(self, stage: Stage, loader: Loader[ModelCard, Loaded], work: Callable[[Loaded], T]) -> T:
        def load() -> Loaded:
            loaded = loader(self.card, Resources(gpu=self.device.type == "cuda"))
            loaded.warm_up()
            return loaded

        self.costs[stage], made = self._measured(load, work)
        return made

    def _measured(self, load: Callable[[], S], work: Callable[[S], T]) -> tuple[Cost, T]:
        _collect()
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        loaded = load()
        torch.cuda.synchronize()
        load_s = time.perf_counter() - started
        _collect()
        weights = torch.cuda.memory_allocated()
        seconds: list[float] = []
        while len(seconds) < ROUNDS and sum(seconds) < ENOUGH_S:
            started = time.perf_counter()
            made = work(loaded)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return Cost(load_s, statistics.median(seconds), weights, torch.cuda.max_memory_allocated()), made


def timings(bench: Bench) -> dict[str, Any]:
    """What was measured, in the words of a simulated model's card."""
    steps = bench.parameters().num_inference_steps
    costs = bench.costs
    encode = sum(costs[stage].seconds for stage in (Stage.TEXT_ENCODE, Stage.IMAGE_ENCODE) if stage in costs)
    times = {"text": encode, "step": costs[Stage.DENOISE].seconds / steps, "decode": costs[Stage.DECODE].seconds}
    load = {"load_s": round(max(cost.load_s for cost in costs.values()), 1)}
    return {**load, **{stage: {"fixed_s": round(seconds, 4)} for stage, seconds in times.items()}}


def main(models: list[str], out: Path | None = None, device: torch.device = GPU) -> None:
    """Print the table; with `out`, write the seconds there."""
    name = torch.cuda.get_device_name(device)
    software = f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}"
    print(f"{name}, {software}; medians of up to {ROUNDS} runs\n")
    print(
        "| model | stage | load and warm-up | a video | weights | peak memory |\n|---|---|---|---|---|---|", flush=True
    )
    measured: dict[str, Any] = {}
    for model in models or list(ARCHITECTURES):
        with tempfile.TemporaryDirectory(prefix="kinoray-gpu-") as folder:
            bench = Bench(checkpoint(model, Path(folder), device), device)
            ours = bench.stages()
            for stage, cost in bench.costs.items():
                print(f"| {model} | {stage} | {cost} |", flush=True)
            stock, theirs = bench.stock()
        total = sum(cost.seconds for cost in bench.costs.values())
        same = verdict(largest(ours, theirs))
        print(f"| {model} | diffusers, all at once | {stock} |")
        print(f"| {model} | ours, stage after stage | | {total:.3f} s, ratio {total / stock.seconds:.3f}, {same} | | |")
        measured[model] = timings(bench)
    if out is not None:
        how = "random weights of the real size, each model's default video."
        body = yaml.safe_dump({"gpu": name, "models": measured}, sort_keys=False, default_flow_style=None)
        out.write_text(f"# {software}. Written by `make bench-gpu`:\n# {how}\n{body}")


def _reference(pipeline: Any, parameters: Any, image: Image.Image) -> Tensor:
    if parameters.family == "ltx":
        return ltx_reference(pipeline, parameters, PROMPT)
    return svd_reference(pipeline, parameters, image)


def _collect() -> None:
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[2:], Path(sys.argv[1]) if sys.argv[1:] else None)

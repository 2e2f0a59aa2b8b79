"""What each stage of the published models costs on this machine's GPU, and diffusers in one process: `make bench-gpu`.

The weights are random and of the real size and dtype, so that nothing is fetched. A model's default video comes first,
then LTX-Video's other ways: with a picture, and without the spatio-temporal guidance (STG) that diffusers lacks. The
seconds of the default video can be kept for `kinoray plan --gpu` and for simulated models.

    python -m benchmarks.gpu [OUT.yaml, or - for none] [MODEL ...]
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

from benchmarks.fidelity import PROMPT, Case, in_memory, largest, picture, verdict
from benchmarks.full_size import ARCHITECTURES, checkpoint
from pipelines.card import ModelCard, Parameters
from pipelines.families import stages_of
from pipelines.ltx.card import LTXCard, LTXParameters
from pipelines.ltx.reference import pipeline_for
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


def ways_of(card: LTXCard | SVDCard) -> dict[str, Case]:
    """The videos of a model that are measured, the default one first; diffusers can make those without STG."""
    if isinstance(card, SVDCard):
        return {"picture": Case({}, from_image=True)}
    if not card.defaults.stg_scale:
        return {"text": Case({}), "picture": Case({}, from_image=True)}
    plain = {"stg_scale": 0.0}
    return {"text, STG": Case({}), "text": Case(plain), "picture": Case(plain, from_image=True)}


@dataclass(slots=True)
class Bench:
    """One video, stage by stage: each is loaded, warmed up, timed and freed before the next, as on a GPU of its own."""

    card: LTXCard | SVDCard
    device: torch.device
    case: Case
    costs: dict[Stage, Cost] = field(default_factory=dict)

    def stages(self) -> Tensor:
        """Time every stage on what the one before it made; the video, [F, 3, H, W] float32 on the CPU."""
        parameters, image = self.parameters(), picture() if self.case.from_image else None
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
        parameters, source = self.parameters(), self.card.source
        image = picture() if self.case.from_image else None
        dtype = getattr(torch, self.card.dtype["cuda" if self.device.type == "cuda" else "cpu"])

        def load() -> Any:
            loaded: Any = diffusers.DiffusionPipeline.from_pretrained(
                source.path(), dtype=dtype, variant=source.variant
            )
            loaded = in_memory(loaded) if self.device.type == "cpu" else loaded.to(self.device)
            if isinstance(parameters, LTXParameters):
                loaded = pipeline_for(loaded, parameters, image)
            loaded.set_progress_bar_config(disable=True)
            _reference(loaded, parameters.model_copy(update={"num_inference_steps": 2}), image)
            return loaded

        return self._measured(load, lambda pipeline: _reference(pipeline, parameters, image).float().cpu())

    def parameters(self) -> Parameters:
        """Those of the video."""
        return self.case.parameters(self.card)

    def _time(self, stage: Stage, loader: Loader[ModelCard, Loaded], work: Callable[[Loaded], T]) -> T:
        def load() -> Loaded:
            loaded = loader(self.card, Resources(gpu=self.device.type == "cuda"))
            loaded.warm_up()
            return loaded

        self.costs[stage], made = self._measured(load, work)
        return made

    def _measured(self, load: Callable[[], S], work: Callable[[S], T]) -> tuple[Cost, T]:
        _collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        loaded = load()
        self._synchronize()
        load_s = time.perf_counter() - started
        _collect()
        weights = torch.cuda.memory_allocated()
        seconds: list[float] = []
        while len(seconds) < ROUNDS and sum(seconds) < ENOUGH_S:
            started = time.perf_counter()
            made = work(loaded)
            self._synchronize()
            seconds.append(time.perf_counter() - started)
        return Cost(load_s, statistics.median(seconds), weights, torch.cuda.max_memory_allocated()), made

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(card: LTXCard | SVDCard, device: torch.device) -> Bench:
    """Print a model's rows of the table; what its default video cost."""
    benches = {way: Bench(card, device, case) for way, case in ways_of(card).items()}
    for way, bench in benches.items():
        start = f"| {card.id} | {way}"
        ours = bench.stages()
        for stage, cost in bench.costs.items():
            print(f"{start} | {stage} | {cost} |", flush=True)
        total = sum(cost.seconds for cost in bench.costs.values())
        compared = ""
        if "STG" not in way:
            stock, theirs = bench.stock()
            print(f"{start} | diffusers, all at once | {stock} |", flush=True)
            compared = f", ratio {total / stock.seconds:.3f}, {verdict(largest(ours, theirs))}"
        print(f"{start} | ours, stage after stage | | {total:.3f} s{compared} | | |", flush=True)
    return next(iter(benches.values()))


def timings(bench: Bench) -> dict[str, Any]:
    """What was measured, in the words of a simulated model's card."""
    parameters, costs = bench.parameters(), bench.costs
    steps = parameters.num_inference_steps
    encode = sum(costs[stage].seconds for stage in (Stage.TEXT_ENCODE, Stage.IMAGE_ENCODE) if stage in costs)
    paces = {"text": encode, "step": costs[Stage.DENOISE].seconds / steps, "decode": costs[Stage.DECODE].seconds}
    fixed = {stage: {"fixed_s": round(seconds, 4)} for stage, seconds in paces.items()}
    return {
        "load_s": round(max(cost.load_s for cost in costs.values()), 1),
        "text": fixed["text"],
        "step": fixed["step"],
        "passes_per_step": round(parameters.forward_passes / steps, 2),
        "decode": fixed["decode"],
    }


def main(models: list[str], out: Path | None = None, device: torch.device = GPU) -> None:
    """Print the table; with `out`, write the seconds there."""
    name = torch.cuda.get_device_name(device)
    software = f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}"
    print(f"{name}, {software}; medians of up to {ROUNDS} runs\n")
    print("| model | video | stage | load and warm-up | seconds | weights | peak memory |")
    print("|---|---|---|---|---|---|---|", flush=True)
    kept: dict[str, Any] = {}
    for model in models or list(ARCHITECTURES):
        with tempfile.TemporaryDirectory(prefix="kinoray-gpu-") as folder:
            kept[model] = timings(measure(checkpoint(model, Path(folder), device), device))
    if out is not None:
        how = "random weights of the real size, each model's default video."
        body = yaml.safe_dump({"gpu": name, "models": kept}, sort_keys=False, default_flow_style=None)
        out.write_text(f"# {software}. Written by `make bench-gpu`:\n# {how}\n{body}")


def _reference(pipeline: Any, parameters: Any, image: Image.Image | None) -> Tensor:
    if parameters.family == "ltx":
        return ltx_reference(pipeline, parameters, PROMPT, image)
    assert image is not None
    return svd_reference(pipeline, parameters, image)


def _collect() -> None:
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[2:], Path(sys.argv[1]) if sys.argv[1:] and sys.argv[1] != "-" else None)

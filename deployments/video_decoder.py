"""Decodes latents to a video's files. Raw frames never leave this process.

Models that use the same checkpoint share a deployment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from ray import serve

from deployments import metrics
from deployments.configuration.settings import Settings, data_dir
from deployments.stages.loading import LoadedWeights, load
from deployments.stages.memory import report, within_memory
from deployments.stages.messages import CheckpointRef, DecodeRequest
from deployments.stages.starting import Starting, here
from deployments.stages.worker import Control, Worker
from jobs.stored import ResultMetadata
from pipelines.card import ModelCard
from pipelines.families import family_of, stages_of
from pipelines.finite import require_finite
from pipelines.memory import free_memory, ran_out_of_memory
from pipelines.one_color import OneColor
from pipelines.output import RenderedVideo
from pipelines.protocols import Audio, DecodesInLessMemory, DecodeStage, StageOutput
from pipelines.stages import Stage
from storage.store import open_checkpoints

if TYPE_CHECKING:
    from pipelines.card import Parameters
    from pipelines.frames import Picture
    from pipelines.protocols import Frame, Pixels, Placement


# Serve asks a replica for its queue length before each call that could find it full; at a limit of two that would be
# nearly every call.
@serve.deployment(name="VideoDecoder", max_ongoing_requests=4, graceful_shutdown_timeout_s=300)
class VideoDecoder:
    """Decodes and encodes one video at a time; the video encoder works while the next chunk is decoded."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        from deployments.stages.checkpoints import read_committed
        from pipelines import frames

        self.frames = frames
        self.read_committed = read_committed
        self.family = family_of(card)
        self.encoder_threads = settings.threads.video_encode
        self.artifacts = open_checkpoints(settings.bucket, data_dir())
        self.worker = Worker(settings.step_timeout_s)
        self.decoder = Starting(self.worker, partial(self._load, card, settings), here())

    async def run(
        self, request: DecodeRequest, *latents: StageOutput | CheckpointRef
    ) -> AsyncIterator[bytes | RenderedVideo | Picture]:
        """Decode the latents of one denoise or several, in order; once more, in less memory, if that runs out."""

        def work(control: Control) -> RenderedVideo | Picture:
            return self._decode(control, request, latents)

        async with aclosing(self.worker.stream(within_memory(Stage.DECODE, work))) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self.worker.check()
        self.decoder.check()

    @staticmethod
    def _load(card: ModelCard, settings: Settings) -> LoadedWeights[DecodeStage[Parameters, StageOutput]]:
        return load(Stage.DECODE, lambda stages: stages.decode, card, settings)

    def _decode(
        self, control: Control, request: DecodeRequest, latents: Sequence[StageOutput | CheckpointRef]
    ) -> RenderedVideo | Picture:
        loaded = self.decoder.stage()
        kind = stages_of(loaded.card).latents
        there = [
            self.read_committed(self.artifacts, each, kind) if isinstance(each, CheckpointRef) else each
            for each in latents
        ]
        control.result_metadata = ResultMetadata(**loaded.result_metadata())

        def files(decoded: Iterable[Pixels | Audio]) -> RenderedVideo | Picture:
            checked = self._checked(control, decoded, loaded.stage.placement)
            return self.frames.last_frame(checked) if request.last_frame else self._render(control, request, checked)

        in_less_memory = loaded.stage.in_less_memory if isinstance(loaded.stage, DecodesInLessMemory) else None
        try:
            return files(loaded.stage.chunks(there, request.parameters))
        except Exception as error:
            if in_less_memory is None or not ran_out_of_memory(error):
                raise
            report(Stage.DECODE, error)
        # The error is gone here, and with it what its frames held.
        free_memory()
        chunks, differs = in_less_memory(there, request.parameters)
        if differs is not None:
            control.result_metadata = control.result_metadata.updated(ResultMetadata(degradations=(differs,)))
        return files(chunks)

    @staticmethod
    def _checked(control: Control, chunks: Iterable[Pixels | Audio], placement: Placement) -> Iterator[Pixels | Audio]:
        for chunk in chunks:
            control.begin()  # raises when the call was cancelled
            require_finite(chunk, Stage.DECODE, placement)
            yield chunk

    def _render(self, control: Control, request: DecodeRequest, chunks: Iterable[Pixels | Audio]) -> RenderedVideo:
        num_frames = request.video.num_frames
        delivered = request.output.delivered(request.video)
        metadata = self.family.metadata(request.model, delivered)
        one_color = OneColor()

        def counted(items: Iterable[Frame | Audio]) -> Iterator[Frame | Audio]:
            done = 0
            for item in items:
                if done:  # zero frames need no report: the caller knows
                    control.step(done, num_frames)
                if not isinstance(item, Audio):
                    one_color.see(item)
                    done += 1
                yield item

        def render(items: Iterable[Frame | Audio]) -> RenderedVideo:
            return self.family.render(
                counted(items), request.video, metadata, request.output, threads=self.encoder_threads
            )

        rendered = self.frames.consume_meanwhile(self.frames.to_frames(chunks), render)
        metrics.frames_total().inc(num_frames, {"model": request.model})
        warnings = None if request.asks_for_one_color or one_color.warning is None else (one_color.warning,)
        control.result_metadata = control.result_metadata.updated(
            ResultMetadata(frames=delivered.num_frames, bytes=len(rendered.mp4), warnings=warnings)
        )
        return rendered

"""Stage 3: placeholder frames, after the time that decoding takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.simulated.card import SimulatedParameters
from pipelines.simulated.outputs import FinalLatents
from pipelines.simulated.stage import SimulatedStage

CHUNK = 8  # frames; a decode can be cancelled between chunks


class VideoDecoder(SimulatedStage):
    """A simulated decoder. All chunks together take `timings.decode`."""

    def chunks(
        self,
        latents: Sequence[FinalLatents],  # noqa: ARG002 it decodes nothing
        parameters: SimulatedParameters,
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield chunks [n, H, W, 3]: views of one row from black to white, because a video of one color is reported.

        `pipelines.simulated.video` ignores the pixels.
        """
        row = np.linspace(0, 255, parameters.width, dtype=np.uint8)[None, None, :, None]
        total = self.card.timings.decode.seconds(parameters.megapixels)
        for start in range(0, parameters.num_frames, CHUNK):
            frames = min(CHUNK, parameters.num_frames - start)
            time.sleep(total * frames / parameters.num_frames)
            yield np.broadcast_to(row, (frames, parameters.height, parameters.width, 3))

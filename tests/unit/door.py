"""What the API does with a create request, without Serve."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from deployments.configuration.api_keys import SCOPES, KeyLimits
from deployments.configuration.settings import Settings
from deployments.http.auth import Caller
from deployments.http.submission import CreateRequest, Submission
from deployments.http.uploads import Uploads
from jobs.record import Job
from storage.folder import FolderStore
from tests.unit.conftest import Jobs

PICTURE = io.BytesIO()
Image.effect_noise((64, 64), 50).save(PICTURE, "PNG")


OLD_LTX_ROW: dict[str, Any] = {
    "family": "ltx", "width": 704, "height": 480, "num_frames": 121, "fps": 25, "num_inference_steps": 40, "seed": 1,
    "negative_prompt": "n", "guidance_scale": 3.0, "guidance_rescale": 0.7, "decode_timestep": 0.05,
    "decode_noise_scale": 0.025, "max_sequence_length": 128, "timesteps": None,
}  # fmt: skip
"""The parameters of an LTX-Video job as a version wrote them that knew only one way to sample."""


class Door:
    """What the API does with a request, and where its images end up."""

    def __init__(self, jobs: Jobs, folder: Path, **settings: Any) -> None:
        self.artifacts = FolderStore(folder / "artifacts")
        given = Settings(**{"models": ("ltx-tiny", "svd-tiny"), **settings})
        self.uploads = Uploads(given, jobs.database, self.artifacts)
        files = ThreadPoolExecutor(1)
        self.submission = Submission(given, jobs.database, self.artifacts, self.uploads, files, lambda: None)

    def ask(self, *, limits: KeyLimits | None = None, caller: str = "k", **asked: Any) -> Job:
        fields = {"prompt": "p", **asked.pop("fields", {})}
        who = Caller(caller, SCOPES, limits or KeyLimits())
        return asyncio.run(self.submission.accept(CreateRequest(fields, asked.pop("image", None), who, **asked)))

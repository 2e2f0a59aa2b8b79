"""Networks with random weights: small ones with every layer of the original, or full ones without memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from enum import Enum
from typing import Any
from zlib import crc32

import torch
from accelerate import init_empty_weights


class Width(Enum):
    """How wide a network's layers are. Their number and names are the original's in both."""

    FULL = "full"
    """The original's width, on the meta device: names, shapes and counts."""
    SMALL = "small"
    """As narrow as the class allows, with random weights: it loads and renders."""


def random_network(name: str, width: Width, build: Callable[[], Any]) -> Any:
    """Build a network; equal names give equal weights. The global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(crc32(name.encode()))
        with init_empty_weights(include_buffers=True) if width is Width.FULL else nullcontext():
            return build().eval()

"""The placement of a stage: device, dtype, threads and attention kernel.

A replica without a GPU of its own uses the CPU even on a machine that has one: Ray leaves the other replicas' GPUs
visible to it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.card import CheckpointCard
from pipelines.errors import StageUnavailable
from pipelines.protocols import Resources

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placement:
    """The device, dtype and attention kernel of one stage."""

    device: torch.device
    dtype: torch.dtype
    attention: str  # "xformers" or "native" (PyTorch's scaled_dot_product_attention)

    def synchronize(self) -> None:
        """Wait until all launched work is done: a step on a GPU returns once its kernels are queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def result_metadata(self) -> dict[str, str]:
        """The placement as text, for a job's result_metadata."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"device": self.device.type, "dtype": dtype, "attention": self.attention}


def place(card: CheckpointCard, resources: Resources) -> Placement:
    """Choose a stage's device and dtype, and set its thread count, on which the exact bits depend on a CPU."""
    if resources.threads is not None:
        torch.set_num_threads(resources.threads)
    device = torch.device("cuda" if resources.gpu and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        _hide_xformers()
    dtype: torch.dtype = getattr(torch, card.dtype["cuda" if device.type == "cuda" else "cpu"])
    return Placement(device, dtype, attention_backend(device, dtype))


def require_cuda(gpus: Sequence[int | str]) -> None:
    """Compute something on the GPU that this process was lent, as Ray names it.

    Raises:
        StageUnavailable: CUDA cannot use it. A stage would otherwise compute on the CPU, a hundred times slower.
    """
    fault = _cuda_fault()
    if fault is None:
        return
    named = ", ".join(map(str, gpus))
    raise StageUnavailable(
        f"Ray lent this replica GPU {named}, and CUDA cannot use it: {fault} (PyTorch {torch.__version__}, CUDA "
        f"{torch.version.cuda or 'none'}, CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}). "
        "Install a PyTorch that is built for the node's driver, and start Ray with as many GPUs as nvidia-smi shows; "
        "or set num_gpus to 0 to compute on the CPU. `args.fake_gpus: true` is for GPUs that do not exist"
    )


def _cuda_fault() -> str | None:
    """Why CUDA does not work in this process, in one line; None if it does."""
    with warnings.catch_warnings(record=True) as warned:  # PyTorch says so only there when the driver is too old
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        try:
            torch.zeros(1, device="cuda").cpu()
        except (RuntimeError, AssertionError) as error:  # such as "no kernel image is available for execution"
            return str(error).splitlines()[0]
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return "this PyTorch is built for CPUs only"
    said = [str(each.message).splitlines()[0] for each in warned]
    return said[-1] if said else "CUDA finds no GPU"


def _hide_xformers() -> None:
    """Keep diffusers from importing xformers where it cannot run: the import costs a second and many warnings."""
    import diffusers.utils.import_utils

    diffusers.utils.import_utils._xformers_available = False


def hide_useless_xformers() -> None:
    """Keep diffusers from importing xformers on a machine without a GPU, for whoever imports it without a placement."""
    if not torch.cuda.is_available():
        _hide_xformers()


def attention_backend(device: torch.device, dtype: torch.dtype) -> str:
    """Choose xformers if attention over one token runs with it on the device, else PyTorch's own kernels.

    xformers has no CPU kernels, so a CPU stage does not try it.
    """
    if device.type != "cuda":
        return "native"
    try:
        from xformers.ops import memory_efficient_attention

        token = torch.zeros(1, 1, 1, 64, device=device, dtype=dtype)
        memory_efficient_attention(token, token, token)
    except (ImportError, NotImplementedError, RuntimeError, OSError) as error:
        log.info("xformers does not run here, using PyTorch attention: %s", str(error).splitlines()[0])
        return "native"
    return "xformers"

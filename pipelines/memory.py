"""Memory that runs out, a device's or the process's own: how to recognize it, and how to free what is not needed.

Imports no torch, because a family need not.
"""

from __future__ import annotations

import gc
import sys

SAID = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""How a `RuntimeError` says it: PyTorch's CPU allocator (c10/core/impl/alloc_cpu.cpp), the CUDA runtime, cuBLAS and
cuDNN. CUDA's caching allocator raises `torch.OutOfMemoryError`, which is a `RuntimeError` too."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in SAID)


def free_memory() -> None:
    """Return to the device all memory that nothing refers to.

    An error refers, by its traceback, to everything that the functions which it ended had computed. So call this
    where that error is gone: after its `except` block, not inside.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()

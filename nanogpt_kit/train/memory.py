"""How much memory a run has needed at its worst."""

from __future__ import annotations

import sys

import torch


def peak_bytes(device: str) -> int | None:
    """On the accelerator, or of the whole process on a CPU; None where the system does not say (Windows)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if device == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

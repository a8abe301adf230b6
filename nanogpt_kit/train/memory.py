"""How much memory a run has needed at its worst."""

from __future__ import annotations

import sys

import torch


def memory(device: str) -> dict[str, float]:
    """{"memory/peak_bytes": ...}: on the accelerator, or of the process; empty where the system does not say."""
    peak = peak_bytes(device)
    return {} if peak is None else {"memory/peak_bytes": float(peak)}


def peak_bytes(device: str) -> int | None:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if device == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""The state of every random number generator that a run may use."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds the generators of torch, Python and NumPy."""
    torch.manual_seed(seed)  # the accelerators' generators too
    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy takes 32 bits


def rng_state() -> dict[str, Any]:
    """The state of all generators, as tensors and plain values only, so that it loads without unpickling code."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],  # of the GPU that this process uses
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        states = state["cuda"]  # those of all GPUs in checkpoints of 0.1
        torch.cuda.set_rng_state(states[min(torch.cuda.current_device(), len(states) - 1)])
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """While entered, all generators start from `seed`; afterwards they continue from their previous state."""
    before = rng_state()
    seed_everything(seed)
    try:
        yield
    finally:
        set_rng_state(before)

"""Copies whole numbers from the host to a device without waiting for what the device computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def copy_to_device(values: Sequence[int], device: torch.device) -> Tensor:
    """(N,) int64 on `device`.

    torch.tensor(values, device=...) waits on CUDA until the device has computed all that it was given; a copy from
    pinned memory waits for nothing.
    """
    tensor = torch.tensor(values, dtype=torch.int64)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

"""Copies scalars from the device to the host without waiting."""

from __future__ import annotations

import torch
from torch import Tensor


class PendingScalars:
    """Scalars copied to the host asynchronously; reading them waits only for the step that computes them."""

    def __init__(self, *scalars: Tensor) -> None:
        self.event: torch.cuda.Event | None = None
        self.values: Tensor | list[float]
        if not scalars or scalars[0].device.type == "cpu":  # computed already
            self.values = [scalar.item() for scalar in scalars]
            return
        self.values = torch.stack([scalar.detach().float() for scalar in scalars])
        if self.values.is_cuda:
            self.values = self.values.to("cpu", non_blocking=True)  # into pinned memory
            self.event = torch.cuda.Event()
            self.event.record()

    def is_ready(self) -> bool:
        """Whether they can be read without waiting."""
        return self.event.query() if self.event is not None else isinstance(self.values, list)

    def read(self) -> list[float]:
        if self.event is not None:
            self.event.synchronize()
        return self.values if isinstance(self.values, list) else self.values.tolist()

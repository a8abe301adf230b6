"""Numbers on their way from the device."""

from __future__ import annotations

import torch
from torch import Tensor


class PendingScalars:
    """Asking for them waits for the step that made them, and not for the one that the device computes by then."""

    def __init__(self, *numbers: Tensor) -> None:
        self.event: torch.cuda.Event | None = None
        self.values: Tensor | list[float]
        if numbers[0].device.type == "cpu":  # they have arrived
            self.values = [number.item() for number in numbers]
            return
        self.values = torch.stack([number.detach().float() for number in numbers])
        if self.values.is_cuda:
            self.values = self.values.to("cpu", non_blocking=True)  # into pinned memory
            self.event = torch.cuda.Event()
            self.event.record()

    def read(self) -> list[float]:
        if self.event is not None:
            self.event.synchronize()
        return self.values if isinstance(self.values, list) else self.values.tolist()

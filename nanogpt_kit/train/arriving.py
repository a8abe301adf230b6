"""Numbers on their way from the device."""

from __future__ import annotations

import torch
from torch import Tensor


class Arriving:
    """Asking for them waits for the step that made them, and not for the one that the device computes by then."""

    def __init__(self, *numbers: Tensor) -> None:
        self.numbers = numbers
        self.event: torch.cuda.Event | None = None
        if numbers[0].is_cuda:
            together = torch.stack([number.detach().float() for number in numbers])
            self.numbers = tuple(together.to("cpu", non_blocking=True))  # into pinned memory
            self.event = torch.cuda.Event()
            self.event.record()

    def read(self) -> list[float]:
        if self.event is not None:
            self.event.synchronize()
        return [number.item() for number in self.numbers]

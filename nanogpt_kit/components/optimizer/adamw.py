"""AdamW: Adam with decoupled weight decay, for all parameters except vectors (norm gains and biases).

Source: Loshchilov & Hutter 2017, arXiv:1711.05101.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch

from nanogpt_kit.api import Field, Optimizer, ParameterShape

Decay = Annotated[float, Field(ge=0, lt=1)]
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")  # where torch has a single kernel for the whole update


class AdamW(Optimizer):
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    betas: tuple[Decay, Decay] = Field((0.9, 0.95), description="decay rates of the running mean and mean square")
    eps: float = Field(1e-8, gt=0, description="constant added to the root of the mean square")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of all parameters except vectors")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        fused = all(parameter.device.type in FUSED_DEVICES for group in groups for parameter in group["params"])
        groups = self.with_weight_decay(groups, self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)

    def state_copies(self) -> int:
        return 2

    def step_norm(self, shape: ParameterShape) -> float:
        return math.sqrt(shape.fan_out * shape.fan_in)

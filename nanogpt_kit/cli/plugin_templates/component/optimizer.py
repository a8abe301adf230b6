"""Signum: every parameter moves by the sign of its mean gradient.

Change the update in `step`. Read options from the group, where schedules and groups of parameters set them, and keep
what later steps need in `self.state[parameter]`. Source: Bernstein et al. 2018, arXiv:1802.04434, algorithm 2.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from nanogpt_kit.api import Field, Optimizer, ParameterShape


class SignMomentum(Optimizer):
    lr: float = Field(3e-4, gt=0, description="peak learning rate: the change of each parameter in one step")
    momentum: float = Field(0.9, ge=0, lt=1, description="decay rate of the mean gradient")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of all parameters except vectors")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        defaults = {"lr": self.lr, "momentum": self.momentum}
        return SignMomentumSteps(self.with_weight_decay(groups, self.weight_decay), defaults)

    def state_copies(self) -> int:
        return 1

    def step_norm(self, shape: ParameterShape) -> float:
        return math.sqrt(shape.fan_out * shape.fan_in)


class SignMomentumSteps(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                mean = state["mean"].lerp_(parameter.grad, 1 - group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * mean.sign())
        return loss

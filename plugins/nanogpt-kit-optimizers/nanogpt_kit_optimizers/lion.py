"""Lion: the sign of an interpolated momentum, so every parameter changes by the same amount.

Source: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch

from nanogpt_kit.api import Field, Optimizer, ParameterShape

Decay = Annotated[float, Field(ge=0, lt=1)]


class Lion(Optimizer):
    lr: float = Field(1e-4, gt=0, description="peak learning rate; the paper advises 3 to 10 times less than AdamW's")
    betas: tuple[Decay, Decay] = Field((0.9, 0.99), description="momentum in the update, and its decay rate")
    weight_decay: float = Field(1.0, ge=0, description="weight decay of all but vectors; 3 to 10 times AdamW's")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return SignMomentum(self.with_weight_decay(groups, self.weight_decay), self.lr, self.betas)

    def step_norm(self, shape: ParameterShape) -> float:
        return math.sqrt(shape.fan_out * shape.fan_in)


class SignMomentum(torch.optim.Optimizer):
    def __init__(self, params: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                update = momentum.lerp(gradient, 1 - beta1).sign_()
                parameter.mul_(1 - lr * group["weight_decay"]).add_(update, alpha=-lr)
                momentum.lerp_(gradient, 1 - beta2)
        return loss

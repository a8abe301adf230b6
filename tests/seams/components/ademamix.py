"""AdEMAMix: AdamW with a second, slow running mean, which remembers gradients of many thousand steps.

The weight of the slow mean and its decay rate grow until the end of the run.

Source: Pagliardini, Ablin & Grangier 2024, arXiv:2409.03137, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch

from nanogpt_kit.api import Field, Optimizer

Decay = Annotated[float, Field(gt=0, lt=1)]


class AdEMAMix(Optimizer):
    uses_total_steps: ClassVar[bool] = True
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    betas: tuple[Decay, Decay, Decay] = Field(
        (0.9, 0.999, 0.9999), description="decay rates of the fast mean, the mean square, and at last the slow mean"
    )
    alpha: float = Field(5.0, ge=0, description="weight of the slow mean at the end of the run")
    eps: float = Field(1e-8, gt=0, description="constant added to the root of the mean square")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of all parameters except vectors")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        defaults = {"lr": self.lr, "betas": self.betas, "alpha": self.alpha, "eps": self.eps}
        return TwoMeans(self.with_weight_decay(groups, self.weight_decay), defaults)

    def state_copies(self) -> int:
        return 3


class TwoMeans(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            for parameter in (one for one in group["params"] if one.grad is not None):
                self.update(parameter, parameter.grad, group)
        return loss

    def update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, **{name: torch.zeros_like(parameter) for name in ("fast", "slow", "square")}}
        state["step"] += 1
        fast, square, _ = group["betas"]
        alpha, slow = slow_mean(state["step"] / group["total_steps"], group["alpha"], group["betas"])
        state["fast"].lerp_(gradient, 1 - fast)
        state["slow"].lerp_(gradient, 1 - slow)
        state["square"].lerp_(gradient.square(), 1 - square)
        root = (state["square"] / (1 - square ** state["step"])).sqrt_().add_(group["eps"])
        mean = state["fast"] / (1 - fast ** state["step"]) + alpha * state["slow"]
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).addcdiv_(mean, root, value=-group["lr"])


def slow_mean(progress: float, alpha: float, betas: tuple[float, float, float]) -> tuple[float, float]:
    """The weight and the decay rate of the slow mean at a fraction of the run: linear, and linear in the half-life."""
    progress = min(1.0, progress)
    first, last = math.log(betas[0]), math.log(betas[2])
    return progress * alpha, math.exp(first * last / ((1 - progress) * last + progress * first))

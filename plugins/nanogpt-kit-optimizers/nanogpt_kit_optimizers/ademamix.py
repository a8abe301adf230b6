"""AdEMAMix: AdamW with a second, slow running mean, which remembers the gradients of many thousand steps.

The weight of the slow mean grows from 0, and its decay rate from that of the fast mean, until the end of the run: its
half-life grows linearly. A first decay rate of 0 takes the gradient itself for the fast mean, which then needs no
memory.

Source: Pagliardini, Ablin & Grangier 2024, arXiv:2409.03137, algorithm 1, with both warmups as long as the run; the
authors' https://github.com/apple/ml-ademamix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, cast

import torch
from torch import Tensor

from nanogpt_kit.api import Field, Optimizer, ParameterShape

Decay = Annotated[float, Field(ge=0, lt=1)]


class AdEMAMix(Optimizer):
    uses_total_steps: ClassVar[bool] = True
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    betas: tuple[Decay, Decay, Decay] = Field(
        (0.9, 0.999, 0.9999),
        description="decay rates of the fast mean, of the mean square, and of the slow mean at the end of the run",
    )
    alpha: float = Field(5.0, ge=0, description="weight of the slow mean at the end of the run")
    eps: float = Field(1e-8, gt=0, description="constant added to the root of the mean square")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of all parameters except vectors")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        defaults = {"lr": self.lr, "betas": self.betas, "alpha": self.alpha, "eps": self.eps}
        return TwoMeans(self.with_weight_decay(groups, self.weight_decay), defaults)

    def state_copies(self) -> int:
        firsts = [self.betas if group.betas is None else group.betas for group in self.group]
        return 3 if all(betas[0] for betas in (self.betas, *firsts)) else 2

    def step_norm(self, shape: ParameterShape) -> float:
        return math.sqrt(shape.fan_out * shape.fan_in)


class TwoMeans(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            of_step: dict[int, list[Tensor]] = {}  # some parameters have no gradient in some steps
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    state["step"] = state.get("step", 0) + 1
                    of_step.setdefault(state["step"], []).append(parameter)
            for step, parameters in of_step.items():
                self.update(parameters, step, group)
        return loss

    def update(self, parameters: list[Tensor], step: int, group: dict[str, Any]) -> None:
        fast_decay, square_decay, _ = group["betas"]
        alpha, slow_decay = slow_mean(step, group["total_steps"], group["alpha"], group["betas"])
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]

        slow, square = self.means("slow", parameters), self.means("square", parameters)
        torch._foreach_lerp_(slow, gradients, 1 - slow_decay)
        torch._foreach_mul_(square, square_decay)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - square_decay)
        update = torch._foreach_mul(slow, alpha)
        if fast_decay:
            fast = self.means("fast", parameters)
            torch._foreach_lerp_(fast, gradients, 1 - fast_decay)
            torch._foreach_add_(update, fast, alpha=1 / (1 - fast_decay**step))
        else:
            torch._foreach_add_(update, gradients)

        root = torch._foreach_sqrt(square)
        torch._foreach_div_(root, math.sqrt(1 - square_decay**step))
        torch._foreach_add_(root, group["eps"])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(parameters, update, root, -group["lr"])

    def means(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        """The running means of this name, from zero on."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def slow_mean(step: int, total_steps: int, alpha: float, betas: tuple[float, float, float]) -> tuple[float, float]:
    """The weight and the decay rate of the slow mean in a step, counted from 1."""
    progress = min(1.0, step / total_steps)
    inverse = (1 - progress) * inverse_log(betas[0]) + progress * inverse_log(betas[2])  # in proportion to a half-life
    return progress * alpha, min(math.exp(1 / inverse) if inverse else 0.0, betas[2])


def inverse_log(decay: float) -> float:
    return 1 / math.log(decay) if decay else 0.0

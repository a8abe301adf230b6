"""Schedule-Free AdamW: an average of the weights in place of a learning rate that falls.

Gradients are taken at y, a mixture of the average x and of z, which the updates change. x is the model: evaluations,
samples and checkpoints have it. Use it with `schedule = "constant"`.

Source: Defazio et al. 2024, "The Road Less Scheduled", arXiv:2405.15682, and the authors' package schedulefree, whose
AdamWScheduleFree computes the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
from torch import Tensor

from nanogpt_kit.api import Field, KitError, Optimizer, ParameterShape, Schedule

Decay = Annotated[float, Field(gt=0, lt=1)]


class ScheduleFree(Optimizer):
    lr: float = Field(2.5e-3, gt=0, description="learning rate after the warmup")
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999), description="fraction of x in y, and decay rate of the mean square"
    )
    eps: float = Field(1e-8, gt=0, description="constant added to the root of the mean square")
    weight_decay: float = Field(0.1, ge=0, description="weight decay of all parameters except vectors, at y")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warmup; they weigh less in the average")
    weight_lr_power: float = Field(2.0, ge=0, description="power of the highest learning rate so far in the average")
    r: float = Field(0.0, ge=0, description="power of the step in the average; above 0, later steps weigh more")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        options = self.model_dump(exclude={"group", "weight_decay"})
        return AveragedAdam(self.with_weight_decay(groups, self.weight_decay), options)

    def state_copies(self) -> int:
        return 2

    def step_norm(self, shape: ParameterShape) -> float:
        return math.sqrt(shape.fan_out * shape.fan_in)

    def note(self, schedule: Schedule, total_steps: float) -> str | None:
        last = int(total_steps) - 1
        if last < 1 or schedule.multiplier(last, total_steps) >= schedule.multiplier(last // 2, total_steps):
            return None
        return 'the learning rate falls, which schedule_free is made to replace; use schedule = "constant"'


class AveragedAdam(torch.optim.Optimizer):
    """The parameters are y; `eval` gives them x until `train`. In between, the state has y to restore it exactly."""

    def __init__(self, groups: list[dict[str, Any]], options: dict[str, Any]) -> None:
        # Of each group: the updates so far, the highest learning rate, the sum of the weights in the average, and the
        # first of the betas
        super().__init__(groups, {**options, "updates": 0, "highest_lr": 0.0, "weight_sum": 0.0, "fraction_of_x": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            self.update([parameter for parameter in group["params"] if parameter.grad is not None], group)
        return loss

    def update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        (beta1, beta2), step = group["betas"], group["updates"] + 1
        check_first_beta(beta1, group["fraction_of_x"])
        group["fraction_of_x"] = beta1
        lr = group["lr"] * min(1.0, step / max(1, group["warmup_steps"]))
        highest = max(lr, group["highest_lr"])
        weight = step ** group["r"] * highest ** group["weight_lr_power"]
        total = group["weight_sum"] + weight
        group |= {"updates": step, "highest_lr": highest, "weight_sum": total}
        fraction = weight / total if total else 0.0  # of the new z in the average
        if not parameters:
            return
        for parameter in parameters:
            if "z" not in self.state[parameter]:
                self.state[parameter] |= {"z": parameter.clone(), "exp_avg_sq": torch.zeros_like(parameter)}
        z, squares = ([self.state[parameter][key] for parameter in parameters] for key in ("z", "exp_avg_sq"))
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]

        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        roots = torch._foreach_div(squares, 1 - beta2**step)
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(gradients, roots)
        if group["weight_decay"]:
            torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
        # x moves towards the new z by `fraction`, and y is beta1 x + (1 - beta1) z: so y moves without x being there
        torch._foreach_lerp_(parameters, z, fraction)
        torch._foreach_add_(parameters, updates, alpha=lr * (beta1 * (1 - fraction) - 1))
        torch._foreach_sub_(z, updates, alpha=lr)

    @torch.no_grad()
    def eval(self) -> None:
        for parameter, state, beta1 in self.updated():
            if "y" not in state:
                state["y"] = parameter.clone()
                parameter.lerp_(state["z"], 1 - 1 / beta1)

    @torch.no_grad()
    def train(self) -> None:
        for parameter, state, _ in self.updated():
            if "y" in state:
                parameter.copy_(state.pop("y"))

    def updated(self) -> Iterator[tuple[Tensor, dict[str, Tensor], float]]:
        """Each parameter that was updated, with its state and the fraction of x in y."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.state:
                    yield parameter, self.state[parameter], group["betas"][0]


def check_first_beta(beta1: float, before: float | None) -> None:
    """Raises KitError where x could not be computed from y, of which it is the fraction `beta1`."""
    if not beta1:
        raise KitError("the first of the betas of schedule_free is 0; set a number above 0, such as 0.9")
    if before not in (None, beta1):
        reason = (
            f"the first of the betas of schedule_free changes from {before:g} to {beta1:g}, and has to stay the same"
        )
        raise KitError(f"{reason}: remove the schedule whose target ends in betas.0")

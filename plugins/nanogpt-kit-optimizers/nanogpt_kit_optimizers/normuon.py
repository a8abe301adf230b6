"""NorMuon: Muon whose updates have equally large rows, so that every neuron learns equally fast.

The momentum of a matrix is made nearly orthogonal by the Polar Express, and each row of the result is divided by the
root of its running mean square; the norm of the whole remains what it was. Weights decay only where the update does not
make them smaller itself. At first the momentum is lower. All other parameters have another optimizer.

Source: Li et al. 2025, arXiv:2510.05491, and https://github.com/zichongli5/NorMuon for the norm that remains; Chen et
al. 2025, arXiv:2510.12402, for cautious weight decay; https://github.com/KellerJordan/modded-nanogpt, whose records
combine these with a warmup of the momentum, and update queries, keys and values apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from nanogpt_kit.api import CombinedOptimizer, Field, Optimizer, ParameterShape, slot
from nanogpt_kit_optimizers.polar_express import polar_factor
from nanogpt_kit_optimizers.whole_matrices import equal_matrices, on_whole_matrices, row_mean_squares, scaled_rows

Decay = Annotated[float, Field(ge=0, lt=1)]


class NorMuon(Optimizer):
    lr: float = Field(2e-3, gt=0, description="peak learning rate of the matrices")
    momentum: Decay = Field(0.95, description="decay rate of the running mean gradient, after the warmup")
    momentum_start: Decay = Field(0.85, description="decay rate of the running mean gradient in the first step")
    momentum_warmup_steps: int = Field(300, ge=0, description="steps in which the momentum rises linearly")
    nesterov: bool = Field(True, description="Nesterov momentum in place of the classical one")
    beta2: Decay = Field(0.95, description="decay rate of the running mean square of each row")
    eps: float = Field(1e-8, gt=0, description="constant added to the root of the mean square")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of the matrices")
    cautious: bool = Field(True, description="weight decay only of weights that the update does not shrink")
    iterations: int = Field(6, ge=1, le=20, description="iterations of the Polar Express")
    adjust: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw",
        description="scale of an (A, B) update: 0.2 sqrt(max(A, B)), or sqrt(max(1, A / B))",
    )
    others: Optimizer = slot("adamw", description="optimizer of all other parameters")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        matrices, others = self.matrices_apart(groups, slot="others")
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            options = self.model_dump(exclude={"group", "others", "weight_decay"})
            parts.append(NormalizedMuon(self.with_weight_decay(matrices, self.weight_decay), options))
        return CombinedOptimizer(parts + ([self.others.build(others)] if others else []))

    def state_copies(self) -> int:
        return min(1, self.others.state_copies())

    def step_norm(self, shape: ParameterShape) -> float | None:
        if shape.role != "matrix" or len(shape.shape) != 2:
            return self.others.step_norm(shape)
        rows = shape.rows or (shape.fan_out,)  # of a matrix that is several in one, where their norms add up
        return math.hypot(*(update_scale(count, shape.fan_in, self.adjust) for count in rows))


class NormalizedMuon(torch.optim.Optimizer):
    def __init__(self, groups: list[dict[str, Any]], options: dict[str, Any]) -> None:
        super().__init__(groups, {**options, "updates": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for update in self.updates():
            update()
        return loss

    def updates(self, threads: int = 1) -> list[Callable[[], None]]:
        """The calls that together are a step, for this many threads, the longest first: see `CombinedOptimizer`."""
        calls = []
        for group in self.param_groups:
            momentum = warm_momentum(group)
            for matrices, rows in equal_matrices(group, threads):
                work = len(matrices) * matrices[0].numel() * min(matrices[0].shape)
                calls.append((work, partial(self.update, matrices, rows, momentum, group)))
            group["updates"] += 1
        return [call for _, call in sorted(calls, key=lambda pair: -pair[0])]

    def update(self, matrices: list[Tensor], rows: tuple[int, ...], momentum: float, group: dict[str, Any]) -> None:
        """One step of matrices (A, B) of one shape, each made of parts with these numbers of rows."""
        gradients: list[Any] = [parameter.grad for parameter in matrices]
        for parameter, gradient in zip(matrices, gradients, strict=True):
            if not self.state[parameter]:  # the mean squares of rows are few: every process has all of them
                squares = torch.zeros(len(parameter), dtype=gradient.dtype, device=gradient.device)
                self.state[parameter] |= {"momentum_buffer": torch.zeros_like(gradient), "row_squares": squares}
        momenta, squares_of = (
            [self.state[parameter][key] for parameter in matrices] for key in ("momentum_buffer", "row_squares")
        )
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        mixed: Any = torch.stack(momenta)  # (N, A, B)
        if group["nesterov"]:
            mixed = torch.stack(gradients).lerp_(mixed, momentum)

        updates = on_whole_matrices(mixed, partial(polar_factors_of_parts, rows=rows, iterations=group["iterations"]))
        means = row_mean_squares(updates)  # (N, A)
        running = torch.stack(squares_of).lerp_(means, 1 - group["beta2"])
        torch._foreach_copy_(squares_of, running.unbind())
        inverse = 1 / (running.sqrt() + group["eps"])
        updates = scaled_rows(updates, inverse * scales_of_parts(means, inverse, rows, updates.shape[2], group))

        for parameter, update in zip(matrices, updates.unbind(), strict=True):
            decay = group["lr"] * group["weight_decay"]
            if decay:
                kept = parameter * (update * parameter >= 0) if group["cautious"] else parameter
                parameter.sub_(kept, alpha=decay)
            parameter.sub_(update, alpha=group["lr"])


def warm_momentum(group: dict[str, Any]) -> float:
    """The momentum of the next update, which rises over the first ones."""
    warmup = group["momentum_warmup_steps"]
    progress = min(1.0, group["updates"] / warmup) if warmup else 1.0
    start = min(group["momentum_start"], group["momentum"])
    return float(group["momentum"] - (group["momentum"] - start) * (1 - progress))


def update_scale(A: int, B: int, adjust: str) -> float:
    """The factor on an update of a matrix (A, B) with the norm of an orthogonal one."""
    return 0.2 * math.sqrt(max(A, B)) if adjust == "match_rms_adamw" else math.sqrt(max(1, A / B))


def polar_factors_of_parts(stack: Tensor, rows: tuple[int, ...], iterations: int) -> Tensor:
    """(N, A, B) with the singular values of each part, which has these rows, close to 1."""
    N, A, B = stack.shape
    if len(set(rows)) == 1:  # one matrix, or equal parts, which need no copies
        factors = polar_factor(stack.reshape(N * len(rows), rows[0], B), iterations).reshape(N, A, B)
    else:
        parts = list(stack.split(rows, dim=1))
        for size in dict.fromkeys(rows):  # those of one size in a batch
            places = [place for place, count in enumerate(rows) if count == size]
            together = polar_factor(torch.cat([parts[place] for place in places]), iterations)
            for place, part in zip(places, together.unflatten(0, (len(places), N)), strict=True):
                parts[place] = part
        factors = torch.cat(parts, dim=1)
    return factors.to(stack.dtype, memory_format=torch.contiguous_format)


def scales_of_parts(
    means: Tensor, inverse: Tensor, rows: tuple[int, ...], columns: int, group: dict[str, Any]
) -> Tensor:
    """The factor (N, A) on each row that gives a part the norm it had before its rows were multiplied by `inverse`,
    and then its scale; `means` (N, A) are the mean squares of the rows before."""
    scales = []
    for before, after in zip(means.split(rows, 1), (means.sqrt() * inverse).square().split(rows, 1), strict=True):
        ratio = (before.sum(1, keepdim=True) / after.sum(1, keepdim=True).clamp_min(1e-30)).sqrt()
        scales.append((ratio * update_scale(before.shape[1], columns, group["adjust"])).expand_as(before))
    return torch.cat(scales, 1)

"""Muon: momentum whose matrix is made nearly orthogonal, for the matrices; AdamW for everything else.

With `match_rms_adamw` its updates are as large as AdamW's usually are, so one learning rate serves both.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025 (Moonlight), arXiv:2502.16982,
for match_rms_adamw. Options and state are those of torch's Muon, which takes one matrix after the other; here the
matrices of one shape are multiplied together, as in Jordan's https://github.com/KellerJordan/modded-nanogpt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from nanogpt_kit.api import Field, Optimizer, multiplies_bf16, slot, with_weight_decay, without_dynamo

AT_ONCE = 2**24  # elements that a process stacks: in fp32 a copy of 64 MiB, 200 with what is computed from it


class Muon(Optimizer):
    lr: float = Field(2e-3, gt=0, description="peak learning rate of the matrices")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.95, description="decay of the running sum of gradients")
    nesterov: bool = Field(True, description="whether to look ahead along the momentum")
    weight_decay: float = Field(0.1, ge=0, description="pull towards zero, on the matrices")
    ns_steps: int = Field(5, ge=1, le=20, description="Newton-Schulz iterations towards an orthogonal matrix")
    adjust: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw", description="how the shape of a matrix (A, B) scales its update: 0.2 sqrt(max(A, B)) or "
        "sqrt(max(1, A / B))"
    )  # fmt: skip
    others: Optimizer = slot("adamw")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        mine: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for group in groups:
            (mine if group["role"] == "matrix" and all(p.ndim == 2 for p in group["params"]) else others).append(group)
        parts: list[torch.optim.Optimizer] = [self.others.build(others)] if others else []
        if mine:
            muon = without_dynamo(Batched)(
                with_weight_decay(mine, self.weight_decay),
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.nesterov,
                ns_steps=self.ns_steps,
                adjust_lr_fn=self.adjust,
            )
            parts.insert(0, muon)
        return without_dynamo(Together)(parts)


class Batched(torch.optim.Muon):
    """Its step costs as many products for all matrices of one shape as for one of them."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in (p for p in group["params"] if p.grad is not None):
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, alike in shapes.items():
                ranks = alike[0].device_mesh.size() if hasattr(alike[0], "device_mesh") else 1  # that share the work
                count = ranks * max(1, AT_ONCE // shape.numel())
                for first in range(0, len(alike), count):
                    self.move(alike[first : first + count], group)
        return loss

    def move(self, alike: list[Tensor], group: dict[str, Any]) -> None:
        """One step of parameters that have one shape."""
        gradients: list[Any] = [parameter.grad for parameter in alike]
        for parameter, gradient in zip(alike, gradients, strict=True):
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
        sums = [self.state[parameter]["momentum_buffer"] for parameter in alike]
        torch._foreach_lerp_(sums, gradients, 1 - group["momentum"])
        update: Any = torch.stack(sums)  # (N, A, B)
        if group["nesterov"]:
            update = torch.stack(gradients).lerp_(update, group["momentum"])

        places = getattr(update, "placements", None)  # a DTensor's, as under fsdp: each rank has a part of each matrix
        if places:  # and gets some of them whole: one exchange, not one for every product
            from torch.distributed.tensor import Shard

            update = update.redistribute(placements=[Shard(0) if place.is_shard() else place for place in places])
        update = orthogonal(update, group["ns_steps"], group["ns_coefficients"], group["eps"])
        update = update.to(alike[0].dtype, memory_format=torch.contiguous_format)  # else foreach goes one by one
        if places:
            update = update.redistribute(placements=places)

        A, B = alike[0].shape
        scale = 0.2 * math.sqrt(max(A, B)) if group["adjust_lr_fn"] == "match_rms_adamw" else math.sqrt(max(1, A / B))
        torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(alike, update.unbind(), alpha=-group["lr"] * scale)


def orthogonal(stack: Tensor, steps: int, coefficients: tuple[float, float, float], eps: float) -> Tensor:
    """Matrices (N, A, B) with their singular values brought near 1, by a quintic polynomial applied `steps` times."""
    a, b, c = coefficients
    x = stack.to(arithmetic(stack.device.type))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_(min=eps)  # no singular value is above 1
    is_tall = x.size(1) > x.size(2)
    x = x.mT if is_tall else x  # the products with itself are the smaller ones
    for _ in range(steps):
        square = x @ x.mT
        quartic = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, quartic, x, beta=a)
    return x.mT if is_tall else x


@cache
def arithmetic(device: str) -> torch.dtype:
    """Of the iterations: bf16 suffices them."""
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


class Together(torch.optim.Optimizer):
    """Several optimizers, each with parameters of its own, that look like one."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.share()

    def share(self) -> None:
        """One state and one list of groups, whichever way they are looked at or replaced."""
        first = 0
        for part in self.parts:
            part.state = self.state
            part.param_groups = self.param_groups[first : first + len(part.param_groups)]
            first += len(part.param_groups)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.share()
        for part in self.parts:
            part.__setstate__({"state": part.state, "param_groups": part.param_groups})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for part in self.parts:
            part.step()
        return loss

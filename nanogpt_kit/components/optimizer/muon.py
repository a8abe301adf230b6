"""Muon: momentum whose matrix is made nearly orthogonal, for the matrices; AdamW for everything else.

With `match_rms_adamw` its updates are as large as AdamW's usually are, so one learning rate serves both.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025 (Moonlight), arXiv:2502.16982,
for match_rms_adamw. The update is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch

from nanogpt_kit.api import Field, Optimizer, decayed, slot


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
            muon = torch.optim.Muon(
                decayed(mine, self.weight_decay),
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.nesterov,
                ns_steps=self.ns_steps,
                adjust_lr_fn=self.adjust,
            )
            parts.insert(0, muon)
        return Together(parts)


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
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss

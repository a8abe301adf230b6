"""Stochastic gradient descent with optional momentum.

Weight decay is added to the gradient, as in torch, so the momentum includes it.

Source: Robbins & Monro 1951; Sutskever et al. 2013, "On the importance of initialization and momentum".
"""

from __future__ import annotations

from typing import Annotated, Any

import torch

from nanogpt_kit.api import Field, Optimizer


class SGD(Optimizer):
    lr: float = Field(0.1, gt=0, description="peak learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="fraction of the last update that is added")
    nesterov: bool = Field(False, description="Nesterov momentum in place of the classical one")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of all parameters except vectors")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        groups = [{**group, "nesterov": self.nesterov} for group in self.with_weight_decay(groups, self.weight_decay)]
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)

    def state_copies(self) -> int:
        momenta = [self.momentum if group.momentum is None else group.momentum for group in self.group]
        return 1 if any([self.momentum, *momenta]) else 0
